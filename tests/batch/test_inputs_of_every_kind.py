"""Inputs are read lazily, where the caller is, and each comes back as it was given."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections import UserDict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from prefect_cometapi import (
    BatchFailed,
    BatchStopped,
    InvalidInput,
    ItemStatus,
    PredictionRequest,
    aiter_predictions,
    read_manifest,
)
from prefect_cometapi.batch_calls import CHUNK
from tests.batches import NUMBER, TEXT, Batches, boats, statuses
from tests.processes import wait_until

SAVED, REFUSED = ItemStatus.SAVED, ItemStatus.REFUSED


def test_they_are_read_where_the_caller_is(batches: Batches) -> None:
    """A database's cursor belongs to the thread that has opened it."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE rows (id, prompt)")
    database.executemany("INSERT INTO rows VALUES (?, ?)", [(n, f"boat {n}") for n in range(5)])

    def rows() -> Iterator[PredictionRequest]:
        for id, prompt in database.execute("SELECT id, prompt FROM rows"):
            yield PredictionRequest(input={"prompt": prompt}, key=f"row-{id}", labels={"id": id})

    result = batches.run(rows())
    assert [item.labels["id"] for item in result.items] == [0, 1, 2, 3, 4]
    for item in batches.iterate(rows()):
        database.execute("SELECT 1 FROM rows WHERE id = ?", (item.labels["id"],))


@pytest.mark.cometapi_simulator(run_time=0.01)
def test_they_are_read_as_there_is_room(batches: Batches) -> None:
    read = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal read
        for each in boats(60):
            read += 1
            yield each

    taken, most = 0, 0
    for _ in batches.iterate(counted(), in_flight=4):
        taken += 1
        most = max(most, read - taken)
    assert taken == read == 60
    assert most <= 4 + 4


def test_rows_that_come_slowly_keep_none_waiting(batches: Batches) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for number, each in enumerate(boats(5)):
            if number == 4:
                wait_until(lambda: batches.outputs(), "the first is saved before the last is read")
            time.sleep(0.1)
            yield each

    assert batches.run(rows()).summary == "5 saved"


def test_endless_inputs_go_on_until_nobody_takes_items(batches: Batches) -> None:
    endless = ({"prompt": f"boat {number}"} for number in itertools.count())
    items = list(itertools.islice(batches.iterate(endless, in_flight=5), 12))
    assert [item.status for item in items] == [SAVED] * 12
    assert batches.service.counts.creates <= 12 + 5
    assert next(endless)["prompt"] <= f"boat {12 + 5 + CHUNK}"


async def test_async_inputs_are_read_on_the_callers_loop(batches: Batches) -> None:
    seen = set()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for each in boats(6):
            seen.add(asyncio.get_running_loop())
            await asyncio.sleep(0)
            yield each

    result = await batches.arun(rows(), in_flight=2)
    assert result.summary == "6 saved"
    assert seen == {asyncio.get_running_loop()}
    assert threading.current_thread() is threading.main_thread()


async def test_the_async_twin_reads_plain_iterables_too(batches: Batches) -> None:
    items = [
        item
        async for item in aiter_predictions(
            batches.credentials, TEXT, iter(boats(5)), batches.folder, scope=batches.scope
        )
    ]
    assert sorted(item.number for item in items) == [0, 1, 2, 3, 4]


async def test_while_an_async_input_is_waited_for_items_are_handed_out(batches: Batches) -> None:
    more = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {"prompt": "first"}
        await more.wait()
        yield {"prompt": "second"}

    taken = []
    async for item in aiter_predictions(
        batches.credentials, TEXT, rows(), batches.folder, scope=batches.scope
    ):
        taken.append(item.excerpt)
        more.set()
    assert taken == ["first", "second"]


async def test_inputs_that_end_late_end_the_batch(batches: Batches) -> None:
    saved = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {"prompt": "the only one"}
        await saved.wait()
        await asyncio.sleep(0.2)

    items = aiter_predictions(
        batches.credentials, TEXT, rows(), batches.folder, scope=batches.scope
    )
    async with asyncio.timeout(30):
        async for _ in items:
            saved.set()


# --- items ------------------------------------------------------------------------------------


