"""One prediction: submit, poll, save. Runs on the background loop; writes no reports.

What happens on the way is told to an `Observer`.
"""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime
from typing import Literal

from prefect_cometapi import endings, saving, settlement, stops, tempo
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    ContentRefused,
    InvalidInput,
    PredictionCanceled,
    PredictionFailed,
    RequestError,
)
from prefect_cometapi.failures import Call, Step, is_trouble, next_step
from prefect_cometapi.ledger import Outcome
from prefect_cometapi.models import Cancellation, Generation, Prediction, SavedFile
from prefect_cometapi.observer import Observer, told_when_over
from prefect_cometapi.orders import Order, check_choice
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.provenance_files import circumstances_here
from prefect_cometapi.records import RecordStore, open_ledger
from prefect_cometapi.storage import Storage, check_prefix, check_writable, open_storage
from prefect_cometapi.submission import submit

#: What happens to a prediction at the deadline: it goes on, or the service is asked to cancel it.
OnTimeout = Literal["leave", "cancel"]

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
    records: RecordStore | None = None,
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
        records: Where its record is, if not where the setting `ledger` says.

    Raises:
        PredictionFailed: It failed, or was aborted.
        PredictionCanceled: It was canceled.
        PredictionTimeout: It was not finished in time.
        PredictionNotFound: The service does not know it, a minute after it was created.
        AccountError: The key stopped working. The prediction goes on.
    """
    check_timeout(timeout, on_timeout)
    waiting = Waiting(client, records or _records(client), prediction, observer or Observer())
    return await stops.guarded(lambda: waiting.until_done(timeout, on_timeout), waiting.stop)


class Waiting:
    """The wait for one prediction.

    Attributes:
        prediction: As it was seen last.
    """

    def __init__(
        self,
        client: CometAPIClient,
        records: RecordStore,
        prediction: Prediction,
        observer: Observer,
    ) -> None:
        self.client, self.records = client, records
        self.prediction, self.observer = prediction, observer

    async def stop(self, by_a_person: bool) -> None:
        """Cancel it if a person wants it to stop; else it goes on."""
        if self.prediction.running:
            await settlement.interrupt(
                self.client,
                self.records,
                self.prediction,
                self.observer,
                by_a_person=by_a_person,
            )

    async def until_done(self, timeout: float, on_timeout: OnTimeout) -> Prediction:
        """Poll, then tell how it ended, to the record as well."""
        trouble = await self._poll(timeout)
        if not self.prediction.finished:
            if on_timeout == "leave" or not self.prediction.running:
                raise endings.late(self.prediction, timeout, trouble)
            cancellation = await _canceled(
                self.client, self.records, self.prediction, self.observer
            )
            raise endings.late_and_canceled(self.prediction, timeout, cancellation.message)
        try:
            return endings.succeeded(self.prediction)
        except (PredictionFailed, PredictionCanceled) as error:
            outcome = Outcome.FAILED if isinstance(error, PredictionFailed) else Outcome.CANCELED
            reason = self.prediction.error or ""
            if isinstance(error, ContentRefused):
                reason = f"content filter: {reason}"  # known again, also where it is cut short
            await settlement.settle(
                self.records, self.prediction, outcome, self.observer, reason=reason
            )
            raise

    async def _poll(self, timeout: float) -> str:
        """Poll until it is finished or late; returns what was wrong with the last poll."""
        if self.prediction.finished:
            return ""
        started = time.monotonic() - _age(self.prediction)
        deadline = started + timeout
        with tempo.waiting(self.client, self.prediction, started) as wait:
            if self.prediction.submitted_at is not None:
                await wait.due(deadline)
            return await self._polls(wait, started, deadline)

    async def _polls(self, wait: tempo.Wait, started: float, deadline: float) -> str:
        client, settings = self.client, self.client.settings
        patience = settings.query_timeout  # the first poll is made in any case, and gets its time
        failures, trouble, again = 0, "", False
        pending_from: float | None = None
        while not self.prediction.finished:
            asked = time.monotonic()
            pause: float | None = None  # as the pace says
            try:
                async with asyncio.timeout(max(deadline - asked, patience)):
                    self.prediction = self.prediction.seen_as(
                        await client.query(
                            self.prediction.id,
                            model=self.prediction.model,
                            input=self.prediction.input,
                            again=again,
                            hurry=not again,
                        )
                    )
                now = time.monotonic()
                pending_from = (pending_from or now) if self.prediction.outputs_pending else None
                self.prediction = endings.handed_over(self.prediction, now - (pending_from or now))
            except TimeoutError:
                pause = settings.poll_min
                trouble = trouble or "The last poll got no answer in time."
            except RequestError as error:
                age = time.monotonic() - started
                if next_step(Call.QUERY, error, age=age) is Step.RAISE:
                    raise endings.not_found(self.prediction, error) from None
                failures, trouble, again = failures + 1, str(error), is_trouble(error)
                self.observer.poll_failed(self.prediction, error)
                self.observer.trouble(
                    f"A poll of prediction {self.prediction.id} failed; it goes on. {error}"
                )
                pause = client.pause_after(error, failures)
            else:
                failures, trouble, again = 0, "", False
                self.observer.polled(self.prediction)
                wait.polled(self.prediction, asked)
                if pending_from is not None:  # it has ended, and no run time says how long this is
                    pause = max(settings.poll_min, settings.poll_share * (now - pending_from))
            left, patience = deadline - time.monotonic(), LAST_POLL
            if not self.prediction.finished:
                if left <= 0:
                    break
                await (wait.due(deadline) if pause is None else asyncio.sleep(min(pause, left)))
        return trouble


@on_background_loop
async def get(
    client: CometAPIClient, known: Prediction, *, observer: Observer | None = None
) -> Prediction:
    """Ask for a prediction's state; see `CometAPIClient.aget_prediction`."""
    client = client.telling((observer or Observer()).trouble)
    return known.seen_as(
        await client.aget_prediction(known.id, model=known.model, input=known.input)
    )


