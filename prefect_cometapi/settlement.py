"""What became of a prediction, written into its record; and the one cancel of a stopped run.

Nothing here fails its caller: the prediction is worth more than its record.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from prefect_cometapi import provenance
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import LedgerError
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.records import RecordStore
from prefect_cometapi.stores import Store

#: How many predictions the service is asked to cancel at once.
CANCELS = 20
#: Seconds that writing down a cancel may take: a stopped process has half a minute in all.
SETTLE_TIMEOUT = 5.0


async def find(records: RecordStore, prediction: Prediction) -> Record | None:
    """The record of a prediction; None where it has none, or one that can not be read.

    Raises:
        LedgerError: The ledger could not be reached.
    """
    if prediction.record_key is None or prediction.scope is None:
        return None
    return (await records.read(prediction.scope, prediction.record_key))[1]


async def settle(
    records: RecordStore,
    prediction: Prediction,
    outcome: Outcome | None,
    observer: Observer,
    *,
    reason: str = "",
    files: list[SavedFile] | None = None,
    storage: str = "",
    cancel_asked: bool = False,
) -> None:
    """Write into the record of a prediction how it ended; without an outcome, what was tried."""
    try:
        record = await find(records, prediction)
        changed = record and record.settled(
            prediction,
            outcome,
            reason=reason,
            files=files,
            storage=storage,
            cancel_asked=cancel_asked,
        )
        if changed:
            await records.store(str(prediction.record_key), changed)
    except LedgerError as error:
        what = outcome or ("canceled" if cancel_asked else "running")
        observer.trouble(
            f"That prediction {prediction.id} is {what} could not be written to its record "
            f"{prediction.record_key}. {error}"
        )


async def saved_files(
    records: RecordStore, prediction: Prediction, store: Store, prefix: str
) -> list[SavedFile] | None:
    """The files that an earlier attempt saved to the same place, where they are still there.

    Raises:
        LedgerError: The ledger could not be reached.
    """
    record = await find(records, prediction)
    if record is None or record.files is None or record.storage != store.identity:
        return None
    start = f"{prefix}/" if prefix else ""
    for file in record.files:
        if not file.name.startswith(f"{start}{prediction.id}-"):
            return None
        if not await store.holds(file.name, file.size):
            return None
    return record.files


async def left_by_others(
    records: RecordStore, prediction: Prediction, store: Store, stem: str
) -> str:
    """What is known of files of a prediction whose outputs are deleted, in words."""
    record = None
    with suppress(LedgerError):
        record = await find(records, prediction)
    if record and record.outcome is Outcome.SAVED:
        places = ", ".join(file.location for file in record.files or [])
        return f" By its record it was saved, to {places or 'a place that was not written down'}."
    # A process that died between the last file and the record has left them.
    found = await store.beginning_with(f"{stem}-")
    if there := [name for name in found if not name.endswith(provenance.SUFFIX)]:
        return (
            f" An earlier attempt has left {', '.join(there)} in the {store}, whole; whether there "
            "were more can not be known any more."
        )
    return ""


#: What a person's stop was passed on for, by this process: tasks that wait for the same one.
_canceled: set[tuple[str, str]] = set()
_MANY = 10_000


async def stop(
    client: CometAPIClient, records: RecordStore, prediction: Prediction, observer: Observer
) -> None:
    """Ask the service, once and for at most 10 s, to cancel what a person has stopped.

    Where it does, the record says so, and starting the run again makes the prediction again.
    """
    if (prediction.api_root, prediction.id) in _canceled:
        return
    if len(_canceled) >= _MANY:
        _canceled.clear()
    _canceled.add((prediction.api_root, prediction.id))
    answer = await client.acancel_prediction(prediction.id, model=prediction.model)
    cancellation = answer.of(prediction)
    observer.canceled(cancellation)
    outcome = Outcome.STOPPED if cancellation.accepted else None
    try:
        async with asyncio.timeout(SETTLE_TIMEOUT):
            await settle(records, prediction, outcome, observer, cancel_asked=True)
    except TimeoutError:
        observer.trouble(
            f"That the service was asked to cancel prediction {prediction.id} could not be written "
            f"to its record within {SETTLE_TIMEOUT:g} s, so a run of the same scope will find it "
            "canceled. To have it made again: `python -m prefect_cometapi ledger resubmit "
            f"{prediction.record_key}`."
        )


async def interrupt(
    client: CometAPIClient,
    records: RecordStore,
    prediction: Prediction,
    observer: Observer,
    *,
    by_a_person: bool,
) -> None:
    """Cancel what is running if a person wants it to stop; else say that it goes on."""
    if by_a_person:
        await stop(client, records, prediction, observer)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_TIMEOUT):  # where storing its id has failed
            await settle(records, prediction, None, observer)
    observer.trouble(
        f"Interrupted while prediction {prediction.id} of {prediction.model} is running. It is not "
        "canceled, because nobody asked to stop this run: a retry goes on with it, and "
        "`python -m prefect_cometapi ledger collect` saves it while the service has it."
    )
