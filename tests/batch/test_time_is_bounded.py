"""Predictions have a deadline, and so may the batch: what is late is left or canceled."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from prefect_cometapi import BatchStopped, ItemStatus
from tests.batches import Batches, boats, statuses
from tests.servers import configure

SAVED, TIMED_OUT, NOT_SENT = ItemStatus.SAVED, ItemStatus.TIMED_OUT, ItemStatus.NOT_SENT


def test_a_prediction_that_is_late_is_left_running_and_found_again(batches: Batches) -> None:
    service = batches.service
    service.script("prediction", ["ok", "endless", "ok"])
    error = batches.fail(boats(3), in_flight=1, prediction_timeout=1)
    assert statuses(error.result) == [SAVED, TIMED_OUT, SAVED]
    assert "collect" in str(error)
    assert service.counts.cancels == 0
    again = batches.fail(boats(3), prediction_timeout=1).result
    assert statuses(again) == [SAVED, TIMED_OUT, SAVED]
    assert again.items[1].prediction_id == error.result.items[1].prediction_id
    assert again.items[1].found
    assert service.counts.creates == 3


def test_a_prediction_that_is_late_is_canceled_where_the_caller_says_so(batches: Batches) -> None:
    batches.service.script("prediction", ["ok", "endless", "ok"])
    result = batches.fail(boats(3), in_flight=1, prediction_timeout=1, on_timeout="cancel").result
    assert statuses(result) == [SAVED, TIMED_OUT, SAVED]
    late = result.items[1].prediction_id
    assert batches.service.counts.cancels == 1
    assert batches.service.predictions[str(late)].status == "canceled"
    # That is how it ended for the next run as well; it is made again where that is asked for.
    assert statuses(batches.fail(boats(3)).result) == [SAVED, TIMED_OUT, SAVED]
    assert batches.run(boats(3), retry_failed=True).created == 1


@pytest.mark.cometapi_simulator(run_time=0.2)
def test_after_the_batchs_time_nothing_is_created(batches: Batches) -> None:
    endless = ({"prompt": f"boat {number}"} for number in itertools.count())
    began = time.monotonic()
    error = batches.fail(endless, in_flight=10, batch_timeout=2)
    assert isinstance(error, BatchStopped)
    assert error.result.stopped == "batch_timeout=2 s is over."
    assert 2 <= time.monotonic() - began < 20
    result, created = error.result, batches.service.counts.creates
    assert result.created == created
    assert result.count(SAVED) >= 5
    assert result.count(SAVED, TIMED_OUT) == created
    assert result.count(SAVED, TIMED_OUT, NOT_SENT) == result.total
    assert batches.run(boats(created)).created == 0


@pytest.mark.cometapi_simulator(run_time=100)
@pytest.mark.parametrize("on_timeout", ["leave", "cancel"])
def test_what_is_waited_for_ends_with_the_batchs_time(on_timeout: str, batches: Batches) -> None:
    began = time.monotonic()
    error = batches.fail(boats(6), batch_timeout=2, on_timeout=on_timeout)
    assert time.monotonic() - began < 20
    assert statuses(error.result) == [TIMED_OUT] * 6
    assert batches.service.counts.cancels == (6 if on_timeout == "cancel" else 0)


@pytest.mark.slow
@pytest.mark.cometapi_simulator(retry_after=0.2)
def test_what_is_in_line_when_time_is_over_was_not_sent(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, retry_after_cap=60)
    batches.service.set_fault("create.429-seconds", 1.0)
    began = time.monotonic()
    error = batches.fail(boats(8), batch_timeout=2)
    assert time.monotonic() - began < 20
    assert statuses(error.result) == [NOT_SENT] * 8
    assert batches.service.counts.charged == 0
    assert {item.record_key for item in error.result.items} == {None}
    assert not batches.records()
    batches.service.clear_faults()
    assert batches.run(boats(8)).summary == "8 saved"


@pytest.mark.slow
@pytest.mark.parametrize("on_timeout", ["leave", "cancel"])
def test_a_create_on_the_wire_when_time_is_over_is_brought_to_its_end(
    on_timeout: str, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, create_timeout=4)
    batches.service.script("prediction", ["endless"] * 3)
    batches.service.script("create", ["ok", "hang", "ok"])
    error = batches.fail(boats(3), batch_timeout=1.5, on_timeout=on_timeout)
    found = sorted(statuses(error.result))
    assert found == [ItemStatus.IN_DOUBT, TIMED_OUT, TIMED_OUT]
    assert batches.service.counts.cancels == (2 if on_timeout == "cancel" else 0)
    in_doubt = next(item for item in error.result.items if item.status is ItemStatus.IN_DOUBT)
    record = batches.records()[str(in_doubt.record_key)]
    assert record is not None
    assert record.lost


@pytest.mark.slow
@pytest.mark.cometapi_simulator(retry_after=0.2)
def test_a_burst_of_429s_fails_no_item(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, submit_timeout=1)  # which is how long one prediction would be offered
    service = batches.service
    forms = ("seconds", "date", "body", "text", "reset")
    for form in forms:
        service.set_fault(f"create.429-{form}", 0.2)

    ending = threading.Timer(3, service.clear_faults)
    ending.start()
    result = batches.run(boats(10))
    ending.join()
    assert result.summary == "10 saved"
    counts = service.counts
    assert counts.charged == 10
    assert counts.creates > 10
    assert {each.outcome for each in batches.records().values() if each} == {"saved"}
