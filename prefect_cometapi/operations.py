"""The ledger for people: list its records, and write down what only a person can decide.

Nothing here talks to the service, except to look up an id that is to be adopted.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from prefect_cometapi import holdings, portal
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.decisions import (
    TO_MAKE_AGAIN,
    Did,
    LedgerEntry,
    LedgerReport,
    RecordResult,
    adoption,
    entry_of,
    is_key,
    mismatch,
    objection,
    oldest_first,
    prunable,
    told_apart,
)
from prefect_cometapi.errors import InvalidInput, LedgerError
from prefect_cometapi.ledger import Outcome, Record, Standing
from prefect_cometapi.ledgers import EveryLedger
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.records import RecordStore, no_record
from prefect_cometapi.settings import load_settings
from prefect_cometapi.submission import patience
from prefect_cometapi.urls import check_prediction_id

P = ParamSpec("P")
R = TypeVar("R")

#: How old a record is when it may be deleted, in days, unless the caller says otherwise.
KEEP_DAYS = 7.0


def _synchronous(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """The sync twin of an async function."""

    @functools.wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return portal.call(function, *args, **kwargs)

    twin.__name__ = twin.__qualname__ = function.__name__.removeprefix("a")
    return twin


@asynccontextmanager
async def _ledger() -> AsyncIterator[tuple[EveryLedger, timedelta]]:
    settings = load_settings()
    async with EveryLedger(settings.ledger) as records:
        yield records, patience(settings)


# --- what is there ----------------------------------------------------------------------------


@on_background_loop
async def alist_records(
    scope: str | None = None, *, in_doubt: bool = False, unsaved: bool = False
) -> list[LedgerEntry]:
    """List the records of a scope, or all there are, the oldest first.

    Args:
        scope: What shares predictions, such as a date; of a flow run, `flow-run:<its id>`. Without
            one, of batches only those are listed that have something left to do.
        in_doubt: Only those whose create may or may not have been accepted.
        unsaved: Only those that were paid for and not saved; with `in_doubt`, both.

    Raises:
        LedgerError: The ledger could not be reached.
    """
    async with _ledger() as (records, wait):
        entries = await _entries(records, scope, wait)
    wanted = {Standing.IN_DOUBT: in_doubt, Standing.UNSAVED: unsaved}
    return [
        entry for entry in entries if wanted.get(entry.standing, False) or not (in_doubt or unsaved)
    ]


@on_background_loop
async def afinished_batches() -> list[str]:
    """The scopes of batches that have nothing left to do, whose records are listed only by name.

    Raises:
        LedgerError: The ledger could not be reached.
    """
    return [holding.scope for holding in await holdings.holdings() if holding.left == 0]


async def _entries(records: RecordStore, scope: str | None, wait: timedelta) -> list[LedgerEntry]:
    found, now = await records.records(scope), datetime.now(UTC)
    return oldest_first(
        told_apart(entry_of(key, record, scope or "", now, wait) for key, record in found.items())
    )


@on_background_loop
async def afind_records(keys: str | Iterable[str], scope: str | None = None) -> list[LedgerEntry]:
    """The records of some keys, in their order.

    Args:
        keys: The key, or several.
        scope: Their scope; needed only for a record in a storage that can not be read.

    Raises:
        InvalidInput: There is no record of that key.
        LedgerError: The ledger could not be reached.
    """
    async with _ledger() as (records, wait):
        entries, by_scope = [], dict[str, dict[str, LedgerEntry]]()
        for key in dict.fromkeys([keys] if isinstance(keys, str) else keys):
            if not is_key(key):
                raise no_record(key)
            its_scope = scope or ""
            exists, record = await records.read(scope, key) if scope else (False, None)
            if not exists:
                its_scope, record = await records.locate(key)
            entry = entry_of(key, record, its_scope, datetime.now(UTC), wait)
            if record and record.outcome in TO_MAKE_AGAIN:  # or a later attempt has taken its place
                if record.scope not in by_scope:
                    others = await _entries(records, record.scope, wait)
                    by_scope[record.scope] = {other.key: other for other in others}
                entry = by_scope[record.scope].get(key, entry)
            entries.append(entry)
        return entries


def _readable(entry: LedgerEntry) -> Record:
    """The record; for one that can not be read, a new one of what is known about it.

    Raises:
        InvalidInput: Not even its scope is known, so nobody would find it again.
    """
    if entry.record is not None:
        return entry.record
    if not entry.scope:
        raise InvalidInput(
            f"The record {entry.key} can not be read, and so its scope is not known. Name it: "
            "scope=…, or --scope on the command line. Nothing was changed."
        )
    root = load_settings().base_url
    return Record(scope=entry.scope, model="", api_root=root, sent_at=datetime.now(UTC))


# --- decisions --------------------------------------------------------------------------------


@on_background_loop
async def aadopt_prediction(
    record_key: str,
    prediction_id: str,
    *,
    credentials: CometAPICredentials | None = None,
    scope: str | None = None,
) -> RecordResult:
    """Give a record in doubt the id of its prediction, found in the vendor's dashboard.

    A run of the same scope then goes on with that prediction, and `collect_predictions` saves it.
    What was abandoned or resubmitted can be adopted too. A record that can not be read is written
    anew: its model is what the service says, and left open where the service is not asked.

    Args:
        record_key: The record, as `SubmissionInDoubt` names it.
        prediction_id: The prediction's id.
        credentials: With these, the service is asked whether it knows the prediction, and whether
            model and prompt are the record's.
        scope: The record's scope; needed only for one in a storage that can not be read.

    Raises:
        InvalidInput: It can not be that prediction, another record of the scope is, or the record
            is being sent at the moment. Nothing was changed.
        PredictionNotFound: The service does not know it.
        RequestError: The service could not be asked.
        LedgerError: The ledger could not be reached.
    """
    check_prediction_id(prediction_id)
    async with _ledger() as (records, wait):
        [entry] = await afind_records(record_key, scope)
        adopted = adoption(_readable(entry), entry.standing, prediction_id, wait)
        root = credentials.base_url if credentials else adopted.api_root
        if entry.record and root != adopted.api_root:
            raise InvalidInput(
                f"The record {record_key} is of {adopted.api_root}, and the credentials are for "
                f"{root}. Nothing was changed."
            )
        for key, other in (await records.records(adopted.scope)).items():
            if (
                key != record_key
                and other
                and (other.api_root, other.prediction_id)
                == (
                    root,
                    prediction_id,
                )
            ):
                raise InvalidInput(
                    f"Prediction {prediction_id} is that of record {key} ({other.what}). Nothing "
                    "was changed."
                )
        checked = "The service was not asked about it."
        if credentials is not None:
            seen = await credentials.get_client().aget_prediction(prediction_id)
            if entry.record is None:
                sent_at = seen.created_at or adopted.sent_at
                known = {"model": seen.model, "api_root": root, "sent_at": sent_at}
                adopted = adopted.model_copy(update=known)
            if why := mismatch(adopted, seen):
                raise InvalidInput(
                    f"Prediction {prediction_id} can not be that of record {record_key}: {why}. "
                    "Nothing was changed."
                )
            checked = f"The service says that it is {seen.status}."
        if adopted != entry.record:
            await records.store(record_key, adopted)
        return entry.model_copy(update={"record": adopted}).result(
            Did.ADOPTED,
            f"It is prediction {prediction_id}. {checked} To save it, run again in scope "
            f"{adopted.scope!r}, or: `python -m prefect_cometapi ledger collect {record_key} "
            "--storage STORAGE`",
        )


@on_background_loop
async def aabandon_predictions(
    keys: str | Iterable[str] = (), *, scope: str | None = None
) -> LedgerReport:
    """Give predictions up: they are not sent again, and not looked for.

    A run that wants one raises `SubmissionInDoubt`, until it is adopted or resubmitted.

    Args:
        keys: Records in doubt, or paid for and not saved.
        scope: Without keys, all of this scope that are in doubt.

    Returns:
        What was done about each.

    Raises:
        InvalidInput: There is no such record, or nothing was named. Nothing was changed.
        LedgerError: The ledger could not be reached.
    """
    return await _decide(
        Outcome.ABANDONED,
        keys,
        scope,
        "It is neither sent again nor looked for (nor canceled: what runs is billed); a run of "
        "scope {scope!r} that wants it raises SubmissionInDoubt.",
    )


@on_background_loop
async def aresubmit_predictions(
    keys: str | Iterable[str] = (), *, scope: str | None = None
) -> LedgerReport:
    """Let predictions be sent once more: those in doubt may then be paid for twice.

    Nothing is sent here: the next run of the scope that asks for them does that.

    Args:
        keys: Records in doubt, abandoned, or ended without anything saved (failed, canceled,
            expired).
        scope: Without keys, all of this scope that are in doubt.

    Returns:
        What was done about each.

    Raises:
        InvalidInput: There is no such record, or nothing was named. Nothing was changed.
        LedgerError: The ledger could not be reached.
    """
    return await _decide(
        Outcome.RESUBMITTED,
        keys,
        scope,
        "The next run of scope {scope!r} that asks for it sends it once more. Where the earlier "
        "create was accepted, it is then paid twice.",
    )


async def _decide(
    decision: Outcome, keys: str | Iterable[str], scope: str | None, then: str
) -> LedgerReport:
    async with _ledger() as (records, wait):
        if keys := [keys] if isinstance(keys, str) else list(keys):
            entries = await afind_records(keys, scope)
        elif scope is not None:
            entries = await alist_records(scope, in_doubt=True)
        else:
            raise InvalidInput("Say which: keys of records, or a scope. Nothing was changed.")
        results = []
        for entry in entries:
            if why := objection(decision, entry, wait):
                results.append(entry.result(Did.REFUSED, why))
                continue
            try:
                record = _readable(entry).ended(decision)
                await records.store(entry.key, record)
            except (InvalidInput, LedgerError) as error:
                results.append(entry.result(Did.TROUBLE, str(error)))
            else:
                results.append(entry.result(Did(decision.value), then.format(scope=record.scope)))
        return LedgerReport(results=results)


@on_background_loop
async def aprune_records(
    *, older_than: float = KEEP_DAYS, scope: str | None = None, everything: bool = False
) -> LedgerReport:
    """Delete records that have ended and are old.

    What is deleted is forgotten: the same request in the same scope is paid for again. All
    attempts at one request are kept as long as one of them is. Of batches that are over, only the
    Variable that says where their records are is deleted; the one that says into how many shards a
    scope is split stays, because with another number everything would be paid for again.

    Args:
        older_than: Days since they were sent, at least.
        scope: Only those of this scope.
        everything: Also those in doubt, the unreadable ones included, and those never saved; and
            how scopes are split.

    Returns:
        What was deleted, and what could not be.

    Raises:
        InvalidInput: That is no number of days.
        LedgerError: The ledger could not be reached.
    """
    async with _ledger() as (records, _):
        results = []
        for entry in await afind_prunable(
            older_than=older_than, scope=scope, everything=everything
        ):
            try:
                scope_of = entry.scope or _readable((await afind_records(entry.key))[0]).scope
                await records.delete(scope_of, entry.key)
            except (InvalidInput, LedgerError) as error:
                results.append(entry.result(Did.TROUBLE, str(error)))
            else:
                results.append(entry.result(Did.DELETED, f"It was {entry.state}."))
        return LedgerReport(results=[*results, *await _forgotten(older_than, scope, everything)])


async def _forgotten(older_than: float, scope: str | None, everything: bool) -> list[RecordResult]:
    return [
        RecordResult(
            record_key=holdings.variable_name(each),
            did=Did.DELETED,
            message=f"The batch of scope {each!r} is over; its records stay where they are.",
            scope=each,
        )
        for each in await holdings.forget(timedelta(days=older_than), scope, splits=everything)
    ]


async def afind_prunable(
    *, older_than: float, scope: str | None = None, everything: bool = False
) -> list[LedgerEntry]:
    """What `aprune_records` would delete."""
    number = isinstance(older_than, int | float) and not isinstance(older_than, bool)
    if not number or not (0 <= older_than <= 36_500):
        raise InvalidInput(
            f"older_than is {older_than!r}; it is a number of days, such as {KEEP_DAYS:g}. Nothing "
            "was deleted."
        )
    async with _ledger() as (records, wait):  # batches' are files in their storage, and stay there
        entries = await _entries(records.home, scope, wait)
    return prunable(entries, datetime.now(UTC), timedelta(days=older_than), everything)


list_records = _synchronous(alist_records)
find_records = _synchronous(afind_records)
finished_batches = _synchronous(afinished_batches)
find_prunable = _synchronous(afind_prunable)
adopt_prediction = _synchronous(aadopt_prediction)
abandon_predictions = _synchronous(aabandon_predictions)
resubmit_predictions = _synchronous(aresubmit_predictions)
prune_records = _synchronous(aprune_records)
