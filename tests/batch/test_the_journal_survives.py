"""What was written into a journal is read again, whatever happened to its storage meanwhile."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

from prefect_cometapi import journal as journals
from prefect_cometapi import portal
from prefect_cometapi.errors import LedgerError, StorageError
from prefect_cometapi.journal import ABREAST, Journal
from prefect_cometapi.ledger import Outcome, Record, intent
from prefect_cometapi.records import ClaimTaken
from prefect_cometapi.stores import Folder
from tests.homes import key_of
from tests.servers import MODEL


class Flaky(Folder):
    """A folder that refuses so many writes before it takes one."""

    refusals = 0
    writes = reads = 0

    async def read(self, name: str, most: int | None = None) -> bytes | None:
        self.reads += 1
        return await super().read(name)

    async def write(self, name: str, content: bytes) -> str:
        self.writes += 1
        if self.refusals:
            self.refusals -= 1
            raise StorageError("The disk is full.")
        return await super().write(name, content)


@pytest.fixture
def store(tmp_path: Path) -> Flaky:
    return Flaky(tmp_path)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "PAUSES", (0.0,) * len(journals.PAUSES))
    monkeypatch.setattr(journals, "LINGER", 0.01)


def record(number: int) -> Record:
    return intent(
        scope="scope",
        model=MODEL,
        api_root="any",
        input={"prompt": f"boat {number}"},
        sample=0,
        key=None,
        attempt=1,
        flow_runs=[],
        credentials=None,
        patience=timedelta(seconds=60),
    )


async def opened(store: Folder) -> Journal:
    """As a process does that has just come to hold it."""
    journal = Journal(store, "scope")
    await journal.begin(await journal.load() + 1)
    return journal


async def paid(journal: Journal, number: int) -> None:
    """Claim, and store the id."""
    await journal.claim(key_of(number), record(number))
    await journal.store(key_of(number), record(number).model_copy(update={"prediction_id": "p"}))


def known(journal: Journal) -> dict[str, str]:
    """The ids by key; in doubt is a `?`."""
    return {
        key: (each.prediction_id or "?") if each else "unreadable"
        for key, each in journal.index.records()
    }


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("journal-*.jsonl"))


def test_what_was_written_is_read(store: Flaky, tmp_path: Path) -> None:
    async def work() -> None:
        first = await opened(store)
        await asyncio.gather(*(paid(first, number) for number in range(50)))
        await first.claim(key_of(50), record(50))
        await first.claim(key_of(51), record(51))
        await first.release("scope", key_of(51))
        with pytest.raises(ClaimTaken):
            await first.claim(key_of(0), record(0))
        await first.close()
        second = await opened(store)
        assert known(second) == {**{key_of(n): "p" for n in range(50)}, key_of(50): "?"}
        in_doubt = second.index.record(key_of(50))[1]
        assert in_doubt is not None
        assert in_doubt.lost  # its process is gone: nobody waits for its id
        await second.close()

    portal.call(work)
    # Fifty claims side by side share a file, and fifty ids: that is what keeps a batch quick.
    assert len(files(tmp_path)) <= 10


def test_a_line_that_a_crash_cut_short_is_passed_over(store: Flaky, tmp_path: Path) -> None:
    async def write() -> None:
        journal = await opened(store)
        await paid(journal, 0)
        await paid(journal, 1)
        await journal.close()

    async def read() -> dict[str, str]:
        journal = Journal(store, "scope")
        await journal.load()
        return known(journal)

    portal.call(write)
    last = files(tmp_path)[-1]
    assert key_of(1) in last.read_text()
    last.write_bytes(last.read_bytes()[:-30])
    assert portal.call(read) == {key_of(0): "p", key_of(1): "?"}
    last.write_bytes(b"\xff\xfe\n[1]\nnull\n{}\n")
    assert portal.call(read) == {key_of(0): "p", key_of(1): "?"}


@pytest.mark.parametrize("refusals", [1, 5, len(journals.PAUSES)])
def test_a_write_that_fails_for_a_while_fails_nothing(refusals: int, store: Flaky) -> None:
    async def work() -> None:
        first = await opened(store)
        for number in range(3):
            store.refusals = refusals
            await paid(first, number)
        await first.close()
        second = await opened(store)
        assert known(second) == {key_of(number): "p" for number in range(3)}
        await second.close()

    portal.call(work)


@pytest.mark.parametrize("outages", [1, 2, 5, 3 * ABREAST])
def test_what_comes_after_an_outage_is_found(outages: int, store: Flaky) -> None:
    async def work() -> None:
        first = await opened(store)
        await paid(first, 0)
        store.refusals = outages * (len(journals.PAUSES) + 1)
        for number in range(1, outages + 1):
            with pytest.raises(LedgerError, match=r"The disk is full\. Nothing was sent\."):
                await first.claim(key_of(number), record(number))
        assert store.refusals == 0
        await paid(first, 1000)
        await first.close()
        second = await opened(store)
        assert known(second) == {key_of(0): "p", key_of(1000): "p"}
        await second.close()

    portal.call(work)


def test_a_storage_that_is_gone_from_the_beginning_is_an_error(store: Flaky) -> None:
    async def work() -> None:
        store.refusals = 1
        with pytest.raises(LedgerError, match="could not be written"):
            await opened(store)

    portal.call(work)


def test_every_write_that_is_refused_stays_refused_when_it_is_closed(store: Flaky) -> None:
    """Closing waits for the last lines, and ends also where the storage does not take them."""

    async def work() -> None:
        journal = await opened(store)
        store.refusals = 10**9
        done = journal.append(key_of(0), urgent=False, item={})
        await journal.close()
        with pytest.raises(LedgerError):
            await done

    portal.call(work)


def test_the_last_line_of_a_record_counts(store: Flaky) -> None:
    async def work() -> None:
        for outcome in (Outcome.FAILED, Outcome.RESUBMITTED, Outcome.SAVED):
            journal = await opened(store)
            await journal.store(key_of(0), record(0).ended(outcome))
            await journal.close()
        last = Journal(store, "scope")
        assert await last.load() == 3
        found = last.index.record(key_of(0))[1]
        assert found is not None
        assert found.outcome is Outcome.SAVED

    portal.call(work)


@pytest.fixture
def _many_files_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MANY_FILES", 4)
    monkeypatch.setattr(journals, "LINES", 3)


@pytest.mark.usefixtures("_many_files_soon")
def test_where_files_are_many_a_run_begins_with_a_copy(store: Flaky, tmp_path: Path) -> None:
    async def work() -> None:
        first = await opened(store)
        for number in range(8):
            await paid(first, number)
        await first.release("scope", key_of(7))
        await first.close()
        second = await opened(store)
        await paid(second, 8)
        await second.close()

    async def read() -> dict[str, str]:
        journal = Journal(store, "scope")
        assert await journal.load() == 2
        return known(journal)

    portal.call(work)
    (head,) = map(json.loads, (tmp_path.rglob("run-0002/journal-000001.jsonl")).__next__().open())
    assert head["copied"] == 3
    expected = {key_of(number): "p" for number in (*range(7), 8)}
    assert portal.call(read) == expected
    # The first run's files are not needed any more, except that it has been.
    for file in tmp_path.rglob("run-0001/journal-*.jsonl"):
        if not file.name.endswith("000001.jsonl"):
            file.unlink()
    assert portal.call(read) == expected


@pytest.mark.usefixtures("_many_files_soon")
def test_half_a_copy_is_not_relied_upon(store: Flaky, tmp_path: Path) -> None:
    async def write() -> None:
        first = await opened(store)
        for number in range(8):
            await paid(first, number)
        await first.close()
        await (await opened(store)).close()

    async def read() -> dict[str, str]:
        journal = Journal(store, "scope")
        await journal.load()
        return known(journal)

    portal.call(write)
    files(tmp_path)[-1].unlink()  # killed before the last file of the copy
    assert portal.call(read) == {key_of(number): "p" for number in range(8)}


@pytest.mark.usefixtures("_many_files_soon")
def test_a_scope_of_many_runs_is_not_counted_from_the_first(store: Flaky) -> None:
    async def work() -> None:
        for number in range(40):
            journal = await opened(store)
            await paid(journal, number)
            await journal.close()

    async def read(at_least: int) -> int:
        before, journal = store.reads, Journal(store, "scope")
        assert await journal.load(at_least) == 40
        assert len(known(journal)) == 40
        return store.reads - before

    portal.call(work)
    counting = portal.call(read, 0)
    assert counting - portal.call(read, 40) == 39
    assert portal.call(read, 39) < counting
    assert portal.call(read, 41) > counting  # which is not there: all are counted