def test_an_item_may_have_all_of_its_own(batches: Batches) -> None:
    mine = PredictionRequest(
        input={"prompt": "mine"}, model=NUMBER, key="row-7", sample=3, labels={"row": [7, None]}
    )
    result = batches.run([{"prompt": "plain"}, mine, UserDict({"prompt": "any mapping"})])
    plain, item, mapping = result.items
    assert (plain.model, plain.key, plain.sample, plain.labels) == (TEXT, None, 0, {})
    assert (item.model, item.key, item.sample, item.labels) == (
        *(NUMBER, "row-7", 3),
        {"row": [7, None]},
    )
    assert (plain.excerpt, item.excerpt, mapping.excerpt) == ("plain", "mine", "any mapping")
    sent = {(each.model, each.input["prompt"]) for each in batches.service.predictions.values()}
    assert sent == {(TEXT, "plain"), (NUMBER, "mine"), (TEXT, "any mapping")}
    # The same key is the same prediction, whatever its input and labels are by now.
    changed = mine.model_copy(update={"input": {"prompt": "changed"}, "labels": {"row": 8}})
    again = batches.run([changed])
    assert again.created == 0
    assert again.items[0].prediction_id == item.prediction_id
    assert again.items[0].labels == {"row": 8}


def test_equal_inputs_are_that_many_predictions(batches: Batches) -> None:
    boat, other = {"prompt": "boat"}, {"prompt": "other"}
    result = batches.run([boat, other, boat, boat, other])
    assert [item.sample for item in result.items] == [0, 0, 1, 2, 1]
    assert batches.service.counts.charged == 5
    # In another order they are the same ones.
    again = batches.run([other, other, boat, boat, boat])
    assert again.created == 0
    assert {item.prediction_id for item in again.items} == {
        item.prediction_id for item in result.items
    }


def test_samples_that_are_counted_and_those_that_are_named_are_not_the_same(
    batches: Batches,
) -> None:
    boat = {"prompt": "boat"}
    result = batches.run([boat, PredictionRequest(input=boat, sample=1), boat, boat])
    assert [item.sample for item in result.items] == [0, 1, 2, 3]
    assert batches.service.counts.charged == 4
    assert len({item.prediction_id for item in result.items}) == 4
    # The other way round, the one that is named comes too late.
    result = batches.run([boat, boat, PredictionRequest(input=boat, sample=1)], allow_failures=1)
    assert statuses(result) == [SAVED, SAVED, REFUSED]
    assert "Another item has the same input and sample (1)" in result.items[2].error


def test_the_same_key_twice_is_refused(batches: Batches) -> None:
    error = batches.fail(
        [PredictionRequest(input=each, key="row-1", labels={"n": 1}) for each in boats(2)]
    )
    assert statuses(error.result) == [SAVED, REFUSED]
    assert "Another item has the same key ('row-1')" in error.result.items[1].error
    assert error.result.items[1].labels == {"n": 1}
    assert batches.service.counts.creates == 1


WRONG: dict[str, Any] = {
    "no dict": 5,
    "None": None,
    "text": "a prompt alone",
    "NaN": {"prompt": float("nan")},
    "no JSON": {"prompt": object()},
    "no text as a name": {1: "a"},
    "an impossible model": PredictionRequest(input={}, model="../secrets"),
    "an empty key": PredictionRequest(input={}, key=" "),
    "a negative sample": PredictionRequest(input={}, sample=-1),
    "labels that are no JSON": PredictionRequest(input={}, labels={"when": object()}),
    "labels that are not finite": PredictionRequest(input={}, labels={"n": float("inf")}),
    "half a surrogate": {"prompt": "\ud83d"},
}


def test_what_can_not_be_right_is_refused_and_the_others_go_on(batches: Batches) -> None:
    error = batches.fail([{"prompt": "first"}, *WRONG.values(), {"prompt": "last"}])
    assert statuses(error.result) == [SAVED, *([REFUSED] * len(WRONG)), SAVED]
    for item in error.result.items[1:-1]:
        assert "Nothing was sent" in item.error, item
        assert item.error_type == "InvalidInput"
    assert batches.service.counts.creates == 2
    assert len((batches.folder / str(error.result.manifest)).read_text().splitlines()) == (
        error.result.total
    )


def test_labels_come_back_where_the_item_was_refused(batches: Batches) -> None:
    wrong = PredictionRequest(input={"prompt": float("inf")}, labels={"row": 3}, origin={"n": 1})
    item = batches.fail([wrong]).result.items[0]
    assert (item.labels, item.origin) == ({"row": 3}, {"n": 1})


def test_an_item_that_can_not_be_made_is_refused_with_its_reason(batches: Batches) -> None:
    torn = PredictionRequest(input={}, key="row-2", refused="Row 2 has no column 'colour'.")
    result = batches.fail([*boats(1), torn, *boats(1, 1)]).result
    assert result.summary == "2 saved, 1 refused"
    [item] = result.failures
    assert item.error == "Row 2 has no column 'colour'. Nothing was sent for it."
    assert (item.key, item.number) == ("row-2", 1)
    assert batches.service.counts.charged == 2


