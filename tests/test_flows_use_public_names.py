"""The example flows are for copying: each is one short file that uses public names alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import prefect_cometapi
from prefect_cometapi import InvalidInput, StorageError, check_storage, simulator, write_text
from tests.processes import ROOT

FLOWS = sorted((ROOT / "flows").glob("*.py"))
EACH = pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
PUBLIC = {
    "prefect_cometapi": {*prefect_cometapi.__all__, "simulator"},
    "prefect_cometapi.simulator": set(simulator.__all__),
}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """What a file imports: modules, and names of them."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", each.name) for each in node.names)


@EACH
def test_it_imports_public_names_alone(path: Path) -> None:
    ours = [
        (module, name)
        for module, name in imported(path)
        if module.startswith(("prefect_comet", "flows"))
    ]
    assert ours
    for module, name in ours:
        assert name in PUBLIC.get(module, ()), f"{module}: {name}"


@EACH
def test_it_is_read_in_ten_minutes(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@EACH
def test_it_says_what_it_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    with pytest.raises(SystemExit, match="0"):
        import_module(f"flows.{path.stem}").main()
    assert "usage:" in capsys.readouterr().out


def test_a_file_of_ones_own_in_any_storage(tmp_path: Path) -> None:
    check_storage(tmp_path / "pictures", "today")
    where = write_text(tmp_path / "pictures", "today/index.html", "Hello")
    assert Path(where).read_text("utf-8") == "Hello"
    with pytest.raises(InvalidInput, match="is a URL"):
        check_storage("s3://bucket/pictures")
    with pytest.raises(StorageError, match="Nothing was sent"):
        check_storage(Path(where) / "below")
