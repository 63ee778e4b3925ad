"""Run again in the same scope, a batch pays for nothing twice and ends with the same result."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect.filesystems import RemoteFileSystem

from prefect_cometapi import ItemStatus
from prefect_cometapi.storage import Storage
from tests.batches import Batches, boats, told
from tests.storages import FolderOfObjects


def test_the_second_run_creates_nothing(batches: Batches) -> None:
    first = batches.run(boats(12))
    assert (first.created, first.found, first.summary) == (12, 0, "12 saved")
    second = batches.run(boats(12))
    assert (second.created, second.found, second.summary) == (0, 12, "12 saved")
    assert told(first.items) == told(second.items)
    assert batches.service.counts.creates == batches.service.counts.charged == 12
    assert len(batches.outputs()) == 12


async def test_the_async_twin_finds_the_same(batches: Batches) -> None:
    first = await batches.arun(boats(3))
    second = await batches.arun(boats(3))
    assert told(first.items) == told(second.items)
    assert batches.service.counts.creates == 3


def test_more_items_in_the_same_scope_are_all_that_is_paid_for(batches: Batches) -> None:
    batches.run(boats(3))
    result = batches.run(boats(5))
    assert (result.created, result.found) == (2, 3)
    assert batches.service.counts.charged == 5


def test_another_scope_is_another_purchase(batches: Batches) -> None:
    batches.run(boats(2))
    batches.run(boats(2), scope=f"{batches.scope}, once more")
    assert batches.service.counts.charged == 4


@pytest.mark.parametrize("kind", ["folder", "files", "objects"])
def test_the_records_may_be_in_any_storage(kind: str, batches: Batches) -> None:
    ledger: Storage = batches.folder.parent / "ledger"
    if kind == "files":
        ledger = RemoteFileSystem(basepath=f"memory://{uuid4()}")
    elif kind == "objects":
        ledger = FolderOfObjects(root=str(ledger))
    first = batches.run(boats(5), ledger=ledger)
    second = batches.run(boats(6), ledger=ledger)
    assert (second.created, second.found) == (1, 5)
    assert told(first.items) == told(second.items)[:5]
    assert not batches.journals()  # they are where they were wanted


def test_a_file_that_is_gone_is_brought_home_again(batches: Batches) -> None:
    first = batches.run(boats(3))
    (lost,) = first.items[1].files
    (batches.folder / lost.name).unlink()
    second = batches.run(boats(3))
    assert second.summary == "3 saved"
    assert batches.service.counts.creates == 3
    assert second.items[1].files == first.items[1].files
    assert (batches.folder / lost.name).is_file()


def test_what_was_handed_over_can_be_saved_later(batches: Batches) -> None:
    ledger = batches.folder.parent / "ledger"
    first = batches.run(boats(2), storage=None, ledger=ledger)
    assert first.count(ItemStatus.SUCCEEDED) == 2
    second = batches.run(boats(2), ledger=ledger)
    assert second.count(ItemStatus.SAVED) == 2
    assert batches.service.counts.creates == 2


def test_where_the_service_has_deleted_it_by_then_the_output_of_the_first_run_comes_back(
    batches: Batches,
) -> None:
    first = batches.run(boats(2), storage=None, ledger=batches.folder)
    second = batches.run(boats(2), storage=None, ledger=batches.folder)
    assert [item.output for item in first.items] == [item.output for item in second.items]
    assert all(item.output for item in second.items)
    assert batches.service.counts.polls == first.polls
