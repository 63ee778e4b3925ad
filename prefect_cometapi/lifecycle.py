"""One prediction: submit, poll, save. Runs on the background loop; writes no reports.

What happens on the way is told to an `Observer`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random
from typing import Any

from prefect_cometapi import outputs
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    InvalidInput,
    PredictionCanceled,
    PredictionFailed,
    PredictionTimeout,
    RequestError,
)
from prefect_cometapi.failures import Call, Step, next_step
from prefect_cometapi.models import (
    Cancellation,
    Generation,
    Prediction,
    PredictionStatus,
    SavedFile,
)
from prefect_cometapi.observer import Observer
from prefect_cometapi.pacing import poll_delay
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.storage import Storage, check_writable, open_storage
from prefect_cometapi.submission import check_request, submit

_random = Random()  # noqa: S311 - spreads polls out, guards nothing

TRY_AGAIN = "To try it again on purpose, at a new price, create it with another `sample`."

#: The last poll, at the deadline, may take this long in seconds.
LAST_POLL = 2.0


def check_timeout(timeout: float) -> float:
    """Refuse a time-out that is no positive, finite number of seconds."""
    usable = isinstance(timeout, int | float) and math.isfinite(timeout) and timeout > 0
    if not usable or isinstance(timeout, bool):
        raise InvalidInput(f"The time-out is {timeout!r}; it is a positive number of seconds.")
    return float(timeout)


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
    patience = settings.query_timeout  # the first poll is made in any case, and gets its time
    age = _age(prediction)
    started = time.monotonic() - age
    deadline = started + check_timeout(timeout)
    failures, trouble = 0, ""
    if not prediction.finished and age < settings.poll_min:
        await asyncio.sleep(settings.poll_min - age)  # nothing is done that soon
    while not prediction.finished:
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left, patience)):
                seen = await client.query(prediction.id, model=prediction.model)
                prediction = prediction.seen_as(seen)
        except TimeoutError:
            pause, trouble = settings.poll_min, "The last poll got no answer in time."
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
        left, patience = deadline - time.monotonic(), LAST_POLL
        if not prediction.finished:
            if left <= 0:
                raise PredictionTimeout(_late(prediction, timeout, trouble), prediction=prediction)
            await asyncio.sleep(min(pause, left))
    return _succeeded(prediction)


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
    cancellation = await client.acancel_prediction(known.id, model=known.model)
    (observer or Observer()).canceled(cancellation)
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
    """Save the outputs of a prediction that has succeeded; see `outputs.save_outputs`."""
    observer = observer or Observer()
    store = await open_storage(storage)
    files = await outputs.save_outputs(client.telling(observer.trouble), prediction, store, prefix)
    observer.saved(prediction, files)
    return files


@on_background_loop
async def generate(
    client: CometAPIClient,
    model: str,
    input: Mapping[str, Any],
    storage: Storage,
    *,
    prefix: str = "",
    sample: int = 0,
    timeout: float = 600.0,
    scope: str | None = None,
    observer: Observer | None = None,
) -> Generation:
    """Create, wait and save. Everything that can be checked is checked before the create."""
    check_request(model, input, sample, scope)
    check_timeout(timeout)
    await check_writable(storage, prefix)
    prediction = await submit(client, model, input, sample=sample, scope=scope, observer=observer)
    prediction = await wait(client, prediction, timeout=timeout, observer=observer)
    files = await save(client, prediction, storage, prefix=prefix, observer=observer)
    return Generation(prediction=prediction, files=files)


def _age(prediction: Prediction) -> float:
    """Seconds since it was submitted, by this machine's clock; 0 where that is not known."""
    if prediction.submitted_at is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - prediction.submitted_at).total_seconds())


def _succeeded(prediction: Prediction) -> Prediction:
    if prediction.status is PredictionStatus.SUCCEEDED:
        return prediction
    name = _name(prediction)
    if prediction.status is PredictionStatus.CANCELED:
        raise PredictionCanceled(
            f"{name} was canceled{_reason(prediction)} The time it ran is billed. {TRY_AGAIN}"
            f"{_last_lines(prediction)}",
            prediction=prediction,
        )
    how = (
        "was aborted before it ran, and not billed"
        if prediction.status is (PredictionStatus.ABORTED)
        else "failed"
    )
    raise PredictionFailed(
        f"{name} {how}{_reason(prediction)} {TRY_AGAIN}{_last_lines(prediction)}",
        prediction=prediction,
    )


def _late(prediction: Prediction, timeout: float, trouble: str) -> str:
    return (
        f"{_name(prediction)} was not seen to finish in {timeout:g} s; its last known status is "
        f"{prediction.service_status or prediction.status}.{' ' + trouble if trouble else ''} "
        "Nothing was canceled. If it exists it goes on, and can be collected without paying again: "
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