def test_where_an_input_came_from_stays_in_the_manifest(batches: Batches) -> None:
    request = PredictionRequest(input={"prompt": "a"}, origin={"template": "{{ a }}", "row": 4})
    result = batches.run([request])
    assert result.manifest is not None
    [item] = read_manifest(batches.folder, result.manifest)
    assert item.origin == {"template": "{{ a }}", "row": 4}


# --- inputs that break ------------------------------------------------------------------------


def test_what_is_under_way_is_saved_where_the_inputs_break(batches: Batches) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from boats(7)
        raise ConnectionError("the database has gone away")

    error = batches.fail(rows())
    assert isinstance(error, BatchStopped)
    assert isinstance(error.__cause__, ConnectionError)
    assert (
        "The inputs could not be read any further: ConnectionError: the database has gone away"
        in str(error)
    )
    assert error.result.summary == "7 saved"
    assert batches.run(boats(7)).created == 0


def test_a_dry_run_of_inputs_that_break_is_an_error(batches: Batches) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from boats(2)
        raise ConnectionError("the database has gone away")

    error = batches.fail(rows(), dry_run=True)
    assert isinstance(error.__cause__, ConnectionError)
    assert batches.service.counts.creates == 0


async def test_the_same_goes_for_async_inputs(batches: Batches) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for each in boats(7):
            yield each
        raise ConnectionError("the database has gone away")

    with pytest.raises(BatchStopped) as raised:
        await batches.arun(rows())
    assert isinstance(raised.value.__cause__, ConnectionError)
    assert raised.value.result.summary == "7 saved"


def test_an_error_of_this_packages_own_in_the_inputs_is_no_item(batches: Batches) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from boats(2)
        raise InvalidInput("said by what made the rows")

    error = batches.fail(rows())
    assert isinstance(error, BatchStopped)
    assert "said by what made the rows" in error.result.stopped
    assert error.result.summary == "2 saved"


async def test_inputs_that_are_canceled_end_the_batch(batches: Batches) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {"prompt": "first"}
        raise asyncio.CancelledError("by the library that reads the rows")

    with pytest.raises(BatchStopped, match="could not be read any further"):
        await asyncio.wait_for(batches.arun(rows()), 30)


async def test_endless_async_inputs_end_where_the_batch_does(batches: Batches) -> None:
    batches.service.set_fault("create.402", 1.0)
    endless = ({"prompt": f"boat {number}"} for number in itertools.count())
    with pytest.raises(BatchStopped, match="insufficient credit") as raised:
        await asyncio.wait_for(batches.arun(endless, in_flight=10), 30)
    assert raised.value.result.total <= 10 + 1


# --- arguments that can not be right ----------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": "a prompt"},
        {"inputs": {"prompt": "alone"}},
        {"inputs": 5},
        {"inputs": None},
        {"model": "flux"},
        {"model": None},
        {"scope": ""},
        {"scope": 5},
        {"in_flight": 0},
        {"in_flight": 2.5},
        {"in_flight": True},
        {"attempts": 0},
        {"attempts": 21},
        {"on_in_doubt": "again"},
        {"on_timeout": "kill"},
        {"prediction_timeout": 0},
        {"prediction_timeout": float("inf")},
        {"batch_timeout": -1},
        {"batch_timeout": float("nan")},
        {"stop_after_failures": 0},
        {"stop_after_failures": 1.5},
        {"stop_after_failures": "5 %"},
        {"allow_failures": -1},
        {"allow_failures": 2.5},
        {"max_predictions": 0},
        {"max_predictions": 1.5},
        {"max_cost": 0},
        {"max_cost": float("inf")},
        {"max_cost": "1"},
        {"prefix": "../out"},
        {"storage": 5},
        {"storage": "s3://bucket"},
        {"ledger": 5},
        {"limit": ""},
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    options: dict[str, Any], batches: Batches
) -> None:
    read = []

    def rows() -> Iterator[dict[str, Any]]:
        read.append(1)
        yield {"prompt": "a"}

    inputs = options.pop("inputs", rows())
    with pytest.raises(InvalidInput) as refused:
        batches.run(inputs, **options)
    assert not isinstance(refused.value, BatchFailed)
    assert not read
    assert batches.service.counts.creates == 0


def test_an_async_iterable_is_for_the_async_twin(batches: Batches) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {}

    with pytest.raises(InvalidInput, match="async twin"):
        batches.run(rows())


def test_no_items_are_no_error(batches: Batches) -> None:
    result = batches.run([])
    assert (result.total, result.summary, result.items) == (0, "no items", [])
