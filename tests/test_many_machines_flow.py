"""`flows/many_machines.py` in threads: each row is in one shard, is paid once, and told once where
it is not in order. On Dask and on workers: test_dask.py and test_two_workers.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.many_machines import many_machines, task_runner
from prefect_cometapi import CometAPIError, InvalidInput
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT
from tests.machines import last_manifests, write_table


@pytest.fixture(autouse=True)
def _here(prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(table: Path, **more: Any) -> list[str]:
    parameters = {"table": str(table), "model": TEXT, "shards": 3, **more}
    # Of sync flows, Prefect waits a second for the thread that sends heartbeats.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        flow = many_machines.with_options(retries=0, task_runner=task_runner("threads", 3))
        told: list[str] = flow(**parameters)
    return told


def test_each_row_is_made_once_and_what_is_not_in_order_is_told_once(
    cometapi_simulator: Simulator,
) -> None:
    table, scope = write_table(Path("table.csv"), 60), f"boats {cometapi_simulator.url}"
    good = table.read_text("utf-8")
    table.write_text(f"{good}\nshort\n", "utf-8")
    told = run(table, scope=scope)
    assert sum(" 1 refused" in each for each in told) == 1
    files = {str(path): path.read_bytes() for path in Path("pictures").rglob("manifest-*.jsonl")}
    items = last_manifests(files.items())
    assert [key for key, item in items.items() if item.status != "saved"] == ["short"]
    assert cometapi_simulator.counts.charged == 60
    # The same again, with the row put in order.
    table.write_text(f"{good}\nshort,No more\n", "utf-8")
    assert not any("refused" in each for each in run(table, scope=scope))
    assert cometapi_simulator.counts.charged == 61


def test_shards_that_go_wrong_are_told_and_the_flow_fails(cometapi_simulator: Simulator) -> None:
    cometapi_simulator.set_fault("prediction.failed", 1.0)
    with pytest.raises(CometAPIError, match="3 of 3 shards went wrong"):
        run(write_table(Path("table.csv"), 9))


def test_a_table_that_is_none_is_refused_for_free(cometapi_simulator: Simulator) -> None:
    Path("table.csv").write_text("name,prompt\n", "utf-8")
    with pytest.raises(InvalidInput, match="lacks the column id; it has: name, prompt"):
        run(Path("table.csv"))
    assert not cometapi_simulator.requests
