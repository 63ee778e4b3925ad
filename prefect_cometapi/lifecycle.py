"""One prediction: intent, POST, id, poll, save. Runs on the background loop; writes no reports.

What happens on the way is told to an `Observer`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from prefect_cometapi import ledger, outputs, urls, wire
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    InvalidInput,
    LedgerError,
    PredictionCanceled,
    PredictionFailed,
    PredictionNotFound,
    PredictionTimeout,
    RequestError,
    SubmissionInDoubt,
)
from prefect_cometapi.failures import Call, Step, next_step
from prefect_cometapi.ledger import ClaimTaken, Found, ServerLedger
from prefect_cometapi.models import (
    Cancellation,
    Generation,
    Prediction,
    PredictionStatus,
    SavedFile,
)
from prefect_cometapi.pacing import poll_delay
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.storage import Store, check_prefix

_random = Random()  # noqa: S311 - spreads polls out, guards nothing

#: How often, in seconds, a record is looked at while another process is submitting it.
CLAIM_PAUSE = 0.5
#: The last poll, at the deadline, may take this long in seconds.
LAST_POLL = 2.0
#: How often storing the id of an accepted prediction is tried: it is money.
STORE_TRIES = 3


class Observer:
    """Is told what happens to a prediction. The methods do nothing here."""

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""

    def found(self, prediction: Prediction) -> None:
        """It had been created by an earlier attempt of the same run, and is not paid for again."""

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it, and answered."""

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""


def check_request(model: str, input: Mapping[str, Any], sample: int = 0) -> None:
    """Refuse what can not be right, before anything is sent.

    Raises:
        InvalidInput: Says what.
    """
    urls.check_model(model)
    wire.encode_create(input)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise InvalidInput(f"sample is {sample!r}; it counts 0, 1, 2, … Nothing was sent.")


def check_timeout(timeout: float) -> float:
    """Refuse a time-out that is no positive, finite number of seconds."""
    usable = isinstance(timeout, int | float) and math.isfinite(timeout) and timeout > 0
    if not usable or isinstance(timeout, bool):
        raise InvalidInput(f"The time-out is {timeout!r}; it is a positive number of seconds.")
    return float(timeout)


@on_background_loop
async def submit(
    client: CometAPIClient,
    model: str,
    input: Mapping[str, Any],
    *,
    sample: int = 0,
    scope: str | None = None,
    observer: Observer | None = None,
) -> Prediction:
    """Create a prediction, or find the one that this scope has created already.

    Args:
        client: The API to use.
        model: The model, as `owner/name`.
        input: Its parameters.
        sample: Tells equal requests of one scope apart.
        scope: What shares predictions: a flow run and its retries. None shares nothing.
        observer: Told what happens.

    Raises:
        InvalidInput: Refused here; nothing was sent.
        LedgerError: The ledger could not be reached; nothing was sent.
        SubmissionInDoubt: It may have been created; it is not sent again.
        RequestError: It was not accepted.
    """
    check_request(model, input, sample)
    client.notify = (observer := observer or Observer()).trouble
    if scope is None:
        prediction = await client.acreate_prediction(model, input)
        observer.created(prediction)
        return prediction
    submission = _Submission(client, model, input, sample, scope, observer)
    while True:
        if (earlier := await submission.earlier()) is not None:
            return earlier
        try:
            prediction = await submission.create()
        except ClaimTaken:
            continue  # somebody was quicker: look again
        observer.created(prediction)
        return prediction


