"""All records there are: those of the default home, and those of batches wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from logging import getLogger
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect_cometapi.batch_records import Held, held_journal
from prefect_cometapi.errors import CometAPIError, InvalidInput, LedgerError
from prefect_cometapi.holdings import Holding, holdings
from prefect_cometapi.journal import Journal
from prefect_cometapi.ledger import Record
from prefect_cometapi.records import Claim, Records, RecordStore, no_record, open_ledger
from prefect_cometapi.storage import open_storage

#: Seconds to wait for a batch that is at work, before something is written into its journal.
PATIENCE = 5.0


class EveryLedger(RecordStore):
    """The records of single predictions and of batches, for people and for cleaning up.

    Used as `async with`: what is written to a journal is there when it ends.

    Args:
        where: The default home, by the setting `ledger`.
    """

    def __init__(self, where: str) -> None:
        self.home = open_ledger(where)
        self._stack = AsyncExitStack()
        self._read: dict[str, Journal] = {}
        self._held: dict[str, Held] = {}
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for journal in self._read.values():
            journal.index.close()
        await self._stack.aclose()

    async def read(self, scope: str, key: str) -> tuple[bool, Record | None]:
        """The record of the home, else of a batch of that scope."""
        for journal in self._known():  # first: to ask the server for each of thousands takes long
            known = journal.index.record(key)
            if known[0]:
                return known
        exists, record = await self.home.read(scope, key)
        if exists:
            return exists, record
        for journal in await self._journals(scope):
            found = journal.index.record(key)
            if found[0]:
                return found
        return False, None

    async def records(self, scope: str | None = None) -> Records:
        """All of a scope; without one, of batches only those that have something left to do."""
        found = await self.home.records(scope)
        for journal in await self._journals(scope):
            found |= await journal.records()
        return found

    async def locate(self, key: str) -> tuple[str, Record | None]:
        """The record of that key, wherever it is."""
        try:
            return await self.home.locate(key)
        except InvalidInput:
            for journal in await self._journals(None, all_of_them=True):
                exists, record = journal.index.record(key)
                if exists:
                    return journal.scope, record
        raise no_record(key)

    async def store(self, key: str, record: Record) -> None:
        """Write the record to where it is."""
        held = await self._holder(record.scope, key)
        await (self.home if held is None else held.journal).store(key, record)

    async def delete(self, scope: str, key: str) -> None:
        """Delete the record."""
        held = await self._holder(scope, key)
        await (self.home if held is None else held.journal).delete(scope, key)

    async def claim(self, key: str, record: Record) -> Claim:
        """Claims are the home's: a batch makes its own."""
        return await self.home.claim(key, record)

    async def release(self, scope: str, key: str, claim: UUID | None = None) -> None:
        """Claims are the home's."""
        await self.home.release(scope, key, claim)

    async def hold(self, keys: Iterable[str]) -> None:
        """Get ready to write these records, so that each of them takes no time.

        Raises:
            LedgerError: One of their journals can not be written to.
        """
        keys = set(keys)
        for journal in list(self._known()):
            for key in keys:
                if journal.index.record(key)[0]:
                    await self._holder(journal.scope, key)
                    break

    def _known(self) -> list[Journal]:
        held = [each.journal for each in self._held.values()]
        return [*held, *(self._read[scope] for scope in self._read.keys() - self._held.keys())]

    # --- journals -----------------------------------------------------------------------------

    async def _journals(self, scope: str | None, *, all_of_them: bool = False) -> list[Journal]:
        """The journals of a scope, or of all batches that have something left to do."""
        found = []
        for holding in await holdings(scope):
            if scope is None and not all_of_them and holding.left == 0:
                continue
            if (journal := await self._journal(holding)) is not None:
                found.append(journal)
        return found

    async def _journal(self, holding: Holding) -> Journal | None:
        async with self._lock:
            if holding.scope in self._held:
                return self._held[holding.scope].journal
            if holding.scope not in self._read:
                try:
                    if not holding.place:
                        raise LedgerError("They are in a storage block that is not saved.")
                    journal = Journal(await open_storage(holding.place), holding.scope)
                    if await journal.load(holding.runs) < holding.runs:
                        raise LedgerError(f"They are not in {holding.place} on this machine.")
                    if holding.holder is None or holding.holder.is_dead:
                        journal.index.give_up_waiting()
                except CometAPIError as error:
                    getLogger("prefect_cometapi").warning(
                        "The records of the batch of scope %r can not be read here. %s",
                        holding.scope,
                        error,
                    )
                    return None
                self._read[holding.scope] = journal
            return self._read[holding.scope]

    async def _holder(self, scope: str, key: str) -> Held | None:
        """The journal that has the record, to be added to; None where the home has it."""
        if scope in self._held and self._held[scope].journal.index.record(key)[0]:
            return self._held[scope]
        known = [*self._known(), *(await self._journals(scope))]
        if not any(journal.scope == scope and journal.index.record(key)[0] for journal in known):
            return None
        async with self._lock:
            if scope not in self._held:
                [place] = [each.place for each in await holdings(scope) if each.scope == scope]
                try:
                    async with asyncio.timeout(PATIENCE):
                        self._held[scope] = await self._stack.enter_async_context(
                            held_journal(place, scope, [], lambda _: None)
                        )
                except TimeoutError:
                    raise LedgerError(
                        f"The batch of scope {scope!r} is at work, and writes its records itself. "
                        "Try again when it is over, or stop it. Nothing was changed."
                    ) from None
            return self._held[scope]
