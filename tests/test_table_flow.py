"""`flows/table.py`: a table of prompts in, a table of pictures out, no row paid for twice, and rows
that are not in order told one by one."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.table import main, table
from prefect_cometapi import BatchResult, InvalidInput
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT
from tests.processes import ROOT, python

SCRIPT = ROOT / "flows" / "table.py"


@pytest.fixture
def folder(
    prefect_server: None,
    cometapi_simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Where the flow runs in this process."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(content: str | bytes, **more: Any) -> BatchResult:
    """A run with a table of this content."""
    path = Path("mine.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    parameters: dict[str, Any] = {"table": str(path), "model": TEXT, **more}
    # Of sync flows, Prefect waits a second for the thread that sends heartbeats.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        result: BatchResult = table.with_options(retries=0)(**parameters)
    return result


def results(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("pictures/products/results-*.csv")
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


@pytest.mark.slow
def test_without_a_key_it_draws_stand_ins_and_says_so(
    prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    done = python(SCRIPT, env=prefect_environment, cwd=tmp_path, seconds=300)
    assert done.stdout.splitlines()[0].startswith("No COMETAPI_KEY is set: the simulator")
    wanted = list(csv.DictReader((ROOT / "flows" / "table.csv").open(encoding="utf-8")))
    rows = results(tmp_path)
    assert [row["id"] for row in rows] == [row["id"] for row in wanted]
    for row in rows:
        assert row["status"] == "saved"
        assert hashlib.sha256(Path(row["file"]).read_bytes()).hexdigest() == row["sha256"]


def test_a_grown_table_pays_for_its_new_rows_alone(
    folder: Path, cometapi_simulator: Simulator
) -> None:
    for rows in (3, 5):
        lines = [f"row-{number},Boat number {number}" for number in range(rows)]
        scope = f"boats {cometapi_simulator.url}"
        assert run("\n".join(["id,prompt", *lines]), scope=scope).summary == f"{rows} saved"
    assert cometapi_simulator.counts.charged == 5


BAD = 'id,prompt\na,A boat\n,No id\nc\nd,""\ne,"A boat, quoted"\nf,A boat, not quoted\ng,\n'
MENDED = 'id,prompt\na,A boat\nb,No id\nc,Short\nd,Empty\ne,"A boat, quoted"\nf,"A boat"\ng,G\n'


def test_rows_that_are_not_in_order_are_told_alone_and_made_when_they_are(
    folder: Path, cometapi_simulator: Simulator
) -> None:
    scope = f"boats {cometapi_simulator.url}"
    assert run(BAD, scope=scope, allow_failures=0.8).summary == "2 saved, 5 refused"
    rows = results(folder)
    assert [row["row"] for row in rows] == list("0123456")
    assert [row["id"] for row in rows] == ["a", "", "c", "d", "e", "f", "g"]
    assert {row["id"] for row in rows if row["status"] == "saved"} == {"a", "e"}
    assert "Row 1: its column 'id', which is the key, is empty" in rows[1]["error"]
    assert "Row 2 (id 'c')" in rows[2]["error"]
    assert "which the row leaves empty" in rows[3]["error"]
    assert "it has: id, more cells than columns" in rows[5]["error"]
    assert cometapi_simulator.counts.creates == 2
    assert run(MENDED, scope=scope).summary == "7 saved"
    assert cometapi_simulator.counts.charged == 7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,prompt\na,A boat\n", "lacks the column id; it has: name, prompt"),
        ("id;prompt\na;A boat\n", "lacks the column id and prompt; it has: id;prompt"),
        ("id,prompt\n", "has no rows"),
        ("", "lacks the column id and prompt; it has: nothing"),
        (b"id,prompt\na,A \xff boat\n", "can not be read as CSV in UTF-8"),
        ('id,prompt\na,"A boat\n', "can not be read as CSV in UTF-8: unexpected end of data"),
    ],
)
def test_a_table_that_is_none_is_refused_for_free(
    content: str | bytes, said: str, folder: Path, cometapi_simulator: Simulator
) -> None:
    with pytest.raises(InvalidInput, match=said):
        run(content)
    assert not cometapi_simulator.requests


@pytest.mark.parametrize("scope", [" ", "x" * 201])
def test_a_scope_that_can_be_none_is_told_in_a_line(
    scope: str,
    folder: Path,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["table.py", "--scope", scope])
    assert main() == 1
    assert "scope: String should" in capsys.readouterr().err
    assert not cometapi_simulator.requests


def test_each_picture_says_where_it_is_from(folder: Path) -> None:
    result = run("id,prompt\na,A boat\n", provenance=True)
    (item,) = result.items
    beside = json.loads(Path(f"{item.files[0].location}.provenance.json").read_text("utf-8"))
    assert beside["key"] == "a"
    assert beside["origin"] == {"kind": "template", "template": "{{ prompt }}", "row": 0}
