"""One prediction: submit, poll, save. Runs on the background loop; writes no reports.

What happens on the way is told to an `Observer`.
"""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from random import Random
from typing import Literal

from prefect_cometapi import endings, outputs, settlement, stops
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    CometAPIError,
    ContentRefused,
    InvalidInput,
    OutputExpired,
    OutputUnavailable,
    PredictionCanceled,
    PredictionFailed,
    RequestError,
)
from prefect_cometapi.failures import Call, Step, is_trouble, next_step
from prefect_cometapi.ledger import Outcome
from prefect_cometapi.models import Cancellation, Generation, Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.pacing import poll_delay
from prefect_cometapi.portal import on_background_loop, uninterrupted
from prefect_cometapi.storage import Storage, check_prefix, check_writable, open_storage
from prefect_cometapi.stores import Store
from prefect_cometapi.submission import Order, check_choice, submit

#: What happens to a prediction at the deadline: it goes on, or the service is asked to cancel it.
OnTimeout = Literal["leave", "cancel"]

_random = Random()  # noqa: S311 - spreads polls out, guards nothing

#: The last poll, at the deadline, may take this long in seconds.
LAST_POLL = 2.0


def check_timeout(timeout: float, on_timeout: str = "leave") -> float:
    """Refuse a time-out that is no positive, finite number of seconds.

    Raises:
        InvalidInput: Says what is wrong.
    """
    usable = isinstance(timeout, int | float) and math.isfinite(timeout) and timeout > 0
    if not usable or isinstance(timeout, bool):
        raise InvalidInput(f"The time-out is {timeout!r}; it is a positive number of seconds.")
    check_choice("on_timeout", on_timeout, ("leave", "cancel"))
    return float(timeout)


def check_attempts(attempts: int) -> int:
    """Refuse a number of attempts that is none.

    Raises:
        InvalidInput: It is not from 1 to 20.
    """
    if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= 20:
        raise InvalidInput(f"attempts is {attempts!r}; it is from 1 to 20. Nothing was sent.")
    return attempts


@on_background_loop
async def wait(
    client: CometAPIClient,
    prediction: Prediction,
    *,
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
    observer: Observer | None = None,
) -> Prediction:
    """Poll a prediction until it has succeeded.

    A poll that fails or hangs says nothing about the prediction: it is asked again until the
    deadline. At least one poll is made, however late it is. Where a person stops the run, the
    service is asked to cancel the prediction.

    Args:
        client: The API to use.
        prediction: What to wait for.
        timeout: Seconds from its submission where that time is known, else from now.
        on_timeout: At the deadline, `leave` it running or `cancel` it.
        observer: Told what happens.

    Raises:
        PredictionFailed: It failed, or was aborted.
        PredictionCanceled: It was canceled.
        PredictionTimeout: It was not finished in time.
        PredictionNotFound: The service does not know it, a minute after it was created.
        AccountError: The key stopped working. The prediction goes on.
    """
    check_timeout(timeout, on_timeout)
    waiting = _Waiting(client, prediction, observer or Observer())
    return await stops.guarded(lambda: waiting.until_done(timeout, on_timeout), waiting.stop)


class _Waiting:
    """The wait for one prediction."""

    def __init__(self, client: CometAPIClient, prediction: Prediction, observer: Observer) -> None:
        self.client, self.prediction, self.observer = client, prediction, observer

    async def stop(self, by_a_person: bool) -> None:
        """Cancel it if a person wants it to stop; else it goes on."""
        if self.prediction.running:
            await settlement.interrupt(
                self.client, self.prediction, self.observer, by_a_person=by_a_person
            )

    async def until_done(self, timeout: float, on_timeout: OnTimeout) -> Prediction:
        """Poll, then tell how it ended, to the record as well."""
        trouble = await self._poll(timeout)
        if not self.prediction.finished:
            if on_timeout == "leave" or not self.prediction.running:
                raise endings.late(self.prediction, timeout, trouble)
            cancellation = await cancel(self.client, self.prediction, observer=self.observer)
            raise endings.late_and_canceled(self.prediction, timeout, cancellation.message)
        try:
            return endings.succeeded(self.prediction)
        except (PredictionFailed, PredictionCanceled) as error:
            outcome = Outcome.FAILED if isinstance(error, PredictionFailed) else Outcome.CANCELED
            reason = self.prediction.error or ""
            if isinstance(error, ContentRefused):
                reason = f"content filter: {reason}"  # known again, also where it is cut short
            await settlement.settle(
                self.client, self.prediction, outcome, self.observer, reason=reason
            )
            raise

    async def _poll(self, timeout: float) -> str:
        """Poll until it is finished or late; returns what was wrong with the last poll."""
        client, settings = self.client, self.client.settings
        patience = settings.query_timeout  # the first poll is made in any case, and gets its time
        age = _age(self.prediction)
        started = time.monotonic() - age
        deadline = started + timeout
        failures, trouble, again = 0, "", False
        pending_from: float | None = None
        if not self.prediction.finished and age < settings.poll_min:
            await asyncio.sleep(settings.poll_min - age)  # nothing is done that soon
        while not self.prediction.finished:
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(left, patience)):
                    seen = await client.query(
                        self.prediction.id, model=self.prediction.model, again=again
                    )
                now = time.monotonic()
                pending_from = (pending_from or now) if seen.outputs_pending else None
                self.prediction = endings.handed_over(
                    self.prediction.seen_as(seen), now - (pending_from or now)
                )
            except TimeoutError:
                pause = settings.poll_min
                trouble = trouble or "The last poll got no answer in time."
            except RequestError as error:
                age = time.monotonic() - started
                if next_step(Call.QUERY, error, age=age) is Step.RAISE:
                    raise endings.not_found(self.prediction, error) from None
                failures, trouble, again = failures + 1, str(error), is_trouble(error)
                self.observer.trouble(
                    f"A poll of prediction {self.prediction.id} failed; it goes on. {error}"
                )
                pause = client.pause_after(error, failures)
            else:
                failures, trouble, again = 0, "", False
                self.observer.polled(self.prediction)
                pause = poll_delay(
                    now - (pending_from or started),
                    _random,
                    shortest=settings.poll_min,
                    longest=settings.poll_max,
                    share=settings.poll_share,
                )
            left, patience = deadline - time.monotonic(), LAST_POLL
            if not self.prediction.finished:
                if left <= 0:
                    break
                await asyncio.sleep(min(pause, left))
        return trouble


