"""Creating a prediction once: look for the record, claim it, POST, store the id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_cometapi import ledger, urls, wire
from prefect_cometapi.client import CometAPIClient, maybe_accepted
from prefect_cometapi.errors import (
    AccountError,
    InvalidInput,
    LedgerError,
    RequestError,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.failures import Call, Step, next_step
from prefect_cometapi.ledger import ClaimTaken, Found, ServerLedger
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.observer import Observer
from prefect_cometapi.portal import on_background_loop

#: How often, in seconds, a record is looked at while another process is submitting it.
CLAIM_PAUSE = 0.5
#: How often storing the id of an accepted prediction is tried: it is money.
STORE_TRIES = 3


def check_request(
    model: str, input: Mapping[str, Any], sample: int = 0, scope: str | None = None
) -> None:
    """Refuse what can not be right, before anything is sent.

    Raises:
        InvalidInput: Says what.
    """
    urls.check_model(model)
    wire.encode_create(input)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise InvalidInput(f"sample is {sample!r}; it counts 0, 1, 2, … Nothing was sent.")
    if scope is not None and not (isinstance(scope, str) and 0 < len(scope.strip()) <= 200):
        raise InvalidInput(
            f"scope is {scope!r:.80}; it is a text of up to 200 characters, such as a date as "
            '"2026-11-22". Nothing was sent.'
        )


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
    check_request(model, input, sample, scope)
    observer = observer or Observer()
    client = client.telling(observer.trouble)
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
            await asyncio.sleep(CLAIM_PAUSE)  # somebody was quicker: look again
            continue
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
        # From the claim to the last try of storing the id.
        calls = (1 + STORE_TRIES) * ledger.CALL_TIMEOUT
        patience = timedelta(seconds=self.client.settings.create_timeout + calls)
        told = False
        while True:
            exists, record = await self.ledger.read(self.key)
            if not exists:
                return None
            match ledger.decide(record, datetime.now(UTC), patience):
                case Found.ATTACH if record is not None and record.prediction_id:
                    return await self._attach(record.prediction_id, record.sent_at)
                case Found.WAIT:
                    if not told:
                        self.observer.trouble(
                            f"An equal prediction of {self.model} is being submitted elsewhere, or "
                            "was when its process died; waiting for its id for up to "
                            f"{patience.total_seconds():.0f} s."
                        )
                        told = True
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
            found = known.seen_as(await self.client.query(prediction_id, model=self.model))
        except AccountError:
            raise
        except RequestError:
            found = known  # its state is for the polls to find out, until the deadline
        self.observer.found(found)
        return found

    async def create(self) -> Prediction:
        try:
            return await self.client.submit(self.model, self.input, self._recorded)
        except UnknownOutcome as error:
            raise SubmissionInDoubt(
                f"{maybe_accepted(self.model, error)} {ledger.way_out(self.key)}"
            ) from None

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
        self.observer.created(prediction)  # told first: a log line survives what the rest may not
        record = intent.model_copy(update={"prediction_id": prediction.id})
        await self._keep(
            lambda: self.ledger.store(self.key, record), f"stored with id {prediction.id}"
        )
        return prediction

    async def _keep(self, write: Callable[[], Awaitable[None]], what: str) -> None:
        # Failing here would lose more than it saves: the prediction is known to this process.
        for attempt in range(1, STORE_TRIES + 1):
            try:
                return await write()
            except LedgerError as error:
                if attempt == STORE_TRIES:
                    return self.observer.trouble(
                        f"The record {self.key} of a prediction of {self.model} could not be "
                        f"{what}; a retry of this run will call it in doubt. {error}"
                    )
            await asyncio.sleep(attempt * 0.2)
        return None
