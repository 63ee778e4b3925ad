"""Two workers that share a bucket and a rate: equal results, paid once, whichever of them dies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import boto3  # type: ignore[import-untyped]
import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.machines import BUCKET, SET_UP
from prefect_cometapi import holdings, portal
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT
from tests.machines import (
    DECIDE,
    descendants,
    last_manifests,
    made_by,
    most_in,
    text_of,
    told,
    write_table,
)
from tests.processes import ROOT, python, ran, wait_until, with_key
from tests.servers import closed_port

pytestmark = pytest.mark.slow
MANY = ROOT / "flows" / "many_machines.py"
#: How many creates may be sent at once, beside those of the rate.
AT_ONCE = 5


def at_work(scope: str, api: str) -> set[int]:
    """The processes that are at work on a scope's shards."""
    with temporary_settings({PREFECT_API_URL: api}):
        found = portal.call(holdings.holdings, scope)
    return {each.holder.pid for each in found if each.holder}


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """An S3 server in a process of its own; its value is its address."""
    port = closed_port()
    with running(tmp_path / "s3.log", "-c", "from moto.server import main; main()", f"-p{port}"):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url), "an S3 server")
        yield url


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def running(log: Path, *words: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these words, until the end of the block."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], stdout=out, stderr=out, **options
        )
    try:
        yield process
    finally:
        kill_all(process.pid)
        process.wait(30)


def kill_all(pid: int) -> None:
    """As when a machine goes: a process, and all that it has started."""
    for each in [pid, *descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def flow_run_of(pid: int) -> str:
    """The flow run that a process of a worker executes."""
    words = Path(f"/proc/{pid}/environ").read_text("utf-8").split("\0")
    [run] = [word.partition("=")[2] for word in words if word.startswith("PREFECT__FLOW_RUN_ID=")]
    return run


def mark_as_crashed(api: str, runs: list[str]) -> None:
    """What Prefect's automation for runs without heartbeats does, or a person."""
    for run in runs:
        state = {"type": "CRASHED", "message": "Its machine is gone."}
        httpx.post(
            f"{api}/flow_runs/{run}/set_state", json={"state": state, "force": True}
        ).raise_for_status()


def check_results(rows: int, s3: str, bucket: str) -> None:
    """Each row is saved once, by one shard."""
    client = boto3.client("s3", endpoint_url=s3, **BUCKET)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    names = [each["Key"] for page in pages for each in page["Contents"]]
    manifests = [each for each in names if "/manifest-" in each]
    items = last_manifests(
        (each, client.get_object(Bucket=bucket, Key=each)["Body"].read()) for each in manifests
    )
    assert {item.status for item in items.values()} == {"saved"}
    made = {key: item.files[0].sha256 for key, item in items.items()}
    texts = {f"row-{number}": text_of(number) for number in range(rows)}
    assert made == {key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}
    assert sum(each.endswith(".txt") for each in names) == rows


Then = Literal["its runs are marked as crashed", "the flow is run again"]


@pytest.mark.cometapi_simulator(run_time=1.0)
@pytest.mark.parametrize(
    ("rows", "then"),
    [
        pytest.param(200, "the flow is run again", marks=pytest.mark.long),
        pytest.param(200, "its runs are marked as crashed", marks=pytest.mark.long),
        pytest.param(1000, "its runs are marked as crashed", marks=pytest.mark.long),
    ],
)
def test_a_worker_that_is_killed_is_replaced(
    rows: int,
    then: Then,
    s3: str,
    postgres_environment: dict[str, str],
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    service, name, rate = cometapi_simulator, f"machines-{closed_port()}", max(8, rows // 25)
    environment = with_key(postgres_environment, service)
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    set_up = map(json.dumps, (str(ROOT), s3, BUCKET, name, AT_ONCE, rate))
    python("-c", SET_UP, *set_up, env=environment, seconds=300)
    table = write_table(tmp_path / "table.csv", rows)
    words = [MANY, "--table", table, "--scope", name, "--storage", f"block://s3-bucket/{name}"]
    words += ["--shards", "4", "--model", TEXT, "--limit", name, "--on", f"shard/{name}"]
    with ExitStack() as stack:

        def worker(machine: str) -> subprocess.Popen[bytes]:
            home = tmp_path / machine
            home.mkdir()
            return stack.enter_context(
                running(
                    tmp_path / f"{machine}.log",
                    *("-m", "prefect", "worker", "start", "--pool", name, "--limit", "2"),
                    env={**environment, "PREFECT_HOME": str(home)},
                    cwd=home,
                )
            )

        workers = [worker("one"), worker("other")]

        def theirs() -> list[set[int]]:
            busy = at_work(name, environment["PREFECT_API_URL"])
            return [set(descendants(each.pid)) & busy for each in workers]

        with running(tmp_path / "first.log", *words, env=environment, cwd=tmp_path) as first:
            wait_until(lambda: all(theirs()), "both are at work", seconds=300)
            wait_until(lambda: service.counts.creates >= rows * 0.4, "the middle", seconds=300)
            lost = [flow_run_of(each) for each in theirs()[0]]
            assert lost, "the first one has ended already"
            kill_all(workers[0].pid)
            worker("replacement")
            if then == "its runs are marked as crashed":
                mark_as_crashed(environment["PREFECT_API_URL"], lost)
                first.wait(300)
                assert "run-0002" in "".join(log.read_text() for log in tmp_path.glob("*.log"))
        in_doubt = ran(DECIDE, name, made_by(service), env=environment)
        assert len(in_doubt) < rows / 4
        again = python(*words, env=environment, cwd=tmp_path, seconds=400)
    assert again.stdout.count(" saved") == 4, again.stderr
    check_results(rows, s3, name)
    most = most_in(5.0, service)
    print(told(service, rows, len(in_doubt)), f"{most} creates within 5 s at most", sep=", ")
    assert service.counts.charged == rows
    # Slots that were given may be used for two seconds.
    assert most <= AT_ONCE + rate * (5.0 + 2.0)
