"""Many predictions in one call: as one task run, or item by item.

`run_predictions` is a task; `iter_predictions` is a plain generator, which logs to the run that it
is used in. Both have async twins with an `a` in front.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, TypedDict, Unpack, cast

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_cometapi.batch_calls import BatchCall, Inputs, adrive, drive
from prefect_cometapi.batch_models import BatchItem, BatchResult
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.events import WhichEvents
from prefect_cometapi.lifecycle import OnTimeout
from prefect_cometapi.lineage import Sources
from prefect_cometapi.orders import OnInDoubt
from prefect_cometapi.reports import of_batch
from prefect_cometapi.storage import Storage
from prefect_cometapi.tally import BatchOptions
from prefect_cometapi.tasks import client_for, run_name


class BatchKeywords(TypedDict, total=False):
    """What a batch may be told; see `run_predictions`."""

    prefix: str
    provenance: bool
    sources: Sources
    events: WhichEvents
    scope: str | None
    ledger: Storage | None
    local_ledger: bool
    in_flight: int
    retry_failed: bool
    attempts: int
    on_in_doubt: OnInDoubt
    stop_after_failures: float | None
    max_predictions: int | None
    max_cost: float | None
    dry_run: bool
    prediction_timeout: float
    batch_timeout: float | None
    on_timeout: OnTimeout
    limit: str | None


#: What is asked of the call, and not of the batch.
_OF_THE_CALL = ("scope", "ledger", "local_ledger", "max_predictions", "max_cost", "limit")


def _call(
    credentials: CometAPICredentials,
    model: str,
    storage: Storage | None,
    allow_failures: float | None,
    keywords: BatchKeywords,
) -> BatchCall:
    client, values = client_for(credentials), dict(keywords)
    sources = cast("Sources", values.pop("sources", ()))
    events = cast("WhichEvents", values.pop("events", "exceptions"))
    told = of_batch(client.settings, sources, events)
    of_the_call: dict[str, Any] = {
        name: values.pop(name) for name in _OF_THE_CALL if name in values
    }
    block = credentials._block_document_name
    options = BatchOptions(model, "", credentials=block, **cast("dict[str, Any]", values))
    return BatchCall(client, options, storage, told, allow_failures=allow_failures, **of_the_call)


@task(name="Run predictions", task_run_name=run_name("run"), cache_policy=NO_CACHE)
def run_predictions(
    credentials: CometAPICredentials,
    model: str,
    inputs: Inputs,
    storage: Storage | None,
    *,
    prefix: str = "",
    provenance: bool = False,
    sources: Sources = (),
    events: WhichEvents = "exceptions",
    scope: str | None = None,
    ledger: Storage | None = None,
    local_ledger: bool = False,
    in_flight: int = 1000,
    retry_failed: bool = False,
    attempts: int = 1,
    on_in_doubt: OnInDoubt = "raise",
    stop_after_failures: float | None = None,
    allow_failures: float = 0,
    max_predictions: int | None = None,
    max_cost: float | None = None,
    dry_run: bool = False,
    prediction_timeout: float = 600.0,
    batch_timeout: float | None = None,
    on_timeout: OnTimeout = "leave",
    limit: str | None = None,
) -> BatchResult:
    """Create many predictions, poll them until done and save their outputs, in one task run.

    Every create is written down before it is sent. Killed and run again in the same scope (a retry
    of the flow run does that), it goes on with what is there, pays for nothing twice and ends with
    the same result. One item that fails does not keep the others from being made.

    Args:
        credentials: The key, and the API that it belongs to.
        model: The model, as `owner/name`; an item may name another one.
        inputs: The model's parameters of each item, as dicts; or `PredictionRequest`s, which may
            have their own model, `key`, sample and labels. Any iterable (in the async twin also an
            async one), read as there is room: a million rows never sit in memory. Equal inputs are
            that many predictions.
        storage: Where the outputs go; see `save_outputs`. None saves nothing: each item has the
            service's `output` then, whose URLs end with the hour.
        prefix: A relative path in front of the file names.
        provenance: Write beside each file where it came from; see `save_outputs`, also for the
            next.
        sources: Tables or files that the inputs came from.
        events: What of the predictions is sent to Prefect as events: `exceptions` (what failed, was
            canceled, is in doubt, has expired or was not saved), `all`, or `none`. Except with
            `none`, the end of the batch is sent with its numbers.
        scope: What shares predictions: a name such as a date; the root flow run by default.
        ledger: Where the records live: a storage like the one for outputs. By default the setting
            `ledger` where it is a block, else `storage`, else a folder in PREFECT_HOME. It has to
            stay the same for a scope.
        local_ledger: In a deployed run, records on a local disk are refused from 100 items on,
            because a retry on another machine would pay for everything again. True allows them.
        in_flight: How many predictions are under way at once, at most.
        retry_failed: Make again, at a new price, what failed, was canceled or expired in an earlier
            run of the scope; only that, and what was never made.
        attempts: How many predictions to pay for at most for one item, where one fails.
        on_in_doubt: What to do where a create may or may not have been accepted: `raise` marks the
            item, `resubmit` sends it once more, which may pay twice. The others go on.
        stop_after_failures: Send nothing more after so many failures: a number, or a share (0.2)
            of those that have ended, from 20 on. What an earlier run has paid for does not count.
        allow_failures: How many items may fail, or what share of them, without an error at the
            end. What is in doubt is always an error.
        max_predictions: How many predictions the scope may have in all.
        max_cost: What they may cost, by the setting `prices`: an estimate.
        dry_run: Check all items, look them up in the ledger, and say what would be sent and what it
            would cost. Sends nothing.
        prediction_timeout: Seconds from the submission of each prediction until its deadline.
        batch_timeout: Seconds until nothing more is sent, or waited for.
        on_timeout: At its deadline, `leave` a prediction running (it can be collected) or `cancel`
            it.
        limit: Name of a global concurrency limit of Prefect, with a slot decay, that creates take
            a slot of each: a rate that several processes share.

    Returns:
        What became of all: counts, the items (up to 10,000), and the name of the manifest, which
        holds them all.

    Raises:
        InvalidInput: Refused before anything was sent.
        BatchFailed: Items went wrong, more than `allow_failures`; everything else was done first.
            Its `result` has it all.
        BatchStopped: The batch was ended early: by an error of the account (key, quota, unknown
            model), of the ledger or of the inputs, or by one of the bounds.
        StorageError: The storage can not be written to; nothing was sent.
        LedgerError: The ledger could not be used; nothing was sent.
    """
    keywords: BatchKeywords = {
        "prefix": prefix,
        "provenance": provenance,
        "sources": sources,
        "events": events,
        "scope": scope,
        "ledger": ledger,
        "local_ledger": local_ledger,
        "in_flight": in_flight,
        "retry_failed": retry_failed,
        "attempts": attempts,
        "on_in_doubt": on_in_doubt,
        "stop_after_failures": stop_after_failures,
        "max_predictions": max_predictions,
        "max_cost": max_cost,
        "dry_run": dry_run,
        "prediction_timeout": prediction_timeout,
        "batch_timeout": batch_timeout,
        "on_timeout": on_timeout,
        "limit": limit,
    }
    running = drive(_call(credentials, model, storage, allow_failures, keywords), inputs)
    while True:
        try:
            next(running)
        except StopIteration as end:
            result: BatchResult = end.value
            return result


@task(name="Run predictions", task_run_name=run_name("run"), cache_policy=NO_CACHE)
async def arun_predictions(
    credentials: CometAPICredentials,
    model: str,
    inputs: Inputs,
    storage: Storage | None,
    *,
    prefix: str = "",
    provenance: bool = False,
    sources: Sources = (),
    events: WhichEvents = "exceptions",
    scope: str | None = None,
    ledger: Storage | None = None,
    local_ledger: bool = False,
    in_flight: int = 1000,
    retry_failed: bool = False,
    attempts: int = 1,
    on_in_doubt: OnInDoubt = "raise",
    stop_after_failures: float | None = None,
    allow_failures: float = 0,
    max_predictions: int | None = None,
    max_cost: float | None = None,
    dry_run: bool = False,
    prediction_timeout: float = 600.0,
    batch_timeout: float | None = None,
    on_timeout: OnTimeout = "leave",
    limit: str | None = None,
) -> BatchResult:
    """Async twin of `run_predictions`."""
    keywords: BatchKeywords = {
        "prefix": prefix,
        "provenance": provenance,
        "sources": sources,
        "events": events,
        "scope": scope,
        "ledger": ledger,
        "local_ledger": local_ledger,
        "in_flight": in_flight,
        "retry_failed": retry_failed,
        "attempts": attempts,
        "on_in_doubt": on_in_doubt,
        "stop_after_failures": stop_after_failures,
        "max_predictions": max_predictions,
        "max_cost": max_cost,
        "dry_run": dry_run,
        "prediction_timeout": prediction_timeout,
        "batch_timeout": batch_timeout,
        "on_timeout": on_timeout,
        "limit": limit,
    }
    results: list[BatchResult] = []
    call = _call(credentials, model, storage, allow_failures, keywords)
    async for _ in adrive(call, inputs, results):
        pass
    return results[0]


def iter_predictions(
    credentials: CometAPICredentials,
    model: str,
    inputs: Inputs,
    storage: Storage | None,
    **keywords: Unpack[BatchKeywords],
) -> Generator[BatchItem, None, BatchResult]:
    """Make many predictions, and yield each as it is saved or given up.

    The same as `run_predictions`, with the same keywords except `allow_failures`, for who wants to
    do something about each item at once: write it back to a table, hand it to the next step. Not a
    task: it belongs to the run, or the task of yours, that it is used in.

    Inputs are read as there is room, so they may be endless; where items are not taken, nothing
    new is created. They are read in your thread: while reading blocks, nothing is yielded, though
    what is under way goes on. Each item that is yielded is on record: a run that is killed yields
    it again, and pays for nothing twice. When you stop taking items (`break`), what is under way
    is left running, and can be collected.

    Yields:
        What became of each item, in the order in which they end. One that went wrong is an item
        with an error, and nothing is raised for it.

    Returns:
        What became of all.

    Raises:
        InvalidInput: Refused before anything was sent.
        BatchStopped: The batch was ended early; see `run_predictions`.
        StorageError: The storage can not be written to; nothing was sent.
        LedgerError: The ledger could not be used; nothing was sent.
    """
    return drive(_call(credentials, model, storage, None, keywords), inputs)


def aiter_predictions(
    credentials: CometAPICredentials,
    model: str,
    inputs: Inputs,
    storage: Storage | None,
    **keywords: Unpack[BatchKeywords],
) -> AsyncGenerator[BatchItem]:
    """Async twin of `iter_predictions`, which also reads async iterables.

    Inputs are read beside everything else, on your loop. Close it where you do not take all items
    (`async with contextlib.aclosing(…)`), or what is under way goes on until it is collected.
    """
    return adrive(_call(credentials, model, storage, None, keywords), inputs, [])
