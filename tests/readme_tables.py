"""The tables of settings, errors and commands in the reference, made from the source.

python tests/readme_tables.py        writes them into the pages
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from prefect_cometapi import __main__ as command
from prefect_cometapi import errors
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.simulator import FAULTS
from prefect_cometapi.simulator import __main__ as simulator
from prefect_cometapi.simulator.catalogue import CATALOGUE

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
#: What models of the simulator make, in words.
OUTPUTS = {
    "urls": "list of URLs",
    "url": "one URL",
    "object": "an object with URLs inside",
    "tokens": "list of text tokens",
    "text": "one text",
    "number": "a number",
    "data": "a picture in a `data:` URI",
    "null": "null",
}


def settings_table() -> str:
    """A row for each setting: its variable, default and meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in CometAPISettings.model_fields.items():
        vendors = {"api_key": "COMETAPI_KEY", "base_url": "COMETAPI_BASE_URL"}
        variable = vendors.get(name, f"PREFECT_INTEGRATIONS_COMETAPI_{name.upper()}")
        default = field.get_default(call_default_factory=True)
        default = "none" if default in (None, "", {}) else default
        rows.append(f"| `{variable}` | {default} | {field.description} |")
    return "\n".join(rows)


def errors_table() -> str:
    """A row for each error, indented as in the tree."""
    rows = ["| error | meaning |", "|---|---|"]
    for kind, depth in _errors():
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        name = f"[`{kind.__name__}`](../troubleshooting.md#{kind.__name__.lower()})"
        rows.append(f"| {'&emsp;' * depth}{name} | {meaning} |")
    return "\n".join(rows)


def error_classes() -> str:
    """Each of them, for mkdocstrings: its attributes, and a place for links to lead to."""
    return "\n\n".join(
        f"::: prefect_cometapi.{kind.__name__}\n    options: {{ heading_level: 3 }}"
        for kind, _ in _errors()
    )


def _errors(
    kind: type[errors.CometAPIError] = errors.CometAPIError, depth: int = 0
) -> Iterator[tuple[type[errors.CometAPIError], int]]:
    yield kind, depth
    for child in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
        yield from _errors(child, depth + 1)


def commands() -> str:
    """A section for each command, with a row for each of its options."""
    sections = []
    for words, parser in _commands("", command._parser()):
        sections.append(f"### {words}\n\n{parser.description}\n\n{_options(parser)}")
    return "\n\n".join(sections)


def simulator_options() -> str:
    """A row for each option of the simulator."""
    return _options(simulator._parser())


def faults() -> str:
    """A row for each way in which the simulator can misbehave."""
    rows = ["| fault | what happens |", "|---|---|"]
    rows += [f"| `{fault.name}` | {fault.text} |" for fault in FAULTS.values()]
    return "\n".join(rows)


def models() -> str:
    """A row for each model that the simulator knows."""
    rows = ["| model | median run time | output |", "|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.median:g} s | {OUTPUTS[each.output]} |"
        for each in CATALOGUE.values()
    ]
    return "\n".join(rows)


def _commands(
    words: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for action in inner:
        for name, child in action.choices.items():
            yield from _commands(f"{words} {name}".strip(), child)
    if not inner:
        yield words, parser


def _options(parser: argparse.ArgumentParser) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    for each in parser._actions:
        if isinstance(each, argparse._HelpAction):
            continue
        value = f" {each.metavar or each.dest.upper()}" if each.nargs != 0 else ""
        name = each.option_strings[0] + value if each.option_strings else value.strip()
        meaning = ((each.help or "") % vars(each)).replace("<", "&lt;")
        rows.append(f"| `{name.replace('|', ' or ')}` | {meaning} |")
    return "\n".join(rows)


#: Where each table is: in the page, between two comments.
TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("settings.md", settings_table),
    "errors": ("errors.md", errors_table),
    "error classes": ("errors.md", error_classes),
    "commands": ("command-line.md", commands),
    "simulator options": ("command-line.md", simulator_options),
    "models": ("simulator.md", models),
    "faults": ("simulator.md", faults),
}


def with_tables() -> dict[Path, str]:
    """The text of each page, with its tables as they should be."""
    pages: dict[Path, str] = {}
    for name, (page, table) in TABLES.items():
        path = REFERENCE / page
        text, found = re.subn(
            rf"(<!-- table: {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}\n{table()}\n\n{match[2]}",  # type: ignore[misc]
            pages.get(path) or path.read_text("utf-8"),
            flags=re.DOTALL,
        )
        assert found == 1, f"{page} has no place for the table of {name}"
        pages[path] = text
    return pages


if __name__ == "__main__":
    for path, text in with_tables().items():
        path.write_text(text, "utf-8")
