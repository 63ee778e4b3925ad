"""Collecting: what was paid for and never saved is brought home while it is there."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_cometapi import endings, lifecycle, lineage, operations, portal, stops
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.decisions import (
    Did,
    LedgerEntry,
    LedgerReport,
    RecordResult,
    being_sent,
    oldest_first,
)
from prefect_cometapi.errors import (
    InvalidInput,
    OutputExpired,
    PredictionCanceled,
    PredictionFailed,
    PredictionNotFound,
)
from prefect_cometapi.failures import NOT_FOUND_TOLERANCE
from prefect_cometapi.ledger import Outcome, Record, Standing, way_out
from prefect_cometapi.ledgers import EveryLedger
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.pace import Pace
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.records import RecordStore
from prefect_cometapi.reports import of_prediction
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.storage import Storage, check_prefix, check_writable, open_storage
from prefect_cometapi.submission import patience
from prefect_cometapi.tasks import client_for, run_name

#: How many records are dealt with at once. The client's gates bound requests and downloads.
AT_ONCE = 50
#: What may be looked for once more where somebody names it.
LOOKED_FOR_AGAIN = (Outcome.EXPIRED, Outcome.ABANDONED)


@task(name="Collect predictions", task_run_name=run_name("collect"), cache_policy=NO_CACHE)
def collect_predictions(
    credentials: CometAPICredentials,
    storage: Storage,
    scope: str | None = None,
    *,
    keys: str | Iterable[str] = (),
    prefix: str = "",
    timeout: float = 0.0,
) -> LedgerReport:
    """Save every prediction that was paid for and never saved, the oldest first.

    After a crash, a time-out or a stopped run; nothing is paid, and one that fails does not keep
    the others from being saved. What failed, was canceled or has expired is written down as that,
    so it is told once. What is in doubt is told, and left to a person.

    Args:
        credentials: The API that the predictions belong to; those of another are left alone.
        storage: Where the outputs go; see `save_outputs`.
        scope: Only what shares this; None is everything in the ledger, also what runs that are
            still at work will save by themselves.
        keys: Only these records; of those, also what was abandoned or has expired.
        prefix: A relative path in front of the file names.
        timeout: Seconds to wait for those that are still running; 0 looks once.

    Returns:
        What was done about each; `done` is True where nothing is left to do.

    Raises:
        InvalidInput: An argument can not be right, or there is no such record.
        StorageError: The storage can not be written to.
        LedgerError: The ledger could not be reached.
    """
    client = client_for(credentials)
    report = portal.call(
        collect,
        client,
        storage,
        scope,
        keys=keys,
        prefix=prefix,
        timeout=timeout,
        observer=lambda: of_prediction(client.settings),
    )
    portal.call(_tell, client.settings, storage, prefix, report)
    return report


@task(name="Collect predictions", task_run_name=run_name("collect"), cache_policy=NO_CACHE)
async def acollect_predictions(
    credentials: CometAPICredentials,
    storage: Storage,
    scope: str | None = None,
    *,
    keys: str | Iterable[str] = (),
    prefix: str = "",
    timeout: float = 0.0,
) -> LedgerReport:
    """Async twin of `collect_predictions`."""
    client = client_for(credentials)
    report = await collect(
        client,
        storage,
        scope,
        keys=keys,
        prefix=prefix,
        timeout=timeout,
        observer=lambda: of_prediction(client.settings),
    )
    await _tell(client.settings, storage, prefix, report)
    return report


@on_background_loop
async def _tell(
    settings: CometAPISettings, storage: Storage, prefix: str, report: LedgerReport
) -> None:
    """Tell Prefect of what was not saved and why, and of what was, and where."""
    observer = of_prediction(settings)
    for result in report.results:
        if result.did is not Did.SAVED:
            observer.trouble(f"{result.record_key}: {result.message}")
    saved = [result for result in report.results if result.did is Did.SAVED]
    files = [file for result in saved for file in result.files]
    if not (files and settings.assets):
        return
    models = Counter(result.model for result in saved)
    metadata = {
        "models": dict(models.most_common(lineage.MANY)),
        "files": len(files),
        "bytes": sum(file.size for file in files),
    }
    with suppress(Exception):  # they are saved, which counts for more
        place = lineage.place_of(await open_storage(storage), check_prefix(prefix))
        await lineage.Told().tell_soon(place, "materialization.succeeded", models, metadata)


@on_background_loop
async def collect(
    client: CometAPIClient,
    storage: Storage,
    scope: str | None = None,
    *,
    keys: str | Iterable[str] = (),
    prefix: str = "",
    timeout: float = 0.0,
    observer: Callable[[], Observer] = Observer,
) -> LedgerReport:
    """See `collect_predictions`. Each record's story is told to an observer of its own."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not (0 <= timeout < math.inf):
        raise InvalidInput(f"The time-out is {timeout!r}; it is a number of seconds, or 0.")
    await check_writable(storage, prefix)
    keys = [keys] if isinstance(keys, str) else list(keys)
    entries = (
        await operations.afind_records(keys, scope)
        if keys
        else [
            entry
            for entry in await operations.alist_records(scope)
            if entry.standing is not Standing.ENDED
        ]
    )
    async with EveryLedger(client.settings.ledger) as records:
        collecting = _Collecting(client, records, storage, prefix, observer)
        return await stops.guarded(lambda: collecting.all(oldest_first(entries), timeout))


