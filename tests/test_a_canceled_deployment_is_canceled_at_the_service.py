"""Cancel in the UI cancels what a deployed run waits for; the eviction of its process does not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, PredictionStatus, portal
from prefect_cometapi.ledger import Outcome, Record, run_scope
from prefect_cometapi.records import open_ledger
from prefect_cometapi.simulator import Simulator
from tests.processes import ROOT, wait_until, with_key
from tests.stopping import SHAPES, Process, flow_processes, is_pending, started

EACH_SHAPE = pytest.mark.parametrize(
    ("shape", "number"),
    [
        ("sync_submit", 3),
        ("async_gather", 3),
        *(
            pytest.param(shape, number, marks=pytest.mark.long)
            for shape, number in (
                ("sync_direct", 1),
                ("sync_map", 3),
                ("sync_subflow", 1),
                ("async_direct", 1),
                ("async_subflow", 1),
            )
        ),
    ],
)
#: Prefect 3.6 calls a canceled async run Crashed.
CALLED_CRASHED = find_spec("prefect._internal.control_listener") is None
ENDED = ("CANCELLED", "CRASHED", "FAILED", "COMPLETED")
pytestmark = [pytest.mark.slow, pytest.mark.cometapi_simulator(run_time=1000.0)]


class Patient(httpx.HTTPTransport):
    """Asks again while SQLite is busy."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(100):
            response = super().handle_request(request)
            if response.status_code != 503:
                break
            response.close()
            time.sleep(0.3)
        return response


class Run:
    """A run of a deployment: its runner, its own process, and what the server says of it."""

    def __init__(self, api: httpx.Client, runner: Process, deployment: str, **parameters: str):
        self.api, self.runner = api, runner
        created = api.post(
            f"deployments/{deployment}/create_flow_run", json={"parameters": parameters}
        )
        self.id = str(created.raise_for_status().json()["id"])

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"flow_runs/{self.id}").json()["state"]
        return found

    @property
    def process(self) -> int:
        """The process that runs the flow."""
        (found,) = flow_processes(self.runner.pid)
        return found

    def wait_for(self, service: Simulator, number: int) -> None:
        """Wait until it waits for all of its predictions."""
        wait_until(lambda: service.counts.polls >= 2 * number, what="waiting")
        wait_until(lambda: len(self.records()) == number)
        assert service.counts.creates == number

    def cancel(self) -> None:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.api.post(f"flow_runs/{self.id}/set_state", json={"state": state}).raise_for_status()

    def ended(self) -> str:
        wait_until(lambda: self.state["type"] in ENDED, what="the end of the run")
        return str(self.state["type"])

    def records(self) -> list[Record]:
        found = portal.call(open_ledger("prefect-server").records, run_scope(self.id))
        return [record for record in found.values() if record and record.prediction_id]


