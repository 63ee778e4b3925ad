"""On a Dask cluster: no key travels, and all is paid for once, whichever process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_cometapi import CometAPICredentials, holdings, portal
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT
from tests.machines import DECIDE, last_manifests, made_by, text_of, told, write_table
from tests.processes import ROOT, python, ran, wait_until, with_key

pytest.importorskip("prefect_dask", reason="needs a Dask cluster: pip install prefect-dask")
pytestmark = pytest.mark.slow
MANY = ROOT / "flows" / "many_machines.py"
SCRIPT = ROOT / "tests" / "flows" / "on_dask.py"


@pytest.mark.parametrize("block", [None, "for-dask"], ids=["from the environment", "a saved block"])
def test_tasks_on_dask(
    block: str | None,
    prefect_environment: dict[str, str],
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    environment = with_key(prefect_environment, cometapi_simulator)
    words = [SCRIPT, tmp_path]
    if block:
        credentials = CometAPICredentials(
            api_key=cometapi_simulator.api_key, base_url=cometapi_simulator.url
        )
        credentials.save(block, overwrite=True)
        words.append(Path(block))
        del environment["COMETAPI_KEY"]
    done = python(*words, env=environment, cwd=ROOT)
    assert "4 files" in done.stdout, done.stderr
    assert len(list(tmp_path.glob("*.webp"))) == 4
    assert cometapi_simulator.counts.charged == 4
    assert cometapi_simulator.api_key not in done.stdout + done.stderr


@pytest.mark.cometapi_simulator(run_time=1.0)
@pytest.mark.parametrize("rows", [200, pytest.param(1000, marks=pytest.mark.long)])
def test_a_process_that_is_killed_is_replaced(
    rows: int,
    prefect_environment: dict[str, str],
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    scope, storage = f"killed-{cometapi_simulator.url}", tmp_path / "outputs"
    environment = with_key(prefect_environment, cometapi_simulator)
    table = write_table(tmp_path / "table.csv", rows)
    words: list[str | Path] = [MANY, "--table", table, "--storage", storage, "--scope", scope]
    words += ["--shards", "4", "--model", TEXT, "--on", "dask"]
    log = tmp_path / "log"
    with log.open("w") as out:
        running = subprocess.Popen(
            [sys.executable, *words], env=environment, cwd=tmp_path, stdout=out, stderr=out
        )
    try:
        service = cometapi_simulator
        wait_until(
            lambda: service.counts.creates > rows // 4 or running.poll() is not None, seconds=300
        )
        at_work = [each for each in portal.call(holdings.holdings, scope) if each.holder]
        assert at_work, log.read_text()
        holder = at_work[0].holder
        assert holder is not None
        assert holder.pid not in (os.getpid(), running.pid)
        os.kill(holder.pid, signal.SIGKILL)
        code = running.wait(300)
    finally:
        running.kill()
    said = log.read_text()
    in_doubt = ran(DECIDE, scope, made_by(cometapi_simulator), env=environment)
    assert "run-0002" in said, "nobody went on with its shard"
    assert code == bool(in_doubt), said
    assert len(in_doubt) < rows / 4
    done = python(*words, env=environment, cwd=tmp_path, seconds=300)
    assert done.stdout.count(" saved") == 4, done.stderr
    files = {str(path): path.read_bytes() for path in storage.rglob("manifest-*.jsonl")}
    items = last_manifests(files.items())
    assert sorted(items) == sorted(f"row-{number}" for number in range(rows))
    assert {item.status for item in items.values()} == {"saved"}
    texts = sorted(path.read_text() for path in storage.glob("*.txt"))
    assert texts == sorted(map(text_of, range(rows)))
    print(told(cometapi_simulator, rows, len(in_doubt)))
    assert cometapi_simulator.counts.charged == rows
    assert cometapi_simulator.api_key not in said + done.stdout + done.stderr
