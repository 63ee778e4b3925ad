"""A scope's records are in one place: what was paid for there is not paid for from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_cometapi import BatchStopped, InvalidInput, ItemStatus, LedgerError, StorageError
from prefect_cometapi import journal as journals
from prefect_cometapi.stores import Folder
from tests.batches import Batches, boats, statuses


def test_another_ledger_is_refused_and_named(batches: Batches) -> None:
    batches.run(boats(2))
    other = batches.folder.parent / "elsewhere"
    with pytest.raises(InvalidInput, match="Nothing was sent") as refused:
        batches.run(boats(3), ledger=other)
    assert str(batches.folder) in str(refused.value)
    assert str(other) in str(refused.value)
    assert batches.service.counts.creates == 2
    # With the outputs elsewhere and the same ledger it goes on.
    result = batches.run(boats(3), storage=other, ledger=batches.folder)
    assert result.created == 1


def test_a_dry_run_with_another_ledger_is_refused_as_well(batches: Batches) -> None:
    batches.run(boats(2))
    with pytest.raises(InvalidInput, match="keeps its records in"):
        batches.run(boats(3), ledger=batches.folder.parent / "elsewhere", dry_run=True)


def test_records_that_are_gone_are_not_taken_for_none(batches: Batches) -> None:
    batches.run(boats(2))
    kept = batches.folder.parent / "kept"
    shutil.move(batches.records_folder, kept)
    for dry_run in (True, False):
        with pytest.raises(LedgerError, match="are gone") as gone:
            batches.run(boats(2), dry_run=dry_run)
        assert "Nothing was sent." in str(gone.value)
        assert "prefect variable delete cometapi-batch-" in str(gone.value)
    assert batches.service.counts.creates == 2
    shutil.move(kept, batches.records_folder)
    assert batches.run(boats(2)).created == 0


def test_the_last_run_of_many_that_is_gone_is_noticed(batches: Batches) -> None:
    batches.run(boats(1))
    batches.run(boats(2))
    shutil.rmtree(batches.records_folder / "run-0002")
    with pytest.raises(LedgerError, match="are gone"):
        batches.run(boats(2))
    assert batches.service.counts.creates == 2


def test_a_ledger_that_can_not_be_written_is_found_out_before_anything_is_sent(
    batches: Batches,
) -> None:
    batches.folder.mkdir()
    blocked = batches.folder / "a file"
    blocked.write_text("in the way")
    with pytest.raises(StorageError, match="Nothing was sent"):
        batches.run(boats(2), ledger=blocked)
    assert batches.service.counts.creates == 0


@pytest.mark.parametrize("trouble", [StorageError("No space left"), RuntimeError("No space left")])
def test_a_ledger_that_is_gone_half_way_stops_the_batch_and_loses_no_id(
    trouble: Exception, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for claims and ids from the third item on, until the batch has ended."""
    monkeypatch.setattr(journals, "PAUSES", (0.01,) * 3)
    write, full = Folder.write, [False]

    async def refusing(self: Folder, name: str, content: bytes) -> str:
        if full[0] and "/journal-" in name:
            raise trouble
        return await write(self, name, content)

    def some() -> Iterator[dict[str, str]]:
        yield from boats(3)
        full[0] = True
        yield from boats(3, 3)

    monkeypatch.setattr(Folder, "write", refusing)
    error = batches.fail(some(), in_flight=3)
    assert isinstance(error, BatchStopped)
    assert "No space left" in str(error)
    assert batches.service.counts.creates <= 3
    not_sent = error.result.count(ItemStatus.NOT_SENT)
    assert not_sent >= 1
    full[0] = False
    result = batches.run(boats(6))
    assert result.summary == "6 saved"
    assert batches.service.counts.charged == 6


def test_what_can_not_be_read_of_a_record_is_in_doubt(batches: Batches) -> None:
    batches.run(boats(2))
    for file in batches.journals():
        file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    error = batches.fail(boats(2))
    assert statuses(error.result) == [ItemStatus.IN_DOUBT] * 2
    assert batches.service.counts.creates == 2


def test_a_path_and_the_block_of_the_same_folder_are_one_place(
    batches: Batches, tmp_path: Path
) -> None:
    from prefect.filesystems import LocalFileSystem

    batches.run(boats(2))
    assert batches.run(boats(2), ledger=LocalFileSystem(basepath=str(batches.folder))).created == 0
