"""What failed is made again only where somebody says so, and is paid for as often as said."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client

from prefect_cometapi import ItemStatus
from tests.batches import Batches, boats, statuses

SAVED, FAILED = ItemStatus.SAVED, ItemStatus.FAILED


def test_what_failed_stays_failed_and_costs_nothing_more(batches: Batches) -> None:
    batches.service.script("prediction", ["ok", "failed", "canceled"])
    first = batches.fail(boats(3), in_flight=1).result
    second = batches.fail(boats(3)).result
    assert statuses(first) == statuses(second) == [SAVED, FAILED, ItemStatus.CANCELED]
    assert second.items[1].error == first.items[1].error
    assert (second.created, second.found) == (0, 3)


def test_only_what_failed_is_made_again(batches: Batches) -> None:
    batches.service.script("prediction", ["ok", "failed", "canceled", "aborted", "ok"])
    first = batches.fail(boats(5), in_flight=1).result
    second = batches.run(boats(6), retry_failed=True)
    records = batches.records()
    later = [record for record in records.values() if record and record.attempt == 2]
    assert len(later) == 3
    assert all(records[record.first] for record in later)
    assert statuses(second) == [SAVED] * 6
    assert (second.created, second.found) == (4, 2)
    assert [item.attempt for item in second.items] == [1, 2, 2, 2, 1, 1]
    assert [item.found for item in second.items] == [True, False, False, False, True, False]
    assert second.items[1].prediction_id != first.items[1].prediction_id
    third = batches.run(boats(6))
    assert third.created == 0
    assert [item.attempt for item in third.items] == [1, 2, 2, 2, 1, 1]


def test_what_has_expired_can_be_made_again(batches: Batches) -> None:
    batches.service.script("prediction", ["ok", "removed"])
    assert statuses(batches.fail(boats(2), in_flight=1).result) == [SAVED, ItemStatus.EXPIRED]
    assert statuses(batches.fail(boats(2)).result) == [SAVED, ItemStatus.EXPIRED]
    assert batches.run(boats(2), retry_failed=True).created == 1


def test_so_many_attempts_are_made_at_once(batches: Batches) -> None:
    batches.service.script("prediction", ["failed", "failed", "ok", "failed", "failed", "failed"])
    error = batches.fail(boats(2), in_flight=1, attempts=3)
    assert statuses(error.result) == [SAVED, FAILED]
    assert [item.attempt for item in error.result.items] == [3, 3]
    assert batches.service.counts.creates == 6
    # They are counted together with those of the earlier run.
    assert batches.fail(boats(2), attempts=3).result.created == 0
    batches.service.script("prediction", ["failed", "ok"])
    again = batches.run(boats(2), attempts=3, retry_failed=True)
    assert again.items[1].attempt == 5


def test_what_the_content_filter_refuses_is_not_made_again(batches: Batches) -> None:
    batches.service.script("prediction", ["refused"])
    error = batches.fail(boats(1), attempts=3)
    assert batches.service.counts.creates == 1
    assert error.result.items[0].error_type == "ContentRefused"


@pytest.mark.cometapi_simulator(run_time=0.5)
def test_an_attempt_that_was_begun_is_gone_on_with(batches: Batches) -> None:
    """It was paid for, though nobody asks for it any more when the batch is run again."""
    service = batches.service
    service.script("prediction", ["failed"])
    batches.fail(boats(1))
    items = batches.iterate([*boats(1), {"prompt": 5}], retry_failed=True)
    assert next(items).number == 1  # refused, while the other one is under way
    items.close()  # type: ignore[attr-defined]
    assert service.counts.creates == 1 + 2
    result = batches.run(boats(1))
    assert (result.created, result.found) == (0, 1)
    assert (result.items[0].status, result.items[0].attempt) == (SAVED, 2)


def test_what_is_in_doubt_is_sent_once_more_where_the_caller_says_so(batches: Batches) -> None:
    batches.service.script("create", ["lost", "ok", "lost", "lost"])
    error = batches.fail(boats(2), in_flight=1, on_in_doubt="resubmit")
    assert statuses(error.result) == [SAVED, ItemStatus.IN_DOUBT]
    assert batches.service.counts.creates == batches.service.counts.charged == 4
    assert error.result.created == 4
    assert error.result.items[0].attempt == 2
    result = batches.run(boats(2), on_in_doubt="resubmit")
    assert (result.created, result.found) == (1, 1)
    assert result.items[1].attempt == 3


@pytest.mark.slow
def test_it_takes_its_turn_in_a_limit_as_well(batches: Batches) -> None:
    limit = f"limit-{uuid4()}"
    with get_client(sync_client=True) as client:
        values = {"name": limit, "limit": 1, "slot_decay_per_second": 1.0}
        client.request("POST", "/v2/concurrency_limits/", json=values).raise_for_status()
    batches.service.script("create", ["lost"] * 4)
    batches.fail(boats(4), limit=limit)
    began = time.monotonic()
    result = batches.run(boats(4), limit=limit, on_in_doubt="resubmit")
    assert result.summary == "4 saved"
    assert time.monotonic() - began >= 2


def test_a_retry_of_what_is_in_doubt_needs_a_word(batches: Batches) -> None:
    batches.service.script("create", ["lost"])
    batches.fail(boats(1))
    assert statuses(batches.fail(boats(1), retry_failed=True).result) == [ItemStatus.IN_DOUBT]
    assert batches.service.counts.creates == 1