@on_background_loop
async def cancel(
    client: CometAPIClient, known: Prediction, *, observer: Observer | None = None
) -> Cancellation:
    """Ask the service to cancel a prediction; see `CometAPIClient.acancel_prediction`."""
    return await _canceled(client, _records(client), known, observer or Observer())


async def _canceled(
    client: CometAPIClient, records: RecordStore, known: Prediction, observer: Observer
) -> Cancellation:
    cancellation = (await client.acancel_prediction(known.id, model=known.model)).of(known)
    observer.canceled(cancellation)
    outcome = Outcome.CANCELED if cancellation.accepted else None
    await settlement.settle(records, known, outcome, observer, cancel_asked=True)
    return cancellation


@on_background_loop
async def save(
    client: CometAPIClient,
    prediction: Prediction,
    storage: Storage,
    *,
    prefix: str = "",
    provenance: bool = False,
    observer: Observer | None = None,
    records: RecordStore | None = None,
) -> list[SavedFile]:
    """Save the outputs of a prediction that has succeeded; see `outputs.save_outputs`.

    What an earlier attempt has saved to the same place is not fetched again, so a retry works
    after the service has deleted the outputs.
    """
    observer = observer or Observer()
    async with told_when_over(observer):
        store = await open_storage(storage)
        return await saving.save_to(
            client,
            records or _records(client),
            prediction,
            store,
            check_prefix(prefix),
            observer,
            await circumstances_here() if provenance else None,
        )


@on_background_loop
async def generate(
    client: CometAPIClient,
    order: Order,
    storage: Storage,
    *,
    prefix: str = "",
    provenance: bool = False,
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
    attempts: int = 1,
    observer: Observer | None = None,
) -> Generation:
    """Create, wait and save. Everything that can be checked is checked before the create."""
    order.check()
    check_timeout(timeout, on_timeout)
    check_attempts(attempts)
    observer, prefix = observer or Observer(), check_prefix(prefix)

    async def make() -> Generation:
        store = await open_storage(storage)
        observer.goes_to(store, prefix)
        await check_writable(storage, prefix)
        circumstances = await circumstances_here() if provenance else None
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
                observer.trouble(f"{error} Trying again, as attempts={attempts}.")
        files = await saving.save_to(
            client, _records(client), prediction, store, prefix, observer, circumstances
        )
        return Generation(prediction=prediction, files=files)

    async with told_when_over(observer):
        return await stops.guarded(make)


def _records(client: CometAPIClient) -> RecordStore:
    return open_ledger(client.settings.ledger)


def _age(prediction: Prediction) -> float:
    """Seconds since it was submitted, by this machine's clock; 0 where that is not known."""
    if prediction.submitted_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - prediction.submitted_at).total_seconds())
