"""What became of a prediction, written into its record; and the one cancel of a stopped run.

Nothing here fails its caller: the prediction is worth more than its record.
"""

from __future__ import annotations

import asyncio

from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import CometAPIError, LedgerError
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.models import Cancellation, Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.records import open_ledger
from prefect_cometapi.stores import Store

#: Seconds that writing down a cancel may take: a stopped process has half a minute in all.
SETTLE_TIMEOUT = 5.0


async def find(client: CometAPIClient, prediction: Prediction) -> Record | None:
    """The record of a prediction; None where it has none, or that can not be known now."""
    if prediction.record_key is None or prediction.scope is None:
        return None
    records = open_ledger(client.settings.ledger)
    try:
        _, record = await records.read(prediction.scope, prediction.record_key)
    except CometAPIError:
        return None
    return record


async def settle(
    client: CometAPIClient,
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
    record = await find(client, prediction)
    if record is None or record.prediction_id not in (None, prediction.id):
        return
    if record.outcome in (Outcome.ABANDONED, Outcome.RESUBMITTED):
        return  # a person's decision
    if files is None and record.outcome and record.outcome in (outcome, Outcome.SAVED):
        return  # known already; and what is saved stays so, whatever becomes of it elsewhere
    # Where storing the id failed when it was created, this is the next chance.
    record = record.model_copy(update={"prediction_id": prediction.id})
    changed = record.ended(outcome, reason) if outcome else record
    update: dict[str, object] = {"cancel_asked": cancel_asked or record.cancel_asked}
    if prediction.run_time is not None:
        update["run_time"] = prediction.run_time
    if files is not None:
        update |= {"files": files, "storage": storage}
    changed = changed.model_copy(update=update)
    try:
        await open_ledger(client.settings.ledger).store(str(prediction.record_key), changed)
    except LedgerError as error:
        observer.trouble(
            f"That prediction {prediction.id} is {outcome or 'canceled'} could not be written to "
            f"its record {prediction.record_key}. {error}"
        )


async def saved_files(
    client: CometAPIClient, prediction: Prediction, store: Store, prefix: str
) -> list[SavedFile] | None:
    """The files that an earlier attempt saved to the same place, where they are still there."""
    record = await find(client, prediction)
    if record is None or record.files is None or record.storage != store.identity:
        return None
    start = f"{prefix}/" if prefix else ""
    for file in record.files:
        if not file.name.startswith(f"{start}{prediction.id}-"):
            return None
        if not await store.holds(file.name, file.size):
            return None
    return record.files


async def stop(client: CometAPIClient, prediction: Prediction, observer: Observer) -> Cancellation:
    """Ask the service, once and for at most 10 s, to cancel what a person has stopped.

    Where it does, the record says so, and starting the run again makes the prediction again.
    """
    cancellation = await client.acancel_prediction(prediction.id, model=prediction.model)
    observer.canceled(cancellation)
    outcome = Outcome.STOPPED if cancellation.accepted else None
    try:
        async with asyncio.timeout(SETTLE_TIMEOUT):
            await settle(client, prediction, outcome, observer, cancel_asked=True)
    except TimeoutError:
        observer.trouble(
            f"That the service was asked to cancel prediction {prediction.id} could not be written "
            f"to its record {prediction.record_key} within {SETTLE_TIMEOUT:g} s."
        )
    return cancellation


async def interrupt(
    client: CometAPIClient, prediction: Prediction, observer: Observer, *, by_a_person: bool
) -> None:
    """Cancel what is running if a person wants it to stop; else say that it goes on."""
    if by_a_person:
        await stop(client, prediction, observer)
        return
    observer.trouble(
        f"Interrupted while prediction {prediction.id} of {prediction.model} is running. It is not "
        "canceled, because nobody asked to stop this run: a retry goes on with it, and "
        "`python -m prefect_cometapi ledger collect` saves it while the service has it."
    )
