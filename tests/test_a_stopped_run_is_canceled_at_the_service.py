"""Ctrl-C cancels what a script waits for, whatever its shape; SIGTERM alone leaves it running."""

from __future__ import annotations

import asyncio
import inspect
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    PredictionCanceled,
    PredictionTimeout,
    agenerate,
    create_prediction,
    generate,
    portal,
)
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.records import open_ledger
from prefect_cometapi.simulator import Simulator
from tests.flows import shapes
from tests.flows.shapes import INPUTS, MODEL
from tests.processes import wait_until
from tests.servers import Answer, Request, prediction, reply, serve
from tests.stopping import SHAPES, Process, Relay, started

#: The shapes, and how many predictions each waits for.
IN_THREADS = {"sync_submit": 3, "sync_submit_async_task": 3, "sync_map": 3, "async_map": 3}
DIRECT = {
    "sync_direct": 1,
    "sync_create_then_poll": 1,
    "sync_job": 1,
    "sync_subflow": 1,
    "sync_task_in_task": 1,
    "async_direct": 1,
    "async_gather": 3,
    "async_job": 1,
    "async_subflow": 1,
    "async_calls_sync": 1,
}
QUICK = ("sync_direct", "sync_submit", "async_direct", "async_gather")
EACH_SHAPE = pytest.mark.parametrize(
    ("shape", "number"),
    [
        pytest.param(shape, number, marks=[] if shape in QUICK else pytest.mark.long)
        for shape, number in (DIRECT | IN_THREADS).items()
    ],
)


class Clock:
    """The simulator's time: predictions run until a test lets them end."""

    offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


CLOCK = Clock()
ENDLESS = {"run_time": 1000.0, "output_ttl": 1e9, "clock": CLOCK}
pytestmark = [pytest.mark.slow, pytest.mark.cometapi_simulator(**ENDLESS)]


