"""The outputs of one prediction, brought home and written down. Runs on the background loop."""

from __future__ import annotations

from prefect_cometapi import outputs, settlement
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    CometAPIError,
    LedgerError,
    OutputExpired,
    OutputUnavailable,
)
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.portal import uninterrupted
from prefect_cometapi.provenance import Circumstances
from prefect_cometapi.provenance_files import write_beside
from prefect_cometapi.records import RecordStore
from prefect_cometapi.stores import Store


async def save_to(
    client: CometAPIClient,
    records: RecordStore,
    prediction: Prediction,
    store: Store,
    prefix: str,
    observer: Observer,
    circumstances: Circumstances | None = None,
) -> list[SavedFile]:
    """Save outputs; see `lifecycle.save`.

    Args:
        client: The API to use.
        records: Where the prediction's record is.
        prediction: The prediction.
        store: Where its outputs go.
        prefix: In front of their names.
        observer: Told what happens.
        circumstances: For the provenance beside each file; None writes none.
    """
    client = client.telling(observer.trouble)
    observer.goes_to(store, prefix)
    # That is how a record which says "saved" is told; what the service has it has.
    if prediction.data_removed:
        kept = await settlement.saved_files(records, prediction, store, prefix)
        if kept is not None:
            observer.kept(prediction, kept)
            if circumstances:
                record = await settlement.find(records, prediction)
                await write_beside(store, kept, prediction, record, circumstances, kept=True)
            return kept
    try:
        files = await _fetched(client, prediction, store, prefix)
    except OutputExpired as error:
        stem = outputs.stem_of(prediction, prefix)
        known = await settlement.left_by_others(records, prediction, store, stem)
        expired = OutputExpired(f"{error}{known}")
        observer.expired(prediction, expired)
        await settlement.settle(records, prediction, Outcome.EXPIRED, observer, reason=str(expired))
        raise expired from error.__cause__
    observer.saved(prediction, files)
    reason = ""
    if prediction.outputs_pending:
        reason = "The service named this output, and never handed over the prediction itself."
        observer.trouble(f"Prediction {prediction.id}: {reason} There may be more outputs.")
    untold: BaseException | None = None
    if circumstances:
        try:
            record = await _record(records, prediction, observer)
            await write_beside(store, files, prediction, record, circumstances)
        except BaseException as error:
            # First the record: the files are saved, and must not expire for want of a note.
            untold = error
    # Uninterrupted: what is saved must not be taken for lost.
    await uninterrupted(
        settlement.settle(
            records,
            prediction,
            Outcome.SAVED,
            observer,
            reason=reason,
            files=files,
            storage=store.identity,
        )
    )
    if untold is not None:
        raise untold
    return files


async def _record(
    records: RecordStore, prediction: Prediction, observer: Observer
) -> Record | None:
    try:
        return await settlement.find(records, prediction)
    except LedgerError as error:  # then the provenance has less to tell
        observer.trouble(f"The record of prediction {prediction.id} was not read. {error}")
        return None


async def _fetched(
    client: CometAPIClient, prediction: Prediction, store: Store, prefix: str
) -> list[SavedFile]:
    try:
        return await outputs.save_outputs(client, prediction, store, prefix)
    except OutputExpired as error:
        # Perhaps only these URLs are: the service signs them anew while it has the outputs.
        try:
            seen = await client.query(prediction.id, model=prediction.model, input=prediction.input)
            fresh = prediction.seen_as(seen)
        except CometAPIError:
            fresh = prediction
        if fresh.past_lifetime or (fresh.finished and fresh.output is None):
            raise
        if not fresh.finished or fresh.output == prediction.output:
            raise OutputUnavailable(
                f"The outputs of prediction {prediction.id} are not served, though the service "
                f"still has them: {error.__cause__ or error!s} Save them again in a moment, "
                "for free."
            ) from error
        return await outputs.save_outputs(client, fresh, store, prefix)