class _Submission:
    """One create under one key of the ledger."""

    def __init__(
        self,
        client: CometAPIClient,
        model: str,
        input: Mapping[str, Any],
        sample: int,
        scope: str,
        observer: Observer,
    ) -> None:
        self.client, self.model, self.input, self.observer = client, model, input, observer
        self.sample, self.scope = sample, scope
        self.key = ledger.prediction_key(scope, client.api_root, model, input, sample)
        self.ledger = ServerLedger()

    async def earlier(self) -> Prediction | None:
        """The prediction that the scope has already, once it is clear whether there is one."""
        patience = timedelta(seconds=self.client.settings.create_timeout + ledger.CALL_TIMEOUT)
        while True:
            exists, record = await self.ledger.read(self.key)
            if not exists:
                return None
            match ledger.decide(record, datetime.now(UTC), patience):
                case Found.ATTACH if record is not None and record.prediction_id:
                    return await self._attach(record.prediction_id, record.sent_at)
                case Found.WAIT:
                    await asyncio.sleep(CLAIM_PAUSE)
                case _:
                    raise ledger.in_doubt(self.key, record)

    async def _attach(self, prediction_id: str, sent_at: datetime) -> Prediction:
        known = Prediction(
            id=prediction_id,
            model=self.model,
            status=PredictionStatus.STARTING,
            api_root=self.client.api_root,
            input=dict(self.input),
            submitted_at=sent_at,
        )
        try:
            found = await self.client.aget_prediction(prediction_id, model=self.model)
        except PredictionNotFound:
            found = known  # just created, perhaps; waiting for it tells
        found = _merge(known, found)
        self.observer.found(found)
        return found

    async def create(self) -> Prediction:
        try:
            return await self.client.acreate_prediction(
                self.model, self.input, around=self._recorded
            )
        except SubmissionInDoubt as error:
            raise SubmissionInDoubt(f"{error} {ledger.way_out(self.key)}") from error.__cause__

    async def _recorded(self, post: Callable[[], Awaitable[Prediction]]) -> Prediction:
        """Claim and intent, the POST, the id. The client never lets a cancellation in between."""
        intent = ledger.new_record(self.scope, self.model, self.client.api_root, self.sample)
        await self.ledger.claim(self.key, intent)
        try:
            prediction = await post()
        except RequestError as error:
            if next_step(Call.CREATE, error) is not Step.IN_DOUBT:
                await self._keep(lambda: self.ledger.release(self.key), "released")
            raise
        record = intent.model_copy(update={"prediction_id": prediction.id})
        await self._keep(
            lambda: self.ledger.store(self.key, record), f"stored with id {prediction.id}"
        )
        return prediction

    async def _keep(self, write: Callable[[], Awaitable[None]], what: str) -> None:
        # Failing here would lose more than it saves: the prediction is known to this process.
        for attempt in range(1, STORE_TRIES + 1):
            try:
                await write()
                break
            except LedgerError as error:
                if attempt == STORE_TRIES:
                    self.observer.trouble(
                        f"The record {self.key} of a prediction of {self.model} could not be "
                        f"{what}; a retry of this run will call it in doubt. {error}"
                    )
                await asyncio.sleep(attempt * 0.2)


@on_background_loop
async def wait(
    client: CometAPIClient,
    prediction: Prediction,
    *,
    timeout: float = 600.0,
    observer: Observer | None = None,
) -> Prediction:
    """Poll a prediction until it has succeeded.

    A poll that fails or hangs says nothing about the prediction: it is asked again until the
    deadline. At least one poll is made, however late it is.

    Args:
        client: The API to use.
        prediction: What to wait for.
        timeout: Seconds from its submission where that time is known, else from now.
        observer: Told what happens.

    Raises:
        PredictionFailed: It failed, or was aborted.
        PredictionCanceled: It was canceled.
        PredictionTimeout: It was not finished in time. It goes on.
        PredictionNotFound: The service does not know it, a minute after it was created.
        AccountError: The key stopped working. The prediction goes on.
    """
    observer, settings = observer or Observer(), client.settings
    age = _age(prediction)
    started = time.monotonic() - age
    deadline = started + check_timeout(timeout)
    failures, trouble = 0, ""
    if not prediction.finished and age < settings.poll_min:
        await asyncio.sleep(settings.poll_min - age)  # nothing is done that soon
    while not prediction.finished:
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left, LAST_POLL)):
                prediction = _merge(
                    prediction, await client.query(prediction.id, model=prediction.model)
                )
        except TimeoutError:
            pause, trouble = settings.poll_min, "The last poll got no answer."
        except RequestError as error:
            if next_step(Call.QUERY, error, age=time.monotonic() - started) is Step.RAISE:
                raise
            failures, trouble = failures + 1, str(error)
            observer.trouble(f"A poll of prediction {prediction.id} failed; it goes on. {error}")
            pause = client.pause_after(error, failures)
        else:
            failures, trouble = 0, ""
            observer.polled(prediction)
            pause = poll_delay(
                time.monotonic() - started,
                _random,
                shortest=settings.poll_min,
                longest=settings.poll_max,
                share=settings.poll_share,
            )
        left = deadline - time.monotonic()
        if not prediction.finished:
            if left <= 0:
                raise PredictionTimeout(_late(prediction, timeout, trouble), prediction=prediction)
            await asyncio.sleep(min(pause, left))
    return _succeeded(prediction)


