"""The reference has every public name, and troubleshooting an entry for every error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import prefect_cometapi
from prefect_cometapi import errors, simulator
from tests.processes import ROOT
from tests.readme_tables import REFERENCE, with_tables

PUBLIC: list[str] = import_module("prefect_cometapi._public").__all__
ERRORS = [name for name in PUBLIC if isinstance(getattr(errors, name, None), type)]
MODELS = [
    name
    for name in PUBLIC
    if isinstance(kind := getattr(prefect_cometapi, name), type) and issubclass(kind, BaseModel)
]
#: Nobody raises these themselves.
BASES = {"CometAPIError", "RequestError", "PredictionError", "OutputError"}
PAGES = "\n".join(path.read_text("utf-8") for path in REFERENCE.glob("*.md"))
MODELS_PAGE = (REFERENCE / "models.md").read_text("utf-8")
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


def classes_in(annotation: object) -> Iterator[type]:
    """The classes that an annotation names, wherever in it."""
    if isinstance(annotation, type):
        yield annotation
    for each in get_args(annotation):
        yield from classes_in(each)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_public_model_holds_is_public(name: str) -> None:
    for field in getattr(prefect_cometapi, name).model_fields.values():
        ours = [
            each.__name__
            for each in classes_in(field.annotation)
            if each.__module__.startswith("prefect_cometapi")
        ]
        assert {*ours} <= {*PUBLIC}


@pytest.mark.parametrize(
    "name", re.findall(r"^::: prefect_cometapi\.(\w+)", MODELS_PAGE, re.MULTILINE)
)
def test_a_field_of_a_model_says_what_it_is(name: str) -> None:
    fields = getattr(getattr(prefect_cometapi, name), "model_fields", {})
    assert [field for field, about in fields.items() if not about.description] == []


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