class Deployments:
    """Serves shapes, and starts runs of them."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.api = httpx.Client(
            base_url=environment["PREFECT_API_URL"] + "/", timeout=90, transport=Patient()
        )

    def found(self, shape: str, name: str) -> str | None:
        reply = self.api.get(f"deployments/name/{shape.replace('_', '-')}/{name}")
        return str(reply.json()["id"]) if reply.is_success else None

    @contextmanager
    def served(self, shape: str, **parameters: str) -> Iterator[Run]:
        """A run that `flow.serve()` has been given."""
        name = f"served-{uuid4().hex[:12]}"
        log = self.folder / f"{name}.log"
        with started(str(SHAPES), "serve", shape, name, environment=self.environment, log=log) as p:
            wait_until(lambda: self.found(shape, name), what="the deployment")
            storage = str(self.folder / "pictures")
            yield Run(self.api, p, str(self.found(shape, name)), storage=storage, **parameters)

    @contextmanager
    def worked(self, shape: str) -> Iterator[Run]:
        """A run that a process worker has taken up."""
        pytest.importorskip("prefect.workers.process", reason="this Prefect has no worker here")
        name = f"worked-{uuid4().hex[:12]}"
        self.api.post("work_pools/", json={"name": name, "type": "process"}).raise_for_status()
        from_source: Any = flow.from_source(
            source=str(ROOT), entrypoint=f"tests/flows/shapes.py:{shape}"
        )
        from_source.deploy(name, work_pool_name=name, ignore_warnings=True, print_next_steps=False)
        words = ("-m", "prefect", "worker", "start", "--pool", name)
        log = self.folder / f"{name}.log"
        with started(*words, environment=self.environment, log=log) as worker:
            storage = str(self.folder / "pictures")
            yield Run(self.api, worker, str(self.found(shape, name)), storage=storage)


@pytest.fixture
def deployments(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> Iterator[Deployments]:
    more = {
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment = with_key(prefect_environment, cometapi_simulator)
    deployments = Deployments(environment | more, tmp_path)
    yield deployments
    deployments.api.close()


def statuses(service: Simulator) -> set[str]:
    return {each.status for each in service.predictions.values()}


# --- canceled ---------------------------------------------------------------------------------


@EACH_SHAPE
def test_a_canceled_run_cancels_every_prediction_once(
    shape: str, number: int, deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    with deployments.served(shape) as run:
        run.wait_for(cometapi_simulator, number)
        run.cancel()
        # Well before the runner would kill it: also in threads, which no signal reaches.
        wait_until(lambda: cometapi_simulator.counts.cancels == number, "the cancel", seconds=15)
        assert run.ended() == "CANCELLED" or CALLED_CRASHED
        assert statuses(cometapi_simulator) == {"canceled"}
        assert cometapi_simulator.counts.cancels == number
        assert {record.outcome for record in run.records()} == {Outcome.STOPPED}
        assert run.runner.running()


def test_a_canceled_run_of_a_worker(
    deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    with deployments.worked("sync_submit") as run:
        run.wait_for(cometapi_simulator, 3)
        run.cancel()
        assert run.ended() == "CANCELLED"
        assert statuses(cometapi_simulator) == {"canceled"}
        assert cometapi_simulator.counts.cancels == 3


def test_the_hook_cancels_what_nobody_waits_for(
    deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    with deployments.served("waits_elsewhere") as run:
        wait_until(run.records, what="a record")
        run.cancel()
        assert run.ended() == "CANCELLED"
        assert cometapi_simulator.counts.cancels == 1


def test_the_hook_cancels_for_a_process_that_was_killed(
    deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    # With credentials of a saved block: the runner's environment has no key.
    name = f"saved-{uuid4().hex[:12]}"
    key = SecretStr(cometapi_simulator.api_key)
    CometAPICredentials(api_key=key, base_url=cometapi_simulator.url).save(name)
    del deployments.environment["COMETAPI_KEY"], deployments.environment["COMETAPI_BASE_URL"]
    with deployments.served("saved_block", block=name) as run:
        run.wait_for(cometapi_simulator, 1)
        process = run.process
        os.kill(process, signal.SIGSTOP)
        run.cancel()
        wait_until(lambda: is_pending(process, signal.SIGTERM), what="SIGTERM")
        assert cometapi_simulator.counts.cancels == 0
        os.kill(process, signal.SIGKILL)  # as the runner does half a minute later
        assert run.ended() == "CANCELLED"
        assert cometapi_simulator.counts.cancels == 1
        (record,) = run.records()
        assert record.outcome is Outcome.STOPPED


def test_ctrl_c_on_what_serves_it_is_a_person(
    deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    with deployments.served("sync_submit") as run:
        run.wait_for(cometapi_simulator, 3)
        os.killpg(run.runner.pid, signal.SIGINT)  # as a terminal does
        wait_until(lambda: cometapi_simulator.counts.cancels == 3, "the cancel", seconds=15)
        run.ended()
        assert cometapi_simulator.counts.cancels == 3


# --- evicted ----------------------------------------------------------------------------------


def check_that_it_goes_on(run: Run, service: Simulator, number: int) -> None:
    assert service.counts.cancels == 0
    assert statuses(service) <= {PredictionStatus.STARTING, PredictionStatus.PROCESSING}
    assert len(run.records()) == number
    assert all(record.outcome is None for record in run.records())


@EACH_SHAPE
def test_an_evicted_run_cancels_nothing(
    shape: str, number: int, deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    with deployments.served(shape) as run:
        run.wait_for(cometapi_simulator, number)
        os.kill(run.process, signal.SIGTERM)
        wait_until(lambda: not flow_processes(run.runner.pid), "the end of the process", seconds=25)
        assert run.ended() == "CRASHED"
        wait_until(lambda: run.runner.said.count("It is not canceled") == number, seconds=5)
        check_that_it_goes_on(run, cometapi_simulator, number)


@pytest.mark.parametrize(
    ("how", "whom"),
    [
        ("worked", "the runner"),
        ("served", "everybody"),
        pytest.param("served", "the runner", marks=pytest.mark.long),
        pytest.param("worked", "everybody", marks=pytest.mark.long),
    ],
)
def test_an_evicted_pod_cancels_nothing(
    how: str, whom: str, deployments: Deployments, cometapi_simulator: Simulator
) -> None:
    with getattr(deployments, how)("sync_submit") as run:
        run.wait_for(cometapi_simulator, 3)
        if whom == "everybody":
            os.killpg(run.runner.pid, signal.SIGTERM)
        else:
            run.runner.send(signal.SIGTERM)
        # What becomes of the processes is for Prefect to say: what is left is killed in the end.
        with suppress(AssertionError):
            wait_until(lambda: not flow_processes(run.runner.pid), seconds=15)
        with suppress(ProcessLookupError):
            os.killpg(run.runner.pid, signal.SIGKILL)
        check_that_it_goes_on(run, cometapi_simulator, 3)