class _Collecting:
    """One collection."""

    def __init__(
        self,
        client: CometAPIClient,
        records: RecordStore,
        storage: Storage,
        prefix: str,
        observer: Callable[[], Observer],
    ) -> None:
        self.records = records
        self.client, self.storage, self.prefix = client, storage, prefix
        self.observer, self.turns = observer, asyncio.Semaphore(AT_ONCE)

    async def all(self, entries: list[LedgerEntry], timeout: float) -> LedgerReport:
        """Deal with all, and again and again with those that are running, until the deadline."""
        started, settings = time.monotonic(), self.client.settings
        pace = Pace(share=settings.poll_share, shortest=settings.poll_min)  # of models of any kind
        results: dict[str, RecordResult] = {}
        left_over = entries
        while True:
            for result in await asyncio.gather(*map(self._in_turn, left_over)):
                results[result.record_key] = result
            left_over = [one for one in left_over if results[one.key].did is Did.RUNNING]
            age = time.monotonic() - started
            if not left_over or age >= timeout:
                break
            pause = max(settings.poll_min, pace.next_poll(age) - age)
            await asyncio.sleep(min(pause, settings.poll_max, timeout - age))
        return LedgerReport(results=[results[entry.key] for entry in entries])

    async def _in_turn(self, entry: LedgerEntry) -> RecordResult:
        async with self.turns:
            return await self._one(entry)

    async def _one(self, entry: LedgerEntry) -> RecordResult:
        record, root = entry.record, self.client.api_root
        if record is None or entry.standing is Standing.IN_DOUBT:
            return entry.result(Did.IN_DOUBT, f"It may have been paid for. {way_out(entry.key)}")
        if entry.standing is Standing.SENDING:
            return entry.result(Did.SENDING, being_sent(record, patience(self.client.settings)))
        in_part = record.outcome is Outcome.SAVED and record.reason
        again = not record.outcome or in_part or record.outcome in LOOKED_FOR_AGAIN
        known = record.prediction_id and again
        if not known:
            return entry.result(Did.REFUSED, f"It is {entry.state}; there is nothing to collect.")
        if record.api_root != root:
            return entry.result(
                Did.REFUSED,
                f"Prediction {record.prediction_id} is of {record.api_root}, and the credentials "
                f"are for {root}: collect it with its own.",
            )
        try:
            return await self._collected(entry, record)
        except (PredictionFailed, PredictionCanceled) as error:
            did = Did.FAILED if isinstance(error, PredictionFailed) else Did.CANCELED
            return entry.result(did, str(error).splitlines()[0])
        except OutputExpired as error:
            return entry.result(Did.EXPIRED, str(error))
        except PredictionNotFound as error:
            return entry.result(
                Did.TROUBLE,
                f"{error} Where these are the credentials that paid for it, it is lost; then: "
                f"python -m prefect_cometapi ledger abandon {entry.key}",
            )
        except Exception as error:  # one that can not be collected does not keep others from it
            return entry.result(Did.TROUBLE, f"{error}" or type(error).__name__)

    async def _collected(self, entry: LedgerEntry, record: Record) -> RecordResult:
        observer = self.observer()
        unsettled = record.model_copy(update={"outcome": None})
        prediction = unsettled.prediction(entry.key)
        try:
            prediction = await lifecycle.get(self.client, prediction, observer=observer)
        except PredictionNotFound:
            if datetime.now(UTC) - record.sent_at > timedelta(seconds=NOT_FOUND_TOLERANCE):
                raise
        if prediction.finished:
            observer.polled(prediction)
        if prediction.running:
            return entry.result(
                Did.RUNNING,
                f"Prediction {prediction.id} is {prediction.service_status or prediction.status}; "
                "collect it later.",
            )
        # It has ended, so this hardly waits: it tells its end, to the record as well.
        age = (datetime.now(UTC) - record.sent_at).total_seconds()
        prediction = await lifecycle.wait(
            self.client,
            prediction,
            timeout=max(age, 0) + 1.5 * endings.HANDOVER,
            observer=observer,
            records=self.records,
        )
        files = await lifecycle.save(
            self.client,
            prediction,
            self.storage,
            prefix=self.prefix,
            observer=observer,
            records=self.records,
        )
        return entry.result(Did.SAVED, _where(prediction, files), files)


def _where(prediction: Prediction, files: list[SavedFile]) -> str:
    places = ", ".join(file.location for file in files)
    return f"Prediction {prediction.id}: {places or 'it made no output'}."
