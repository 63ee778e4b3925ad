"""The reference has every public name, and troubleshooting an entry for every error."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from prefect_cometapi import errors, simulator
from tests.processes import ROOT
from tests.readme_tables import REFERENCE, with_tables

PUBLIC: list[str] = import_module("prefect_cometapi._public").__all__
ERRORS = [name for name in PUBLIC if isinstance(getattr(errors, name, None), type)]
#: Nobody raises these themselves.
BASES = {"CometAPIError", "RequestError", "PredictionError", "OutputError"}
PAGES = "\n".join(path.read_text("utf-8") for path in REFERENCE.glob("*.md"))
TROUBLES = dict(
    re.findall(
        r"^### (\w+)\n(.*?)(?=^##|\Z)",
        (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.mark.parametrize(("path", "text"), with_tables().items(), ids=lambda each: str(each)[-30:])
def test_the_tables_match_the_source(path: Path, text: str) -> None:
    assert path.read_text("utf-8") == text, "run: python tests/readme_tables.py"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name: str) -> None:
    shown = f"::: prefect_cometapi.{name}\n" in PAGES
    twin = f"`{name}`" in PAGES and (
        f"::: prefect_cometapi.{name.removeprefix('a')}\n" in PAGES
        or f"::: prefect_cometapi.a{name}\n" in PAGES
    )
    assert shown or twin


@pytest.mark.parametrize("name", simulator.__all__)
def test_a_name_of_the_simulator_is_there(name: str) -> None:
    assert f"prefect_cometapi.simulator.{name}" in PAGES


def test_there_are_errors() -> None:
    assert len(ERRORS) > 25


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_has_an_entry(name: str) -> None:
    entry = TROUBLES[name]
    assert "- **Cost:** " in entry or name in BASES
    assert "- **Do:** " in entry or name in BASES


def test_no_entry_is_of_an_error_that_there_is_not() -> None:
    assert set(TROUBLES) == set(ERRORS)
