"""Killed at each boundary, marked as crashed, retried: paid once, nothing lost, no half files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.boundaries import NAMES

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_sigkill_at_each_boundary_and_a_retry_pay_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "crashes.py"), "--short"),
            *("--json", str(tmp_path / "rows.json")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
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
