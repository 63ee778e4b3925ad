"""Where the ledger's records live: on Prefect's server, or on a storage block.

Both claim on the server, where creating a Variable that exists fails: an atomic claim that holds
across machines and survives a pod's disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.objects import Variable
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from prefect_cometapi.errors import InvalidInput, LedgerError, StorageError
from prefect_cometapi.ledger import Record, read_record
from prefect_cometapi.prefect_api import ask, which_server
from prefect_cometapi.storage import BLOCK_SCHEME, open_storage
from prefect_cometapi.stores import Store

T = TypeVar("T")

#: What marks the Variables of the ledger.
TAG = "cometapi"
#: Before the scope, in the tag after that, and before the flow runs in the rest.
SCOPE = "scope:"
FOLDER = "cometapi-ledger"
#: Seconds that reading or writing one record in a storage may take.
STORAGE_TIMEOUT = 20.0
#: Seconds that bringing all records of a storage here may take.
LIST_TIMEOUT = 120.0
#: How many Variables the server hands out at once.
_PAGE = 200

#: Records by their key; None where one can not be read.
Records = dict[str, Record | None]


@dataclass(frozen=True)
class Claim:
    """A claim that was taken: what to `release` it by, and what its intent says it was sent at."""

    id: UUID | None
    sent_at: datetime


class ClaimTaken(Exception):
    """Somebody else has claimed the record in the meantime."""


def no_record(key: str) -> InvalidInput:
    """The error for a key under which there is nothing."""
    return InvalidInput(
        f"There is no record {key} in the ledger. List them: python -m prefect_cometapi ledger list"
    )


class RecordStore(ABC):
    """Where records live. Every method raises `LedgerError` where that can not be used.

    Attributes:
        torn_patience: Seconds that a record which can not be read may take to become whole: it may
            be a file that is just being written.
    """

    torn_patience = 3.0

    @abstractmethod
    async def read(self, scope: str, key: str) -> tuple[bool, Record | None]:
        """Whether there is a record, and the record if it can be read."""

    @abstractmethod
    async def claim(self, key: str, record: Record) -> Claim:
        """Write the intent, as of now, unless there is a record already, in one step.

        Raises:
            ClaimTaken: There is one.
        """

    @abstractmethod
    async def store(self, key: str, record: Record) -> None:
        """Write the record anew, with what has become known."""

    @abstractmethod
    async def release(self, scope: str, key: str, claim: UUID | None = None) -> None:
        """Take a claim back, of what was certainly not accepted.

        With `claim`, only that one: a late release must not hit the next claim of the same key.
        """

    @abstractmethod
    async def delete(self, scope: str, key: str) -> None:
        """Delete a record that is of no use any more."""

    @abstractmethod
    async def records(self, scope: str | None = None) -> Records:
        """All records of a scope, or all there are.

        The scope `flow-run:<id>` also means what that run has sent under another name; in a
        storage block only as far as it has no id yet.
        """

    async def locate(self, key: str) -> tuple[str, Record | None]:
        """The scope of a record that is known by its key alone, and the record.

        Raises:
            InvalidInput: There is no such record.
        """
        for found, record in (await self.records()).items():
            if found == key:
                return (record.scope if record else ""), record
        raise no_record(key)


class ServerRecords(RecordStore):
    """Records as Variables on Prefect's server: the default, for a run's own few hundred."""

    async def read(self, scope: str, key: str) -> tuple[bool, Record | None]:
        """One Variable, or none."""
        variable = await _ask(lambda client: client.read_variable_by_name(key))
        return (variable is not None, read_record(variable.value) if variable else None)

    async def claim(self, key: str, record: Record) -> Claim:
        """Create the Variable, which fails where there is one."""

        async def create(client: PrefectClient) -> Claim:
            intent = record.afresh()  # in its turn, for which it may have waited
            new = {"name": key, "value": intent.as_json(), "tags": _tags(intent)}
            made = await client.create_variable(VariableCreate(**new))
            return Claim(made.id, intent.sent_at)

        try:
            claim = await _ask(create)
        except (ClaimTaken, LedgerError):
            # Perhaps it was written and only the answer lost: Prefect's client sends it again.
            made = await _ask(lambda client: client.read_variable_by_name(key))
            found = read_record(made.value) if made else None
            if made is None or found is None or not found.owner or found.owner != record.owner:
                raise
            claim = Claim(made.id, found.sent_at)
        if claim is None:  # 404: that is no server which keeps Variables
            raise LedgerError("Prefect's server keeps no Variables. Nothing was sent.")
        return claim

    async def store(self, key: str, record: Record) -> None:
        """Update the Variable; where somebody has deleted it meanwhile, create it."""
        new = {"name": key, "value": record.as_json(), "tags": _tags(record)}
        try:
            await _ask(
                lambda client: client.update_variable(VariableUpdate(**new)), then="", urgent=True
            )
        except LedgerError as error:
            if _status(error.__cause__) != 404:
                raise
            try:
                await _ask(lambda client: client.create_variable(VariableCreate(**new)), then="")
            except ClaimTaken:  # it is there after all
                raise error from None

    async def release(self, scope: str, key: str, claim: UUID | None = None) -> None:
        """Delete the Variable, by its id where that is known."""
        if claim is None:
            return await self.delete(scope, key)
        path: Any = f"/variables/{claim}"
        try:
            await _ask(lambda client: client.request("DELETE", path), then="")
        except LedgerError as error:
            if _status(error.__cause__) != 404:
                raise
        return None

    async def delete(self, scope: str, key: str) -> None:
        """Delete the Variable."""
        await _ask(lambda client: client.delete_variable_by_name(key), then="")

    async def records(self, scope: str | None = None) -> Records:
        """The Variables with the tags of the scope."""
        tags = [TAG] if scope is None else [TAG, SCOPE + scope]
        found: Records = {}
        while True:
            page = await _ask(
                lambda client: client.request(
                    "POST",
                    "/variables/filter",
                    json={
                        "variables": {"tags": {"all_": tags}},
                        "sort": "CREATED_DESC",
                        "limit": _PAGE,
                        "offset": len(found),  # noqa: B023 - used at once
                    },
                ),
                then="",
            )
            rows = [Variable.model_validate(row) for row in page.json()] if page else []
            found |= {row.name: read_record(row.value) for row in rows}
            if len(rows) < _PAGE:
                return dict(reversed(found.items()))

    async def locate(self, key: str) -> tuple[str, Record | None]:
        """The Variable of that name."""
        variable = await _ask(lambda client: client.read_variable_by_name(key))
        if variable is None or TAG not in variable.tags:
            raise no_record(key)
        scopes = [tag.removeprefix(SCOPE) for tag in variable.tags if tag.startswith(SCOPE)]
        return (scopes or [""])[0], read_record(variable.value)


class StoredRecords(RecordStore):
    """Records as small files in a storage, one folder a scope; only claims are on the server.

    A record that the storage holds is what counts; without one, the claim does.
    """

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._claims = ServerRecords()
        self._opened: Store | None = None
        self._opening = asyncio.Lock()

    async def read(self, scope: str, key: str) -> tuple[bool, Record | None]:
        """The stored record, else the claim."""
        content = await self._use(lambda store: store.read(_name(scope, key)))
        if content is not None:
            return True, _decoded(content)
        return await self._claims.read(scope, key)

    async def claim(self, key: str, record: Record) -> Claim:
        """Claim on the server, then look whether the claim before this one has ended well."""
        claim = await self._claims.claim(key, record)
        try:
            stored = await self._use(lambda store: store.read(_name(record.scope, key)))
        except LedgerError:
            await self.release(record.scope, key, claim.id)  # nothing will be sent
            raise
        if stored is not None:
            await self.release(record.scope, key, claim.id)
            raise ClaimTaken
        return claim

    async def store(self, key: str, record: Record) -> None:
        """Write the file, then give up the claim: the other way round would lose the record."""
        content = json.dumps(record.as_json(sys.maxsize), ensure_ascii=False).encode(
            "utf-8", "replace"
        )
        await self._use(lambda store: store.write(_name(record.scope, key), content), then="")
        await self.release(record.scope, key)

    async def release(self, scope: str, key: str, claim: UUID | None = None) -> None:
        """Delete the claim; there is no file yet, or it is safe."""
        await self._claims.release(scope, key, claim)

    async def delete(self, scope: str, key: str) -> None:
        """Delete file and claim."""
        await self._use(lambda store: store.remove(_name(scope, key)), then="")
        await self.release(scope, key)

    async def records(self, scope: str | None = None) -> Records:
        """The files of the scope's folder, and the claims that have no file."""
        claims = await self._claims.records(scope)  # first: a claim may become a file meanwhile
        folder = FOLDER if scope is None else f"{FOLDER}/{folder_of(scope)}"
        files = await self._use(lambda store: store.read_all(folder), then="", seconds=LIST_TIMEOUT)
        stored = {
            name.rpartition("/")[2].removesuffix(".json"): _decoded(content)
            for name, content in files.items()
            if name.endswith(".json")
        }
        return claims | stored

    async def _use(
        self,
        question: Callable[[Store], Awaitable[T]],
        then: str = "Nothing was sent.",
        seconds: float = STORAGE_TIMEOUT,
    ) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await question(await self._store())
        except (StorageError, InvalidInput, TimeoutError) as error:
            self._opened = None  # its credentials may have been changed meanwhile
            reason = str(error) or f"there was no answer within {seconds:g} s."
            raise LedgerError(
                f"The ledger in {self._storage} could not be used: {reason} {then}".rstrip()
            ) from error

    async def _store(self) -> Store:
        async with self._opening:  # many ask at once; one opens it
            self._opened = self._opened or await open_storage(self._storage)
            return self._opened