@on_background_loop
async def get(client: CometAPIClient, known: Prediction) -> Prediction:
    """Ask for a prediction's state; see `CometAPIClient.aget_prediction`."""
    return _merge(known, await client.aget_prediction(known.id, model=known.model))


@on_background_loop
async def cancel(
    client: CometAPIClient, known: Prediction, *, observer: Observer | None = None
) -> Cancellation:
    """Ask the service to cancel a prediction; see `CometAPIClient.acancel_prediction`."""
    cancellation = await client.acancel_prediction(known.id, model=known.model)
    (observer or Observer()).canceled(cancellation)
    return cancellation


@on_background_loop
async def save(
    client: CometAPIClient,
    prediction: Prediction,
    store: Store,
    *,
    prefix: str = "",
    observer: Observer | None = None,
) -> list[SavedFile]:
    """Save the outputs of a prediction that has succeeded; see `outputs.save_outputs`."""
    observer = observer or Observer()
    client.notify = observer.trouble
    files = await outputs.save_outputs(client, prediction, store, prefix)
    observer.saved(prediction, files)
    return files


@on_background_loop
async def generate(
    client: CometAPIClient,
    model: str,
    input: Mapping[str, Any],
    store: Store,
    *,
    prefix: str = "",
    sample: int = 0,
    timeout: float = 600.0,
    scope: str | None = None,
    observer: Observer | None = None,
) -> Generation:
    """Create, wait and save. Everything that can be checked is checked before the create."""
    check_request(model, input, sample)
    check_timeout(timeout)
    check_prefix(prefix)
    await store.check()
    prediction = await submit(client, model, input, sample=sample, scope=scope, observer=observer)
    prediction = await wait(client, prediction, timeout=timeout, observer=observer)
    files = await save(client, prediction, store, prefix=prefix, observer=observer)
    return Generation(prediction=prediction, files=files)


def _age(prediction: Prediction) -> float:
    """Seconds since it was submitted, by this machine's clock; 0 where that is not known."""
    if prediction.submitted_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - prediction.submitted_at).total_seconds())


def _merge(known: Prediction, seen: Prediction) -> Prediction:
    """What the service says now, with what it has forgotten or never knew."""
    return seen.model_copy(
        update={
            "model": seen.model or known.model,
            "input": seen.input or known.input,
            "submitted_at": known.submitted_at,
            "created_at": seen.created_at or known.created_at,
        }
    )


def _succeeded(prediction: Prediction) -> Prediction:
    if prediction.status is PredictionStatus.SUCCEEDED:
        return prediction
    name = _name(prediction)
    if prediction.status is PredictionStatus.CANCELED:
        raise PredictionCanceled(
            f"{name} was canceled{_reason(prediction)} The time it ran is billed."
            f"{_last_lines(prediction)}",
            prediction=prediction,
        )
    how = (
        "was aborted before it ran, and not billed"
        if prediction.status is (PredictionStatus.ABORTED)
        else "failed"
    )
    raise PredictionFailed(
        f"{name} {how}{_reason(prediction)}{_last_lines(prediction)}", prediction=prediction
    )


def _late(prediction: Prediction, timeout: float, trouble: str) -> str:
    return (
        f"{_name(prediction)} was not finished after {timeout:g} s; its last known status is "
        f"{prediction.service_status or prediction.status}.{' ' + trouble if trouble else ''} It "
        "was left running, and can be collected without paying again: "
        f'poll_prediction(credentials, "{prediction.id}").{_last_lines(prediction)}'
    )


def _name(prediction: Prediction) -> str:
    return f"Prediction {prediction.id}{f' of {prediction.model}' if prediction.model else ''}"


def _reason(prediction: Prediction) -> str:
    if not prediction.error:
        return "; the service gave no reason."
    return f": {prediction.error.rstrip('.')}."


def _last_lines(prediction: Prediction, lines: int = 5) -> str:
    last = [line for line in prediction.logs.splitlines() if line.strip()][-lines:]
    return (
        "\nThe last lines of its log:\n" + "\n".join(f"  {line}" for line in last) if last else ""
    )
