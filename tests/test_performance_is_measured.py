"""One command measures this package beside others, and says what was reached."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from benchmarks.stand_in import Options, stand_in
from tests.processes import ROOT, python


def test_the_stand_in_counts_what_it_is_asked_and_when_it_told() -> None:
    with (
        stand_in(Options(median=0.2, sigma=0.0, file_bytes=5000)) as service,
        httpx.Client(base_url=service.url) as http,
    ):
        made = http.post("/replicate/v1/models/a/b/predictions", json={"input": {"x": 1}}).json()
        assert (made["status"], made["input"]) == ("processing", {"x": 1})
        while made["status"] != "succeeded":
            made = http.get(f"/replicate/v1/predictions/{made['id']}").json()
        assert len(http.get(made["output"][0]).content) == 5000
        stats = service.stats()
        known = stats["predictions"][made["id"]]
        assert known["completed"] - known["created"] == pytest.approx(0.2)
        assert known["noticed"] >= known["completed"]
        assert (stats["creates"], stats["files"], stats["connections"]) == (1, 1, 1)
        assert stats["polls"] == known["polls"] > 0
        service.reset()
        assert service.stats()["predictions"] == {}


def test_the_stand_in_draws_the_same_run_times_again() -> None:
    def drawn() -> list[float]:
        with stand_in(Options(seed=7)) as service, httpx.Client(base_url=service.url) as http:
            for _ in range(5):
                http.post("/replicate/v1/models/a/median-3/predictions", json={"input": {}})
            known = service.stats()["predictions"].values()
        return [each["completed"] - each["created"] for each in known]

    first = drawn()
    assert len(set(first)) == 5
    assert drawn() == pytest.approx(first, abs=1e-5)


def test_polls_may_be_slow_or_hang() -> None:
    slow = Options(delay=0.1, hang_share=1.0, hang=30.0)
    with stand_in(slow) as service, httpx.Client(base_url=service.url) as http:
        reply = http.post("/replicate/v1/models/a/b/predictions", json={"input": {}})
        assert reply.elapsed.total_seconds() >= 0.1
        with pytest.raises(httpx.ReadTimeout):
            http.get(f"/replicate/v1/predictions/{reply.json()['id']}", timeout=0.5)
        assert service.stats()["hung"] == 1


@pytest.mark.long
def test_everything_is_measured_with_one_command(tmp_path: Path) -> None:
    out = tmp_path / "measured.json"
    script = ROOT / "benchmarks" / "performance.py"
    # Not the imports, which need an environment of their own; and so little that much is missed.
    words = [f"--only={name}" for name in ("flights", "hanging", "long", "tasks", "files", "small")]
    done = python(
        script, "--size", "tiny", "--json", out, *words, code=None, cwd=tmp_path, seconds=600
    )
    assert out.exists(), done.stderr
    measured = json.loads(out.read_text())
    rows = [row for found in measured["rows"].values() for row in found]
    assert len(rows) >= 20, done.stderr
    for row in rows:
        assert row["ours"] > 0, row
        assert row["name"] in done.stdout
    flights = {name: runs for name, runs in measured["raw"].items() if "in flight" in name}
    assert flights
    assert [run["error"] for runs in flights.values() for run in runs if run["errors"]] == []