class Scripts:
    """Starts shapes as scripts, all in one scope."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.scope = f"stopped-{uuid4()}"
        self.storage = str(folder / "pictures")
        self._started = 0

    def start(self, shape: str, **environment: str) -> AbstractContextManager[Process]:
        self._started += 1
        return started(
            *(str(SHAPES), shape, self.storage, self.scope),
            environment=self.environment | environment,
            log=self.folder / f"{shape}-{self._started}.log",
        )

    @contextmanager
    def waiting(self, shape: str, service: Simulator, number: int = 1) -> Iterator[Process]:
        """A script that has come to wait for all of its predictions."""
        with self.start(shape) as script:
            wait_until(lambda: service.counts.polls >= 2 * number or not script.running())
            assert service.counts.creates == number
            yield script

    def records(self) -> list[Record]:
        found = portal.call(open_ledger("prefect-server").records, self.scope)
        return [record for record in found.values() if record]

    def again(self) -> object:
        """What another run of the same scope gets in place of the first prediction."""
        credentials = CometAPICredentials.from_env()
        return generate.fn(credentials, MODEL, INPUTS[0], self.storage, scope=self.scope)


@pytest.fixture
def scripts(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> Iterator[Scripts]:
    CLOCK.offset = 0.0
    service = {
        "COMETAPI_KEY": cometapi_simulator.api_key,
        "COMETAPI_BASE_URL": cometapi_simulator.url,
    }
    yield Scripts(prefect_environment | service, tmp_path)
    CLOCK.offset = 0.0


def finish() -> None:
    """Let every prediction be done that is not canceled."""
    CLOCK.offset = 1e6


# --- Ctrl-C -----------------------------------------------------------------------------------


@EACH_SHAPE
def test_ctrl_c_cancels_every_prediction_once(
    shape: str, number: int, scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    with scripts.waiting(shape, cometapi_simulator, number) as script:
        script.send(signal.SIGINT)
        assert script.ended(60) == -signal.SIGINT
        assert script.said.count(" is canceled.") == number
        assert "not canceled" not in script.said
    assert cometapi_simulator.counts.cancels == number
    assert {each.status for each in cometapi_simulator.predictions.values()} == {"canceled"}
    records = scripts.records()
    assert [record.outcome for record in records] == [Outcome.STOPPED] * number
    assert all(record.cancel_asked for record in records)
    # Starting it again makes it again.
    again = create_prediction.fn(
        CometAPICredentials.from_env(), MODEL, INPUTS[0], scope=scripts.scope
    )
    assert again.attempt == 2
    assert cometapi_simulator.counts.creates == number + 1


def test_ctrl_c_outside_of_a_flow(scripts: Scripts, cometapi_simulator: Simulator) -> None:
    with scripts.waiting("no_flow", cometapi_simulator) as script:
        script.send(signal.SIGINT)
        assert script.ended(30) == -signal.SIGINT
    assert cometapi_simulator.counts.cancels == 1


def test_ctrl_c_cancels_by_the_hook_what_nobody_waits_for(
    scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    with scripts.start("waits_elsewhere") as script:
        wait_until(lambda: "Created prediction" in script.said and scripts.records())
        wait_until(lambda: scripts.records()[0].prediction_id)
        script.send(signal.SIGINT)
        assert script.ended(30) == -signal.SIGINT
    assert cometapi_simulator.counts.cancels == 1
    assert scripts.records()[0].outcome is Outcome.STOPPED


@pytest.mark.long
@pytest.mark.parametrize("shape", ["sync_submit", "sync_map", "async_gather"])
def test_nothing_stays_of_a_run_that_ctrl_c_finds_in_the_middle(
    shape: str, scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    # Of thirty at once some have not begun, some are in the middle of their POST, some wait; and
    # those whose poll has not begun yet are the hook's.
    with scripts.start(shape, SHAPES_INPUTS="30", SHAPES_HOOKS="yes") as script:
        wait_until(lambda: cometapi_simulator.counts.creates or not script.running())
        script.send(signal.SIGINT)
        assert script.ended(90) == -signal.SIGINT
    assert {each.status for each in cometapi_simulator.predictions.values()} == {"canceled"}
    assert cometapi_simulator.counts.cancels == cometapi_simulator.counts.creates
    assert all(record.prediction_id for record in scripts.records())


@pytest.mark.parametrize(
    ("shape", "number"), [("sync_direct", 1), ("async_gather", 3), ("sync_submit", 3)]
)
@pytest.mark.parametrize("number_of_signal", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_the_post_and_its_id_are_not_cut_in_two(
    number_of_signal: signal.Signals, shape: str, number: int, scripts: Scripts
) -> None:
    cancels: list[str] = []

    async def answer(request: Request) -> Answer:
        name = f"p{abs(hash(request.body)):x}"
        if request.target.endswith("/cancel"):
            cancels.append(request.target)
            return reply(prediction(status="canceled"))
        if request.method == "GET":
            return reply(prediction(status="processing"))
        await asyncio.sleep(2)
        return reply(prediction(id=name, status="starting"), status=201)

    with serve(answer) as server, scripts.start(shape, COMETAPI_BASE_URL=server.url) as script:
        wait_until(lambda: len(server.of("POST")) >= number or not script.running())
        script.send(number_of_signal)
        script.ended(40)
        creates = [each for each in server.of("POST") if not each.target.endswith("/cancel")]
    records = scripts.records()
    assert len(creates) == len(records) == number
    assert all(record.prediction_id for record in records)
    by_a_person = number_of_signal == signal.SIGINT
    assert len(cancels) == len(set(cancels)) == (number if by_a_person else 0)
    assert {record.outcome for record in records} == {Outcome.STOPPED if by_a_person else None}


def test_a_refused_cancel_is_told_and_the_prediction_is_found_again(
    scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.set_fault("cancel.404", 1.0)
    with scripts.waiting("sync_submit", cometapi_simulator, 3) as script:
        script.send(signal.SIGINT)
        assert script.ended(30) == -signal.SIGINT
        warned = [line for line in script.said.splitlines() if "task_not_exist" in line]
        assert len([line for line in warned if "WARNING" in line]) == 3, warned
    for record in scripts.records():
        assert record.cancel_asked
        assert record.outcome is None
    finish()
    scripts.again()
    assert cometapi_simulator.counts.creates == 3


@pytest.mark.parametrize("presses", [1, 2])
def test_a_cancel_that_is_not_answered_holds_nobody_up(
    presses: int, scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.set_fault("cancel.hang", 1.0)
    with scripts.waiting("sync_direct", cometapi_simulator) as script:
        for _ in range(presses):
            script.send(signal.SIGINT)
            time.sleep(1)
        assert script.ended(25) == -signal.SIGINT
    assert cometapi_simulator.counts.cancels == 1


# --- SIGTERM ----------------------------------------------------------------------------------


@EACH_SHAPE
def test_sigterm_cancels_nothing_and_the_next_run_goes_on(
    shape: str, number: int, scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    with scripts.waiting(shape, cometapi_simulator, number) as script:
        script.send(signal.SIGTERM)
        assert script.ended(25) != 0
        assert script.said.count("It is not canceled, because nobody asked") == number
    assert cometapi_simulator.counts.cancels == 0
    records = scripts.records()
    assert len(records) == number
    assert all(record.prediction_id and record.outcome is None for record in records)
    finish()
    scripts.again()
    assert cometapi_simulator.counts.creates == number


def test_a_second_start_of_the_script_finishes_without_paying_again(
    scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    with scripts.waiting("sync_submit", cometapi_simulator, 3) as script:
        script.send(signal.SIGTERM)
        script.ended(25)
    finish()
    with scripts.start("sync_submit") as script:
        assert script.ended(60) == 0
    assert {record.outcome for record in scripts.records()} == {Outcome.SAVED}
    assert cometapi_simulator.counts.charged == 3


# --- Prefect's server is away ----------------------------------------------------------------


@pytest.fixture
async def relay(prefect_environment: dict[str, str]) -> AsyncIterator[Relay]:
    address = urlsplit(prefect_environment["PREFECT_API_URL"])
    relay = Relay((str(address.hostname), int(address.port or 80)))
    yield relay
    relay.close()


@pytest.mark.long
@pytest.mark.parametrize("how", ["close", "freeze"])
@pytest.mark.parametrize("shape", ["sync_direct", "async_direct", "sync_submit"])
def test_ctrl_c_reaches_the_service_without_prefects_server(
    shape: str, how: str, relay: Relay, scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    number = (DIRECT | IN_THREADS)[shape]
    scripts.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{relay.port}/api"
    with scripts.waiting(shape, cometapi_simulator, number) as script:
        getattr(relay, how)()
        script.send(signal.SIGINT)
        wait_until(lambda: cometapi_simulator.counts.cancels == number, seconds=5)


@pytest.mark.long
@pytest.mark.parametrize("how", ["close", "freeze"])
@pytest.mark.parametrize(("shape", "seconds"), [("sync_direct", 5), ("sync_submit", 16)])
def test_sigterm_does_not_wait_for_prefects_server(
    shape: str,
    seconds: float,
    how: str,
    relay: Relay,
    scripts: Scripts,
    cometapi_simulator: Simulator,
) -> None:
    number = (DIRECT | IN_THREADS)[shape]
    scripts.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{relay.port}/api"
    with scripts.waiting(shape, cometapi_simulator, number) as script:
        getattr(relay, how)()
        script.send(signal.SIGTERM)
        wait_until(lambda: script.said.count("It is not canceled") == number, seconds=seconds)
    assert cometapi_simulator.counts.cancels == 0


# --- time-outs --------------------------------------------------------------------------------


@flow
def timed_out_sync(**arguments: Any) -> None:
    generate.with_options(timeout_seconds=2)(**arguments)


@flow
def timed_out_submit(**arguments: Any) -> None:
    generate.with_options(timeout_seconds=2).submit(**arguments).result()


@flow
async def timed_out_async(**arguments: Any) -> None:
    await agenerate.with_options(timeout_seconds=2)(**arguments)


def run_flow(shape: Any, **arguments: Any) -> None:
    done = shape(**arguments)
    if inspect.iscoroutine(done):
        asyncio.run(done)


@pytest.mark.parametrize("shape", [timed_out_sync, timed_out_submit, timed_out_async])
def test_a_time_out_of_the_task_cancels_nothing(
    shape: Any, scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    with pytest.raises(TimeoutError):
        run_flow(shape, **shapes.arguments(INPUTS[0], scripts.storage, scripts.scope))
    assert cometapi_simulator.counts.cancels == 0
    (record,) = scripts.records()
    assert record.prediction_id
    assert record.outcome is None
    finish()
    scripts.again()
    assert cometapi_simulator.counts.creates == 1


def test_our_time_out_leaves_it_or_cancels_it_as_asked(
    scripts: Scripts, cometapi_simulator: Simulator
) -> None:
    @flow
    def late(**options: Any) -> None:
        credentials = CometAPICredentials.from_env()
        generate(credentials, MODEL, INPUTS[0], scripts.storage, timeout=2, **options)

    with pytest.raises(PredictionTimeout, match="Nothing was canceled"):
        late(scope=scripts.scope)
    assert cometapi_simulator.counts.cancels == 0
    # The deadline counts from the submission: it is over for the next run as well.
    with pytest.raises(PredictionTimeout, match="was asked to cancel it"):
        late(scope=scripts.scope, on_timeout="cancel")
    assert cometapi_simulator.counts.cancels == 1
    (record,) = scripts.records()
    assert record.outcome is Outcome.CANCELED
    with pytest.raises(PredictionCanceled):
        late(scope=scripts.scope, on_timeout="cancel")
    assert cometapi_simulator.counts.creates == cometapi_simulator.counts.cancels == 1
