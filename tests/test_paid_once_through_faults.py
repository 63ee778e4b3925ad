"""A fifth of all requests faulty, in every way: each prediction accounted for, none paid twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import SHARE, rates
from prefect_cometapi.simulator import FAULTS
from tests.processes import ROOT, python


def test_every_fault_of_every_request_has_its_share() -> None:
    shares = rates()
    for operation in ("create", "query", "file", "cancel", "prediction"):
        names = {fault.name for fault in FAULTS.values() if fault.operation == operation}
        assert names - shares.keys() <= {"create.200", "create.202"}
        own = sum(rate for name, rate in shares.items() if name in names)
        assert own == pytest.approx(SHARE)


@pytest.mark.long
def test_a_fifth_of_all_requests_faulty_and_then_run_again(tmp_path: Path) -> None:
    out = tmp_path / "account.json"
    script = ROOT / "benchmarks" / "faults.py"
    python(script, "--short", "--json", out, cwd=tmp_path, seconds=900)
    account: dict[str, Any] = json.loads(out.read_text())
    assert account["faulty"] > 0.1 * account["requests"]
    for found in (account["first"], account["second"]):
        assert found["accepted"] == found["logical"] + found["deliberate"]
        assert found["unasked"] == found["unnamed"] == 0
        assert sum(found["endings"].values()) == account["predictions"]
    assert account["second"]["endings"]["saved"] > account["first"]["endings"]["saved"]
