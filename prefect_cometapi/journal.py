"""The records of a batch, in a storage: what is about to be paid for is written there before.

A journal is a series of small files that are each written once and never changed, so a write that
comes late or is cut short harms nothing, and any storage block will do. Lines that are ready at
the same moment share a file: twenty creates side by side wait for one write, not for twenty. The
last line of a record counts.

    cometapi-batches/<scope>/run-0001/journal-000001.jsonl    {"record_key": …, "record": {…}}
                                      journal-000002.jsonl    {"record_key": …, "item": {…}}
                                      manifest-1.jsonl        at the end: the items, one a line
                                      summary-1.json          and what became of them, in numbers

Each process that works on the batch has a folder of its own, `run-0001`, `run-0002`, …; where the
files before it are many, it begins with a copy of all that they say.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect_cometapi.batch_index import Index, as_plain
from prefect_cometapi.errors import LedgerError, StorageError
from prefect_cometapi.ledger import Record
from prefect_cometapi.portal import interruption_waits
from prefect_cometapi.records import Claim, ClaimTaken, Records, RecordStore, folder_of
from prefect_cometapi.stores import Store

SCHEMA = 1
FOLDER = "cometapi-batches"
#: Most lines of one file: some 600 bytes each, and a storage block holds a whole file in memory.
LINES = 5_000
#: Files are read so many at a time. As many in a row that are missing are the end: a write that
#: was given up leaves a gap.
ABREAST = 16
#: Pauses between the tries of one write, in seconds: 84 in all, because what is written is what
#: was paid for.
PAUSES = (0.2, 0.4, 1.0, 2.0, *[8.0] * 10)
#: Seconds that one write or read may take.
TIMEOUT = 30.0
#: How often one who waits for a line looks whether he is to stop, in seconds.
GLANCE = 0.5
#: Seconds that the last lines are tried for when a batch is closed.
CLOSE_TIMEOUT = 90.0
#: Seconds since the last file until what is merely good to know is written: it shares a file with
#: others where there are many, and waits for nothing where there are few.
LINGER = 0.5
#: And no longer than so many times what the last write took: a quick storage is written to often.
LINGER_SHARE = 5.0
#: With more files than this before it, a run begins with a copy: it saves the next one reading
#: them, at a tenth of a second and less each.
MANY_FILES = 200


class Journal(RecordStore):
    """The records of one scope's batch. Belongs to the background loop.

    Args:
        store: Where it is.
        scope: Whose it is.
    """

    def __init__(self, store: Store, scope: str) -> None:
        self.store_of_files, self.scope = store, scope
        self.index = Index()
        self.run = 0
        #: Returns when creates may be sent by this process; raises where never again.
        self.held: Callable[[], Awaitable[None]] = _at_once
        self._folder = f"{FOLDER}/{folder_of(scope)}"
        #: The next file's number, and how many before it were given up in a row.
        self._number, self._missing = 1, 0
        self._lines: list[str] = []
        self._done: list[asyncio.Future[None]] = []
        self._wanted, self._urgent = asyncio.Event(), asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._files_before = 0

    # --- reading ------------------------------------------------------------------------------

    async def load(self, at_least: int = 0) -> int:
        """Read all that is there; returns how many runs have worked on it.

        Args:
            at_least: So many have, as far as is known: a schedule of years need not count them.

        Raises:
            LedgerError: It could not be read. Nothing was sent.
        """
        runs = at_least
        if runs and await self._read(self._name(runs, 1)) is None:
            runs = 0
        while await self._read(self._name(runs + 1, 1)) is not None:
            runs += 1
        first = runs
        while first > 1 and not await self._begins_with_a_copy(first):
            first -= 1
        for run in range(first, runs + 1):
            async for lines in self._files(run):
                for line in lines:
                    self.index.apply(line)
        return runs

    async def _begins_with_a_copy(self, run: int) -> bool:
        head = _parsed(await self._read(self._name(run, 1)) or b"")
        copied = head[0].get("copied", 0) if head else 0
        return copied > 0 and await self._read(self._name(run, 1 + copied)) is not None

    async def _files(self, run: int) -> AsyncIterator[list[dict[str, Any]]]:
        for start in itertools.count(1, ABREAST):
            names = [self._name(run, start + i) for i in range(ABREAST)]
            contents = await asyncio.gather(*map(self._read, names))
            for content in contents:
                if content is not None:
                    self._files_before += 1
                    yield _parsed(content)
            if not any(content is not None for content in contents):
                return

    async def _read(self, name: str) -> bytes | None:
        trouble: Exception | None = None
        for pause in (0.2, 1.0, 2.0):
            try:
                async with asyncio.timeout(TIMEOUT):
                    return await self.store_of_files.read(name)
            except (StorageError, TimeoutError) as error:
                trouble = error
            await asyncio.sleep(pause)
        raise LedgerError(
            f"The ledger in the {self.store_of_files} could not be read: "
            f"{trouble or f'no answer within {TIMEOUT:g} s'}. Nothing was sent."
        ) from trouble

    def _name(self, run: int, number: int) -> str:
        return f"{self._folder}/run-{run:04d}/journal-{number:06d}.jsonl"

    # --- writing ------------------------------------------------------------------------------

    async def begin(self, run: int) -> None:
        """Begin a folder of one's own, with a copy of the others where they are many.

        Raises:
            LedgerError: It could not be written. Nothing was sent.
        """
        self.run = run
        copy = self._files_before > MANY_FILES
        files = -(-len(self.index) // LINES) if copy else 0
        head = {"journal": SCHEMA, "scope": self.scope, "run": run, "copied": files}
        # Tried once: nothing has been sent yet.
        await self._write_file([json.dumps(head, ensure_ascii=False)])
        lines = self.index.lines()
        for _ in range(files):
            await self._write_file(list(itertools.islice(lines, LINES)))
        self.index.give_up_waiting()
        self._writer = asyncio.create_task(self._write_for_ever())

    def append(self, key: str, *, urgent: bool = True, **values: Any) -> asyncio.Future[None]:
        """Add a line; done when it is in the storage, together with all that came before it.

        Args:
            key: The record's.
            urgent: Write it now; else at the latest in `LINGER` seconds.
            values: `record` or `item`, as plain data.
        """
        line = {"record_key": key, **values}
        self.index.apply(line)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self._done.append(done)
        self._wanted.set()
        if urgent:
            self._urgent.set()
        return done

    async def write_manifest(self, call: int) -> str:
        """Write the items of one call into one file; returns its name.

        Raises:
            StorageError: It was not taken. The same items are in the journal.
        """
        name = f"{self._folder}/run-{self.run:04d}/manifest-{call}.jsonl"
        rows = self.index.rows(call)
        with self.store_of_files.staging(name) as path, path.open("w", encoding="utf-8") as file:
            while lines := list(itertools.islice(rows, LINES)):
                await asyncio.to_thread(file.writelines, (f"{line}\n" for line in lines))
            file.flush()
            await self.store_of_files.put(path, name)
        return name

    async def write_summary(self, manifest: str, summary: str) -> None:
        """Write beside a manifest what became of its batch.

        Raises:
            StorageError: It was not taken.
        """
        await self.store_of_files.write(summary_name(manifest), summary.encode("utf-8", "replace"))

    async def close(self) -> None:
        """Write what is left, and let go; trouble is told to those who wait for their lines."""
        if self._writer is not None:
            self._urgent.set()
            last = list(self._done)
            if last:
                await asyncio.wait(last, timeout=CLOSE_TIMEOUT)
            self._writer.cancel()
            await asyncio.wait([self._writer])

    async def _write_for_ever(self) -> None:
        clock = asyncio.get_running_loop().time
        last, took = clock(), 0.0
        while True:
            await self._wanted.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(last + min(LINGER, LINGER_SHARE * took)):
                    await self._urgent.wait()
            self._urgent.clear()
            lines, done, began = self._lines[:LINES], self._done[:LINES], clock()
            try:
                await self._write(lines)
            except LedgerError as error:
                for each in done:
                    if not each.done():
                        each.set_exception(error)
                        each.exception()  # looked at: not everybody waits for it
            else:
                for each in done:
                    if not each.done():
                        each.set_result(None)
            last, took = clock(), clock() - began
            del self._lines[: len(lines)], self._done[: len(done)]
            if not self._lines:
                self._wanted.clear()

    async def _write(self, lines: list[str]) -> None:
        """Write lines to the next file, with patience. A try that comes late writes the same."""
        for pause in (*PAUSES, None):
            try:
                await self._write_file(lines)
                break
            except LedgerError:
                if pause is None:
                    # A late try must not take the place of other lines. But so many files must
                    # not be missing that what comes after them is not looked for.
                    if self._missing < ABREAST - 1:
                        self._number, self._missing = self._number + 1, self._missing + 1
                    raise
                await asyncio.sleep(pause)

    async def _write_file(self, lines: list[str]) -> None:
        content = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        try:
            async with asyncio.timeout(TIMEOUT):
                await self.store_of_files.write(self._name(self.run, self._number), content)
        except Exception as error:  # any: who waits for these lines must not wait for ever
            raise LedgerError(
                f"The ledger in the {self.store_of_files} could not be written: "
                f"{str(error) or f'no answer within {TIMEOUT:g} s.'}"
            ) from error
        self._number, self._missing = self._number + 1, 0

    # --- records ------------------------------------------------------------------------------

    async def read(self, scope: str, key: str) -> tuple[bool, Record | None]:
        """What is known here: nobody else writes."""
        return self.index.record(key)

    async def claim(self, key: str, record: Record) -> Claim:
        """Write the intent, and wait until it is in the storage."""
        if self.index.record(key)[0]:
            raise ClaimTaken
        try:
            written = self.append(key, record=as_plain(record.afresh()))
            while not written.done():  # in slices: a storage that hangs must not hold a stop up
                if interruption_waits():
                    raise LedgerError("It was interrupted before its record was written.")
                await asyncio.wait([written], timeout=GLANCE)
            written.result()
            await self.held()
        except LedgerError as error:
            self.append(key, urgent=False, record=None)
            raise LedgerError(f"{error} Nothing was sent.") from error
        return Claim(None, datetime.now(UTC))

    async def store(self, key: str, record: Record) -> None:
        """Write the record; where it has ended, a little later, together with others."""
        ended = record.outcome is not None
        done = self.append(key, urgent=not ended, record=as_plain(record))
        if not ended:
            await done

    async def release(self, scope: str, key: str, claim: UUID | None = None) -> None:
        """Say that nothing was sent."""
        self.append(key, urgent=False, record=None)

    async def delete(self, scope: str, key: str) -> None:
        """Forget a record."""
        await self.append(key, record=None)

    async def records(self, scope: str | None = None) -> Records:
        """All there are."""
        return dict(self.index.records())


async def _at_once() -> None: ...


def summary_name(manifest: str) -> str:
    """The name of the file beside a manifest that has the numbers of its batch."""
    folder, slash, name = manifest.rpartition("/")
    return f"{folder}{slash}{name.replace('manifest-', 'summary-').removesuffix('.jsonl')}.json"


def _parsed(content: bytes) -> list[dict[str, Any]]:
    """The lines of a file; what a crash cut short was never relied upon."""
    lines = []
    for line in content.decode("utf-8", "replace").split("\n"):
        with suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                lines.append(value)
    return lines
