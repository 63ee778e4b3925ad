"""Where items are not taken nothing new is created; what is left under way can be collected."""

from __future__ import annotations

import itertools
import time
from contextlib import aclosing

import pytest

from prefect_cometapi import ItemStatus, aiter_predictions
from tests.batches import TEXT, Batches, boats
from tests.processes import wait_until


@pytest.mark.cometapi_simulator(run_time=0.02)
def test_nothing_new_is_created_while_items_are_not_taken(batches: Batches) -> None:
    items = batches.iterate(boats(50), in_flight=5)
    next(items)
    wait_until(lambda: len(batches.outputs()) == 5)
    time.sleep(0.3)
    assert batches.service.counts.creates == 5
    taken = 1 + sum(1 for _ in items)
    assert taken == batches.service.counts.creates == 50


@pytest.mark.cometapi_simulator(run_time=0.02)
async def test_nor_is_it_by_the_async_twin(batches: Batches) -> None:
    import asyncio

    items = aiter_predictions(
        batches.credentials, TEXT, boats(50), batches.folder, scope=batches.scope, in_flight=5
    )
    taken = 0
    async for _ in items:
        taken += 1
        if taken in (1, 10):
            await asyncio.sleep(1)
            assert batches.service.counts.creates <= taken + 5
    assert taken == batches.service.counts.creates == 50


@pytest.mark.cometapi_simulator(run_time=1.0)
def test_after_a_break_what_is_under_way_goes_on_and_is_collected(batches: Batches) -> None:
    endless = ({"prompt": f"boat {number}"} for number in itertools.count())
    for item in batches.iterate(endless, in_flight=8):
        assert item.status is ItemStatus.SAVED
        break
    service = batches.service
    assert service.counts.cancels == 0
    created = service.counts.creates
    assert created >= 8
    result = batches.run(boats(created))
    assert (result.created, result.found) == (0, created)
    assert result.summary == f"{created} saved"
    assert service.counts.charged == service.counts.creates == created


@pytest.mark.cometapi_simulator(run_time=1.0)
async def test_the_async_twin_is_closed_by_its_caller(batches: Batches) -> None:
    items = aiter_predictions(
        batches.credentials, TEXT, boats(20), batches.folder, scope=batches.scope, in_flight=8
    )
    async with aclosing(items):
        async for _ in items:
            break
    created = batches.service.counts.creates
    assert batches.service.counts.cancels == 0
    result = await batches.arun(boats(20))
    assert result.summary == "20 saved"
    assert result.created == 20 - created
    assert batches.service.counts.charged == 20


def test_one_that_was_never_begun_sends_nothing(batches: Batches) -> None:
    items = batches.iterate(boats(3))
    del items
    assert batches.service.counts.creates == 0
    assert not batches.folder.exists()


def test_the_result_is_what_the_generator_returns(batches: Batches) -> None:
    items = batches.iterate(boats(3))
    taken = []
    while True:
        try:
            taken.append(next(items))
        except StopIteration as end:
            result = end.value
            break
    assert result.summary == "3 saved"
    assert sorted(taken, key=lambda item: item.number) == result.items