@on_background_loop
async def get(
    client: CometAPIClient, known: Prediction, *, observer: Observer | None = None
) -> Prediction:
    """Ask for a prediction's state; see `CometAPIClient.aget_prediction`."""
    client = client.telling((observer or Observer()).trouble)
    return known.seen_as(await client.aget_prediction(known.id, model=known.model))


@on_background_loop
async def cancel(
    client: CometAPIClient, known: Prediction, *, observer: Observer | None = None
) -> Cancellation:
    """Ask the service to cancel a prediction; see `CometAPIClient.acancel_prediction`."""
    observer = observer or Observer()
    cancellation = await client.acancel_prediction(known.id, model=known.model)
    observer.canceled(cancellation)
    outcome = Outcome.CANCELED if cancellation.accepted else None
    await settlement.settle(client, known, outcome, observer, cancel_asked=True)
    return cancellation


@on_background_loop
async def save(
    client: CometAPIClient,
    prediction: Prediction,
    storage: Storage,
    *,
    prefix: str = "",
    observer: Observer | None = None,
) -> list[SavedFile]:
    """Save the outputs of a prediction that has succeeded; see `outputs.save_outputs`.

    What an earlier attempt has saved to the same place is not fetched again, so a retry works
    after the service has deleted the outputs.
    """
    observer = observer or Observer()
    client, store = client.telling(observer.trouble), await open_storage(storage)
    prefix = check_prefix(prefix)
    # That is how a record which says "saved" is told; what the service has it has.
    if prediction.data_removed:
        kept = await settlement.saved_files(client, prediction, store, prefix)
        if kept is not None:
            observer.kept(prediction, kept)
            return kept
    try:
        files = await _fetched(client, prediction, store, prefix)
    except OutputExpired as error:
        stem = outputs.stem_of(prediction, prefix)
        known = await settlement.left_by_others(client, prediction, store, stem)
        expired = OutputExpired(f"{error}{known}")
        await settlement.settle(client, prediction, Outcome.EXPIRED, observer, reason=str(expired))
        raise expired from error.__cause__
    observer.saved(prediction, files)
    reason = ""
    if prediction.outputs_pending:
        reason = "The service named this output, and never handed over the prediction itself."
        observer.trouble(f"Prediction {prediction.id}: {reason} There may be more outputs.")
    # Uninterrupted: what is saved must not be taken for lost.
    await uninterrupted(
        settlement.settle(
            client,
            prediction,
            Outcome.SAVED,
            observer,
            reason=reason,
            files=files,
            storage=store.identity,
        )
    )
    return files


async def _fetched(
    client: CometAPIClient, prediction: Prediction, store: Store, prefix: str
) -> list[SavedFile]:
    try:
        return await outputs.save_outputs(client, prediction, store, prefix)
    except OutputExpired as error:
        # Perhaps only these URLs are: the service signs them anew while it has the outputs.
        try:
            fresh = prediction.seen_as(await client.query(prediction.id, model=prediction.model))
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


@on_background_loop
async def generate(
    client: CometAPIClient,
    order: Order,
    storage: Storage,
    *,
    prefix: str = "",
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
    attempts: int = 1,
    observer: Observer | None = None,
) -> Generation:
    """Create, wait and save. Everything that can be checked is checked before the create."""
    order.check()
    check_timeout(timeout, on_timeout)
    check_attempts(attempts)
    await check_writable(storage, prefix)

    async def make() -> Generation:
        done_with = 0
        for left in reversed(range(attempts)):
            created = await submit(client, order, after=done_with, observer=observer)
            try:
                prediction = await wait(
                    client, created, timeout=timeout, on_timeout=on_timeout, observer=observer
                )
                break
            except ContentRefused:
                raise
            except PredictionFailed as error:
                if not left:
                    raise
                done_with = created.attempt
                (observer or Observer()).trouble(f"{error} Trying again, as attempts={attempts}.")
        files = await save(client, prediction, storage, prefix=prefix, observer=observer)
        return Generation(prediction=prediction, files=files)

    return await stops.guarded(make)


def _age(prediction: Prediction) -> float:
    """Seconds since it was submitted, by this machine's clock; 0 where that is not known."""
    if prediction.submitted_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - prediction.submitted_at).total_seconds())
