"""Killed at each boundary, marked as crashed, retried: paid once, nothing lost, no half files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.boundaries import NAMES
from tests.processes import ROOT, python


@pytest.mark.slow
def test_sigkill_at_each_boundary_and_a_retry_pay_once(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    script = ROOT / "benchmarks" / "crashes.py"
    python(script, "--short", "--json", out, cwd=tmp_path, seconds=900)
    rows = json.loads(out.read_text())
    assert [row["boundary"] for row in rows] == list(NAMES)
    for row in rows:
        assert row["charged"] == row["predictions"] == row["finished"] + row["finished then"]
        assert row["creates"] <= row["predictions"] + row["resubmitted"], row
        assert row["lost"] == row["half files"] == 0
    by_name = {row["boundary"]: row for row in rows}
    # What certainly was not sent, or is known by its id, is nobody's question.
    for name in ("before intent", "mid-download", "file in place but result unstored"):
        assert by_name[name]["in doubt"] == 0
    assert by_name["POST sent"]["resubmitted"] == 1
    assert by_name["accepted but unread"]["adopted"] == 1