def open_ledger(where: str) -> RecordStore:
    """The home of the records, by the setting `ledger`, which knows only these two."""
    if where.startswith(BLOCK_SCHEME):
        return _stored(where, which_server())
    return ServerRecords()


@lru_cache(maxsize=16)
def _stored(where: str, server: tuple[object, ...]) -> StoredRecords:
    """One for each block of each Prefect server, so that the block is loaded once."""
    return StoredRecords(where)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stored.cache_clear)


async def _ask(
    question: Callable[[PrefectClient], Awaitable[T]],
    then: str = "Nothing was sent.",
    *,
    urgent: bool = False,
) -> T | None:
    try:
        return await ask(question, urgent=urgent)
    except ObjectAlreadyExists:
        raise ClaimTaken from None
    except ObjectNotFound:
        return None
    except Exception as error:
        raise LedgerError(
            "The ledger on Prefect's server could not be used "
            f"({type(error).__name__}: {error}). {then}".rstrip()
        ) from error


def _status(error: BaseException | None) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def _tags(record: Record) -> list[str]:
    return [TAG, *(SCOPE + tag for tag in record.tags)]


def folder_of(scope: str) -> str:
    """A folder's name for a scope: readable, and different for different scopes."""
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in scope)[:60]
    return f"{plain}-{hashlib.sha256(scope.encode()).hexdigest()[:12]}"


def _name(scope: str, key: str) -> str:
    return f"{FOLDER}/{folder_of(scope)}/{key}.json"


def _decoded(content: bytes) -> Record | None:
    try:
        value: Mapping[str, Any] = json.loads(content)
    except ValueError:
        return None
    return read_record(value)
