"""Commands of shell blocks and of the text: what they consist of, and whether that exists."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import yaml

from prefect_cometapi import __main__ as ours
from prefect_cometapi.simulator import __main__ as simulator
from tests.docs.pages import pages, snippets
from tests.processes import ROOT

#: Programs of others, whose commands are not checked.
FOREIGN = {"docker", "helm", "kubectl", "mkdocs", ".", "export", ".ci/run"}
#: Deployments that pages make themselves.
MADE = {"shard/workers"}

Words = list[str]


def of_blocks() -> Iterator[tuple[str, Words]]:
    """Each command of a shell block, with where it stands."""
    for each in snippets("bash"):
        if "command" in each.marks and each.page != "README.md":
            continue  # a program, which a test of its own runs
        for words in commands(each.code):
            yield str(each), words


def of_text() -> Iterator[tuple[str, Words]]:
    """Each command that a sentence names: `prefect …`, `python …`, `ledger …`."""
    for path in pages():
        text = re.sub(
            r"^ *```.*?^ *```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
        )
        for code in re.findall(r"`((?:prefect|python|ledger|pip) [^`]+)`", text):
            full = code.replace("ledger ", "python -m prefect_cometapi ledger ", 1)
            for words in commands(full if code.startswith("ledger") else code):
                yield f"{path.relative_to(ROOT)}: {code}", words


def commands(code: str) -> Iterator[Words]:
    """The commands of a shell text, each as its words, without what is set for it in front."""
    for line in re.sub(r"\\\n", " ", code).split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: Words = []
        for word in [*lexer, ";"]:
            if not re.fullmatch("[&|;]+", word):
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def check(words: Words, *, whole: bool = True) -> None:
    """Fail where a command names something that does not exist.

    Args:
        words: The command.
        whole: Everything that it needs has to be there, too; a sentence may leave it out.
    """
    try:
        _check(words)
    except Incomplete:
        if whole:
            raise


class Incomplete(Exception):
    """An argument is missing."""


def _check(words: Words) -> None:
    program, *rest = words
    if program in FOREIGN:
        return
    program = program.rpartition("/")[2]
    checks: dict[str, Callable[[Words], None]] = {
        "python": _python,
        "python3": _python,
        "prefect": _prefect,
        "pip": _pip,
        "pytest": _pytest,
    }
    assert program in checks, f"nobody knows how to check {program}"
    checks[program](rest)


def _python(words: Words) -> None:
    if words[0] == "-m":
        modules: dict[str, Callable[[Words], object]] = {
            "prefect_cometapi": lambda rest: _parse(ours._parser(), rest),
            "prefect_cometapi.simulator": lambda rest: _parse(simulator._parser(), rest),
            "pip": _pip,
            "pytest": _pytest,
            "venv": lambda rest: None,
        }
        modules[words[1]](words[2:])
        return
    script, *rest = words
    if "…" in script:
        return
    if any(each.title == script for each in snippets("python")):  # which a page has the reader save
        return
    assert (ROOT / script).is_file(), f"there is no {script}"
    if rest and not script.startswith("tests/"):
        _parse(_parser_of(script), rest)


def _parse(parser: argparse.ArgumentParser, words: Words) -> None:
    def error(parser: argparse.ArgumentParser, message: str) -> None:
        kind = Incomplete if message.startswith("the following arguments are required") else None
        raise (kind or AssertionError)(f"{parser.prog}: {message}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "error", error)
        parser.parse_args(_without_dots(words))


def _without_dots(words: Words) -> Words:
    """Without dots that stand for more words; those that stand for a value stay."""
    before = ["", *words]
    return [
        word for last, word in zip(before, words, strict=False) if word != "…" or last[:1] == "-"
    ]


def _parser_of(script: str) -> argparse.ArgumentParser:
    """The parser that a script's `main` makes, without running the rest of it."""

    class Made(BaseException):
        """It is there."""

    def caught(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Made(parser)

    main = import_module(script.removesuffix(".py").replace("/", ".")).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", caught)
        with pytest.raises(Made) as made:
            main()
    parser: argparse.ArgumentParser = made.value.args[0]
    return parser


def _prefect(words: Words) -> None:
    from cyclopts import CycloptsError, MissingArgumentError
    from prefect.cli._app import _app

    words = [word for word in _without_dots(words) if word != "--no-prompt"]
    try:
        command, *_ = _app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        kind = Incomplete if isinstance(error, MissingArgumentError) else AssertionError
        raise kind(f"prefect {shlex.join(words)}: {error}") from None
    assert command.__name__ != "help_print", f"prefect {shlex.join(words)} only prints its help"
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    if words[0] == "deploy" and "--name" in words and len(words) == 3:
        assert words[2] in {each["name"] for each in deployments}
    if words[:2] == ["deployment", "run"]:
        named = {f"{_flow_name(each['entrypoint'])}/{each['name']}" for each in deployments}
        assert words[2] in named | MADE


def _flow_name(entrypoint: str) -> str:
    path, _, function = entrypoint.partition(":")
    module = import_module(path.removesuffix(".py").replace("/", "."))
    return str(getattr(module, function).name)


def _pip(words: Words) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in words:
        if named := re.search(r"^(\.|prefect-cometapi|path/to/clone)\[(.+)\]", word):
            assert set(named[2].split(",")) <= set(extras), word
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), word


def _pytest(words: Words) -> None:
    for word in words:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), word
