"""The records of a batch, held by this process: its journal, and the right to add to it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect.blocks.core import Block
from prefect.settings import PREFECT_HOME

from prefect_cometapi.errors import LedgerError
from prefect_cometapi.holdings import Place, runs_before, variable_name
from prefect_cometapi.journal import Journal
from prefect_cometapi.lease import Lease
from prefect_cometapi.ledger import Record
from prefect_cometapi.prefect_api import which_server
from prefect_cometapi.records import Claim, Records, RecordStore
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.storage import BLOCK_SCHEME, Storage, open_storage
from prefect_cometapi.stores import Folder, Store


@dataclass
class Held:
    """A journal that this process adds to. Calls of one scope in one process share it."""

    journal: Journal
    lease: Lease | None
    calls: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    #: How many predictions of each model the scope has, or may have: of all calls.
    made: Counter[str] = field(default_factory=Counter)


def default_ledger(storage: Storage | None, settings: CometAPISettings) -> Storage:
    """Where a batch keeps its records, if the caller does not say."""
    if settings.ledger.startswith(BLOCK_SCHEME):
        return settings.ledger
    return storage if storage is not None else Path(PREFECT_HOME.value())


def place_of(storage: Storage, store: Store) -> Place:
    """What the storage is known by, on this machine and on others."""
    if isinstance(store, Folder):
        return Place(store.identity, store.identity)
    if isinstance(storage, str):
        return Place(storage, storage)
    name = storage._block_document_name if isinstance(storage, Block) else None
    if name and isinstance(storage, Block):
        reference = f"{BLOCK_SCHEME}{storage.get_block_type_slug()}/{name}"
        return Place(reference, reference)
    return Place("", store.identity)


@dataclass
class _Opening:
    task: asyncio.Task[Held]
    users: int = 0


_openings: dict[tuple[object, ...], _Opening] = {}


@asynccontextmanager
async def held_journal(
    storage: Storage, scope: str, flow_runs: list[str], notify: Callable[[str], object]
) -> AsyncIterator[Held]:
    """Hold the journal of a scope; waits while another process does. On the background loop.

    Args:
        storage: Where it is.
        scope: Whose it is.
        flow_runs: Whom the batch can be found by, too.
        notify: Told when it has to wait.

    Raises:
        InvalidInput: The records of the scope are in another place.
        LedgerError: The ledger, or Prefect's server, could not be used. Nothing was sent.
    """
    store = await open_storage(storage)
    place = place_of(storage, store)
    key = (asyncio.get_running_loop(), which_server(), place.identity, scope)
    if key not in _openings:
        task = asyncio.create_task(_hold(store, place, scope, flow_runs, notify))
        _openings[key] = _Opening(task)
    opening = _openings[key]
    opening.users += 1
    try:
        yield await asyncio.shield(opening.task)
    finally:
        opening.users -= 1
        if not opening.users:
            if _openings.get(key) is opening:
                del _openings[key]
            opening.task.cancel()  # where it still waits
            await asyncio.wait([opening.task])
            if not opening.task.cancelled() and not opening.task.exception():
                await _let_go(opening.task.result())


@asynccontextmanager
async def read_journal(storage: Storage, scope: str) -> AsyncIterator[Held]:
    """What the journal of a scope says, for who only looks.

    Raises:
        InvalidInput: The records of the scope are in another place.
        LedgerError: They could not be read, or are gone.
    """
    store = await open_storage(storage)
    place = place_of(storage, store)
    journal = Journal(store, scope)
    try:
        await _load(journal, place, await runs_before(scope, place))
        yield Held(journal, None, made=journal.index.models())
    finally:
        journal.index.close()


async def _load(journal: Journal, place: Place, at_least: int) -> int:
    """Read what there is; returns how many runs have worked on it."""
    runs = await journal.load(at_least)
    if runs < at_least:
        raise LedgerError(
            f"The records of the batch of scope {journal.scope!r} were in {place}, and are gone, "
            "or a part of them: what was paid for already can not be known. Bring them back, or "
            "use another scope, which pays for all items anew. To forget them: `prefect variable "
            f"delete {variable_name(journal.scope)}`. Nothing was sent."
        )
    return runs


async def _hold(
    store: Store, place: Place, scope: str, flow_runs: list[str], notify: Callable[[str], object]
) -> Held:
    lease = await Lease.take(scope, place, flow_runs, notify)
    journal = Journal(store, scope)
    try:
        runs = await _load(journal, place, lease.runs)
        await journal.begin(runs + 1)
        await lease.write_runs(runs + 1)
    except BaseException:
        journal.index.close()
        await lease.release()
        raise
    journal.held = lease.held
    return Held(journal, lease, made=journal.index.models())


async def _let_go(held: Held) -> None:
    await held.journal.close()
    if held.lease is not None:
        await held.lease.release(held.journal.index.left())
    held.journal.index.close()


def _forget_after_fork() -> None:
    _openings.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


class Permitted(RecordStore):
    """A journal as one call of a batch sees it: each create is asked for first.

    Args:
        journal: The records.
        permit: Raises where a create is not to be sent.
        go_on: Raises where what was permitted is not to be sent after all.
        taken_back: Told of those that were not accepted.
    """

    torn_patience = 0.0  # nobody else writes into a journal that is held

    def __init__(
        self,
        journal: Journal,
        permit: Callable[[Record], object],
        go_on: Callable[[], object],
        taken_back: Callable[[str], object],
    ) -> None:
        self._journal, self._permit, self._go_on = journal, permit, go_on
        self._taken_back = taken_back

    async def read(self, scope: str, key: str) -> tuple[bool, Record | None]:
        """What the journal says."""
        return await self._journal.read(scope, key)

    async def claim(self, key: str, record: Record) -> Claim:
        """Ask, then write the intent."""
        self._permit(record)
        try:
            claim = await self._journal.claim(key, record)
        except BaseException:
            self._taken_back(record.model)
            raise
        try:
            self._go_on()
        except BaseException:
            await self.release(record.scope, key, claim.id)
            raise
        return claim

    async def store(self, key: str, record: Record) -> None:
        """Write the record."""
        await self._journal.store(key, record)

    async def release(self, scope: str, key: str, claim: UUID | None = None) -> None:
        """Nothing was sent."""
        _, record = await self._journal.read(scope, key)
        await self._journal.release(scope, key, claim)
        if record is not None:
            self._taken_back(record.model)

    async def delete(self, scope: str, key: str) -> None:
        """Forget a record."""
        await self._journal.delete(scope, key)

    async def records(self, scope: str | None = None) -> Records:
        """All there are."""
        return await self._journal.records(scope)
