"""The README's tables of settings and errors, made from the source.

python tests/readme_tables.py        writes them into README.md
"""

from __future__ import annotations

import re
from pathlib import Path

from prefect_cometapi import errors
from prefect_cometapi.settings import CometAPISettings

README = Path(__file__).parent.parent / "README.md"


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

    def add(kind: type[errors.CometAPIError], depth: int) -> None:
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        rows.append(f"| {'&emsp;' * depth}`{kind.__name__}` | {meaning} |")
        for child in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
            add(child, depth + 1)

    add(errors.CometAPIError, 0)
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """The README's text with both tables as they should be."""
    for name, table in (("settings", settings_table()), ("errors", errors_table())):
        text, found = re.subn(
            rf"(<!-- table: {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
        assert found == 1, f"the README has no place for the table of {name}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
