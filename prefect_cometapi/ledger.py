"""What was submitted: a record for each create, written before the money is spent.

The order is: claim and intent in one step, then the POST, once, then the id. A run that comes
back finds the id and re-attaches; an intent without an id is in doubt. The gap between the
service's "accepted" and the stored id is detected, not closed: the service has no idempotency key.

Records live on Prefect's server as Variables, because creating one that exists fails: an atomic
claim that holds across machines and survives a pod's disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar
from uuid import uuid4

from prefect import get_client, runtime
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from prefect_cometapi.errors import LedgerError, SubmissionInDoubt

T = TypeVar("T")

SCHEMA = 1
PREFIX = "cometapi-"
#: Seconds that one call to the ledger may take.
CALL_TIMEOUT = 10.0

# --- decisions (pure) -------------------------------------------------------------------------


class Record(BaseModel):
    """One create: the intent and, once the service has answered, the prediction's id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    scope: str
    model: str
    api_root: str
    sample: int = 0
    sent_at: AwareDatetime
    prediction_id: str | None = None
    #: Tells a claim of one's own, whose answer was lost, from somebody else's.
    owner: str = ""


class Found(Enum):
    """What a record means to somebody who is about to create the same prediction."""

    ATTACH = "it exists: ask for its state"
    WAIT = "somebody is submitting it right now"
    IN_DOUBT = "it was sent and its id was never stored, or the record can not be read"


def prediction_key(
    scope: str, api_root: str, model: str, input: Mapping[str, Any], sample: int
) -> str:
    """The name under which a create is known: equal for the same request in the same scope.

    It depends on neither the key nor the package's version nor the machine.
    """
    canonical = json.dumps(
        [SCHEMA, scope, api_root, model, dict(input), sample],
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return PREFIX + hashlib.sha256(canonical.encode()).hexdigest()[:40]


def read_record(value: Any) -> Record | None:
    """A stored value as a record; None where it can not be read (which is "in doubt")."""
    try:
        return Record.model_validate(value)
    except ValidationError:
        return None


def decide(record: Record | None, now: datetime, patience: timedelta) -> Found:
    """What an existing record means.

    Args:
        record: As `read_record` understood it.
        now: The time.
        patience: How long a create may take before it counts as lost.
    """
    if record is None:
        return Found.IN_DOUBT
    if record.prediction_id:
        return Found.ATTACH
    # Both ways: a sender whose clock is ahead must not be waited for all the longer.
    return Found.WAIT if abs(now - record.sent_at) < patience else Found.IN_DOUBT


def in_doubt(key: str, record: Record | None) -> SubmissionInDoubt:
    """The error for an intent that has no id."""
    what = "a prediction whose record can not be read"
    if record:
        sent_at = record.sent_at.astimezone(UTC)
        what = (
            f"a prediction of {record.model} (sample {record.sample}, scope {record.scope!r}), "
            f"sent at {sent_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    return SubmissionInDoubt(
        f"An earlier attempt submitted {what}, and its answer was never stored: it may have been "
        f"accepted and paid for. It is not sent again unasked. {way_out(key)}"
    )


def way_out(key: str) -> str:
    """What a person can do about a record in doubt."""
    return (
        "Look in the vendor's dashboard: if it is there, poll_prediction() and save_outputs() "
        "fetch it by its id. To send it again (and perhaps pay twice), delete its record: prefect "
        f"variable delete {key}"
    )


# --- the records on Prefect's server ----------------------------------------------------------


class ClaimTaken(Exception):
    """Somebody else has claimed the record in the meantime."""


class ServerLedger:
    """Records as Variables on Prefect's server."""

    async def read(self, key: str) -> tuple[bool, Record | None]:
        """Whether there is a record, and the record if it can be read.

        Raises:
            LedgerError: The server could not be asked.
        """
        variable = await self._ask(lambda client: client.read_variable_by_name(key))
        return (variable is not None, read_record(variable.value) if variable else None)

    async def claim(self, key: str, record: Record) -> None:
        """Write the intent, unless there is a record already; one step.

        Raises:
            ClaimTaken: There is one.
            LedgerError: The server could not be asked.
        """
        variable = VariableCreate(name=key, value=_json(record), tags=["cometapi"])
        try:
            await self._ask(lambda client: client.create_variable(variable))
        except (ClaimTaken, LedgerError):
            # Perhaps it was written and only the answer lost: Prefect's client sends it again.
            _, found = await self.read(key)
            if found is None or not found.owner or found.owner != record.owner:
                raise

    async def store(self, key: str, record: Record) -> None:
        """Write the record with the prediction's id.

        Raises:
            LedgerError: The server could not be asked.
        """
        update = VariableUpdate(name=key, value=_json(record))
        await self._ask(lambda client: client.update_variable(update), then="")

    async def release(self, key: str) -> None:
        """Delete a record of what was certainly not accepted.

        Raises:
            LedgerError: The server could not be asked.
        """
        await self._ask(lambda client: client.delete_variable_by_name(key), then="")

    async def _ask(
        self,
        question: Callable[[PrefectClient], Awaitable[T]],
        then: str = "Nothing was sent.",
    ) -> T | None:
        try:
            # One at a time: SQLite answers writes side by side with "busy" and a long wait.
            async with _turn(), asyncio.timeout(CALL_TIMEOUT):
                return await question(await _prefect_client())
        except ObjectAlreadyExists:
            raise ClaimTaken from None
        except ObjectNotFound:
            return None
        except Exception as error:
            raise LedgerError(
                "The ledger on Prefect's server could not be used "
                f"({type(error).__name__}: {error}). {then}".rstrip()
            ) from error


_clients: dict[tuple[object, str], PrefectClient] = {}
_turns: dict[object, asyncio.Lock] = {}


def _turn() -> asyncio.Lock:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def _prefect_client() -> PrefectClient:
    """A client of Prefect's server that stays open: making one costs 20 ms of CPU each time."""
    key = (asyncio.get_running_loop(), get_current_settings().hash_key())
    if key not in _clients:
        client = await get_client().__aenter__()
        if _clients.setdefault(key, client) is not client:  # somebody was quicker
            await client.__aexit__(None, None, None)
    return _clients[key]


def current_scope() -> str | None:
    """The scope of the running flow: its root flow run, or a task run that has no flow.

    May ask Prefect's server (for a subflow), so keep it off the event loop.

    Raises:
        LedgerError: The server could not be asked.
    """
    try:
        root = runtime.flow_run.root_flow_run_id
    except Exception as error:
        raise LedgerError(
            f"Prefect's server could not be asked for the root of this run ({error}), which says "
            "what has been paid for already. Nothing was sent. Check PREFECT_API_URL."
        ) from error
    if root:
        return f"flow-run:{root}"
    if task_run := runtime.task_run.id:
        return f"task-run:{task_run}"
    return None


def new_record(scope: str, model: str, api_root: str, sample: int) -> Record:
    """The intent to submit, as of now."""
    return Record(
        scope=scope,
        model=model,
        api_root=api_root,
        sample=sample,
        sent_at=datetime.now(UTC),
        owner=uuid4().hex,
    )


def _json(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json")
