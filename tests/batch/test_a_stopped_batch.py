"""Ctrl-C and a cancel in Prefect cancel all that runs; SIGTERM alone cancels nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from prefect_cometapi import ItemStatus
from prefect_cometapi.ledger import Outcome
from tests.batches import Batches, boats
from tests.processes import ROOT, wait_until, with_key
from tests.servers import SETTING
from tests.stopping import Process, started

COUNT = 30
PROGRAM = ROOT / "tests" / "flows" / "table_of_boats.py"


class Clock:
    """The simulator's time: predictions run until a test lets them end."""

    offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


CLOCK = Clock()
ENDLESS = {"run_time": 1000.0, "output_ttl": 1e9, "clock": CLOCK}
pytestmark = [pytest.mark.slow, pytest.mark.cometapi_simulator(**ENDLESS)]


@pytest.fixture(autouse=True)
def _let_them_run() -> Iterator[None]:
    CLOCK.offset = 0.0
    yield
    CLOCK.offset = 0.0


@pytest.fixture
def environment(prefect_environment: dict[str, str], batches: Batches) -> dict[str, str]:
    return {**with_key(prefect_environment, batches.service), SETTING + "POLL_MIN": "0.05"}


@contextmanager
def waiting(
    shape: str, batches: Batches, environment: dict[str, str], log: Path
) -> Iterator[Process]:
    """A program whose batch has come to wait for all of its predictions."""
    words = (str(PROGRAM), shape, str(COUNT), str(batches.folder), batches.scope)
    with started(*words, environment=environment, log=log) as program:
        service = batches.service
        wait_until(lambda: service.counts.polls >= COUNT or not program.running())
        wait_until(lambda: len(known(batches)) == COUNT or not program.running())
        assert service.counts.creates == COUNT, program.said
        yield program


def known(batches: Batches) -> list[Any]:
    return [each for each in batches.records().values() if each and each.prediction_id]


SHAPES = ["sync_script", "sync_flow", "async_flow", "item_by_item", "submitted"]


@pytest.mark.parametrize("shape", SHAPES)
def test_ctrl_c_cancels_all_of_them_once(
    shape: str, batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    with waiting(shape, batches, environment, tmp_path / "log") as program:
        began = time.monotonic()
        program.send(signal.SIGINT)
        assert program.ended(60) == -signal.SIGINT
        assert time.monotonic() - began < 30
        assert "asked to cancel 30 of the 30 predictions" in program.said
        assert program.said.count("A person has stopped this run") == 1
        # It does not end as if it had come to its end.
        assert " of 30 items in " not in program.said
        assert "no items" not in program.said
        assert "Completed" not in program.said
    service = batches.service
    assert service.counts.cancels == COUNT
    assert {each.status for each in service.predictions.values()} == {"canceled"}
    assert [each.outcome for each in known(batches)] == [Outcome.STOPPED] * COUNT
    # Starting it again makes them again, and nothing else.
    result = batches.fail(boats(COUNT), prediction_timeout=2).result
    assert result.count(ItemStatus.TIMED_OUT) == result.created == COUNT
    assert service.counts.creates == 2 * COUNT
    assert {item.attempt for item in result.items} == {2}


@pytest.mark.parametrize("shape", ["sync_script", "sync_flow", "async_flow", "submitted"])
def test_sigterm_cancels_nothing_and_the_next_run_collects_all(
    shape: str, batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    with waiting(shape, batches, environment, tmp_path / "log") as program:
        program.send(signal.SIGTERM)
        assert program.ended(30) != 0
    service = batches.service
    assert service.counts.cancels == 0
    assert [each.outcome for each in known(batches)] == [None] * COUNT
    CLOCK.offset = 1e6
    result = batches.run(boats(COUNT))
    assert result.summary == f"{COUNT} saved"
    assert (result.created, result.found) == (0, COUNT)
    assert service.counts.creates == COUNT


def test_sigterm_is_told_in_one_line(
    batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    with waiting("sync_flow", batches, environment, tmp_path / "log") as program:
        program.send(signal.SIGTERM)
        program.ended(30)
        assert program.said.count("not canceled, because nobody asked to stop this run") == 1
        assert f"Interrupted while {COUNT} predictions are running." in program.said


@pytest.mark.parametrize("shape", ["sync_flow", "async_flow"])
def test_a_cancel_in_prefect_cancels_all_of_them(
    shape: str, batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    with waiting(shape, batches, environment, tmp_path / "log") as program:
        line = next(line for line in program.said.splitlines() if line.startswith("FLOW RUN "))
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(line.split()[-1]), Cancelling(), force=True)
        wait_until(lambda: batches.service.counts.cancels == COUNT, seconds=30)
        program.ended(30)
    assert {each.outcome for each in known(batches)} == {Outcome.STOPPED}


@pytest.mark.parametrize("shape", ["sync_script", "submitted"])
def test_ctrl_c_ends_the_wait_for_another_process(
    shape: str, batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    words = (str(PROGRAM), shape, str(COUNT), str(batches.folder), batches.scope)
    with waiting("sync_script", batches, environment, tmp_path / "first"):
        with started(*words, environment=environment, log=tmp_path / "second") as second:
            wait_until(lambda: "is at work on the batch" in second.said or not second.running())
            second.send(signal.SIGINT)
            assert second.ended(30) == -signal.SIGINT
        assert batches.service.counts.creates == COUNT
        assert batches.service.counts.cancels == 0


def test_ctrl_c_in_the_middle_of_the_creates_leaves_nothing_running(
    batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    words = (str(PROGRAM), "sync_script", "500", str(batches.folder), batches.scope)
    service = batches.service
    with started(*words, environment=environment, log=tmp_path / "log") as program:
        wait_until(lambda: service.counts.creates >= 50 or not program.running())
        program.send(signal.SIGINT)
        assert program.ended(60) == -signal.SIGINT
    assert service.counts.creates < 500
    assert {each.status for each in service.predictions.values()} == {"canceled"}
    assert len(known(batches)) == len(service.predictions) == len(batches.records())


@pytest.mark.parametrize("shape", ["slow_inputs", "slow_inputs_in_a_thread"])
def test_ctrl_c_while_the_inputs_are_read_creates_nothing_more(
    shape: str, batches: Batches, environment: dict[str, str], tmp_path: Path
) -> None:
    words = (str(PROGRAM), shape, str(COUNT), str(batches.folder), batches.scope)
    service = batches.service
    with started(*words, environment=environment, log=tmp_path / "log") as program:
        wait_until(lambda: "READING" in program.said or not program.running())
        wait_until(lambda: service.counts.polls >= 4 or not program.running())
        assert service.counts.creates == 2
        program.send(signal.SIGINT)
        assert program.ended(60) == -signal.SIGINT
    assert service.counts.creates == service.counts.cancels == 2
    assert {each.status for each in service.predictions.values()} == {"canceled"}
