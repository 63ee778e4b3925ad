"""Creating a prediction once: look for the record, claim it, POST, store the id."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from prefect_cometapi import ledger, settlement, stops
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    AccountError,
    LedgerError,
    RequestError,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.failures import Call, Step, next_step
from prefect_cometapi.ledger import Outcome, Record, Standing
from prefect_cometapi.models import Prediction
from prefect_cometapi.observer import Observer
from prefect_cometapi.orders import Order
from prefect_cometapi.portal import interruption_waits, on_background_loop
from prefect_cometapi.prefect_api import CALL_TIMEOUT, current_scope, lineage
from prefect_cometapi.records import Claim, ClaimTaken, RecordStore, open_ledger
from prefect_cometapi.settings import CometAPISettings

#: How often, in seconds, a record is looked at while another process is submitting it.
CLAIM_PAUSE = 0.5
#: For how many seconds writing a record is tried, once a prediction is accepted: it is money.
KEEP_TIMEOUT = 90.0
#: The same for taking back the claim of what was not sent.
RELEASE_TIMEOUT = 15.0
#: The longest pause between two of those tries, in seconds.
KEEP_PAUSE = 5.0


def patience(settings: CometAPISettings) -> timedelta:
    """How long a create may take, from the claim to the last try of storing the id."""
    return timedelta(seconds=CALL_TIMEOUT + settings.create_timeout + KEEP_TIMEOUT)


@on_background_loop
async def submit(
    client: CometAPIClient, order: Order, *, after: int = 0, observer: Observer | None = None
) -> Prediction:
    """Create a prediction, or find the one that this scope has created already.

    Args:
        client: The API to use.
        order: What to create.
        after: The last attempt that is done with; the one after it is wanted.
        observer: Told what happens.

    Raises:
        InvalidInput: Refused here; nothing was sent.
        LedgerError: The ledger could not be reached; nothing was sent.
        SubmissionInDoubt: It may have been created; it is not sent again.
        RequestError: It was not accepted.
    """
    order.check()
    observer = observer or Observer()
    submission = Submission(
        client.telling(observer.trouble),
        order,
        open_ledger(client.settings.ledger),
        order.scope or await current_scope(),
        [str(run) for run in await lineage()],
        after=after,
        observer=observer,
    )
    return await stops.guarded(
        submission.until_there, lambda asked: submission.attempt.stop(by_a_person=asked)
    )


class Submission:
    """One order on its way to a prediction, by as many attempts as are allowed.

    Attributes:
        attempt: The one that is being made.
    """

    def __init__(
        self,
        client: CometAPIClient,
        order: Order,
        records: RecordStore,
        scope: str,
        flow_runs: list[str],
        *,
        after: int,
        observer: Observer,
    ) -> None:
        self._nth = functools.partial(
            _Attempt, client, order, records, scope, flow_runs, observer=observer
        )
        self._observer = observer
        self._resubmissions = 1 if order.on_in_doubt == "resubmit" else 0
        self.attempt = self._nth(after + 1)

    async def until_there(self) -> Prediction:
        """The prediction; see `submit`."""
        while True:
            try:
                if (found := await self.attempt.earlier()) is not None:
                    return found
                return await self.attempt.create()
            except ClaimTaken:
                await asyncio.sleep(CLAIM_PAUSE)  # somebody was quicker: look again
            except _OneMore:
                self.attempt = self._nth(self.attempt.number + 1)
            except SubmissionInDoubt as error:
                # Once a call: a service that loses every reply must not be paid without end.
                if error.abandoned:
                    raise
                if not self._resubmissions:
                    self._observer.in_doubt(self.attempt.seen or self.attempt.intent, error)
                    raise
                try:
                    given_up = await self.attempt.give_up()
                except LedgerError as trouble:
                    raise error from trouble
                if not given_up:
                    continue  # its id has come after all, or a person has decided
                self._observer.trouble(f'{error} For on_in_doubt="resubmit" it is, once.')
                self._resubmissions -= 1
                self.attempt = self._nth(self.attempt.number + 1)


class _OneMore(Exception):
    """A further attempt was allowed."""


class _Attempt:
    """One create under one key of the ledger."""

    def __init__(
        self,
        client: CometAPIClient,
        order: Order,
        records: RecordStore,
        scope: str,
        flow_runs: list[str],
        number: int,
        observer: Observer,
    ) -> None:
        self.client, self.order, self.scope, self.number = client, order, scope, number
        self.records, self.observer = records, observer
        self.price = client.settings.prices.get(order.model)
        self.patience = patience(client.settings)
        self.intent = ledger.intent(
            scope=scope,
            model=order.model,
            api_root=client.api_root,
            input=order.input,
            sample=order.sample,
            key=order.key,
            attempt=number,
            flow_runs=flow_runs,
            credentials=order.credentials,
            patience=self.patience,
            prompts=client.settings.prompts,
        )
        self.key = ledger.key_of(self.intent, order.input)
        self.seen: Record | None = None
        self.made: Prediction | None = None
        self.doubt: SubmissionInDoubt | None = None

    async def earlier(self) -> Prediction | None:
        """The prediction that the scope has already, once it is clear whether there is one."""
        told, torn_until = False, time.monotonic() + self.records.torn_patience
        while True:
            exists, record = await self.records.read(self.scope, self.key)
            if not exists:
                return None
            if record is None:
                if time.monotonic() >= torn_until:
                    raise ledger.in_doubt(self.key, None, self.price)
                await asyncio.sleep(CLAIM_PAUSE)
                continue
            if not self.client.settings.prompts:
                record = record.model_copy(update={"excerpt": ""})
            match record.standing(datetime.now(UTC), self.patience):
                case Standing.SENDING:
                    if not told:
                        self.observer.trouble(
                            f"An equal prediction of {record.model} is being submitted elsewhere, "
                            "or was when its process died; waiting for its id for up to "
                            f"{self.patience.total_seconds():.0f} s."
                        )
                        told = True
                    await asyncio.sleep(CLAIM_PAUSE)
                case Standing.IN_DOUBT:
                    self.seen = record
                    raise ledger.in_doubt(self.key, record, self.price)
                case Standing.UNSAVED:
                    return await self._attach(record)
                case Standing.ENDED:
                    return self._recalled(record)

    def _recalled(self, record: Record) -> Prediction:
        """What the record says of a prediction that has ended."""
        if record.outcome is Outcome.ABANDONED:
            raise ledger.abandoned(self.key, record)
        if record.outcome in (Outcome.RESUBMITTED, Outcome.STOPPED) or not record.prediction_id:
            raise _OneMore
        found = record.prediction(self.key, self.order.input)
        self.observer.found(found)
        return found

    async def _attach(self, record: Record) -> Prediction:
        self.made = known = record.prediction(self.key, self.order.input)
        try:
            found = known.seen_as(
                await self.client.query(known.id, model=known.model, input=known.input)
            )
        except AccountError:
            raise
        except RequestError:
            found = known  # its state is for the polls to find out, until the deadline
        self.observer.found(found)
        return found

    async def create(self) -> Prediction:
        """Create it, which an interruption can not cut in two."""
        try:
            return await self.client.submit(self.order.model, self.order.input, self._recorded)
        except UnknownOutcome as error:
            raise ledger.in_doubt(self.key, self.intent, self.price, error) from None

    async def stop(self, *, by_a_person: bool) -> None:
        """Say what is in doubt; cancel what runs, if a person wants it to stop."""
        if self.doubt is not None:
            self.observer.trouble(str(self.doubt))
            self.observer.in_doubt(self.intent, self.doubt)
        if self.made is not None and self.made.running:
            await settlement.interrupt(
                self.client, self.records, self.made, self.observer, by_a_person=by_a_person
            )

    async def _recorded(self, post: Callable[[], Awaitable[Prediction]]) -> Prediction:
        """Claim and intent, the POST, the id. The client never lets a cancellation in between."""
        claim = await self.records.claim(self.key, self.intent)
        late = datetime.now(UTC) - claim.sent_at > timedelta(seconds=CALL_TIMEOUT)
        if late or interruption_waits():  # others may take a late one for lost while it is sent
            await self._release(claim)
            if not late:
                raise CancelledError("Interrupted before anything was sent.")
            raise LedgerError(
                f"Writing the record of a prediction of {self.order.model} took longer than "
                f"{CALL_TIMEOUT:g} s, so nothing was sent. Run again when the ledger is faster."
            )
        self.intent = intent = self.intent.afresh()
        try:
            prediction = await post()
        except Exception as error:
            refused = isinstance(error, RequestError) and (
                next_step(Call.CREATE, error) is not Step.IN_DOUBT
            )
            if not refused:
                self.doubt = ledger.in_doubt(self.key, intent, self.price, error)
                lost = intent.model_copy(update={"lost": True})
                await self._keep(lambda: self.records.store(self.key, lost), "marked as in doubt")
            else:
                self.observer.refused(error)  # first: others may be about to fail in the same way
                await self._release(claim)
            raise
        self.made = prediction.model_copy(
            update={
                "record_key": self.key,
                "scope": self.scope,
                "attempt": self.number,
                "input": prediction.input or dict(self.order.input),
            }
        )
        self.observer.created(self.made)  # first: a log line survives what the rest may not
        record = intent.model_copy(update={"prediction_id": prediction.id})
        await self._keep(
            lambda: self.records.store(self.key, record), f"stored with id {prediction.id}"
        )
        return self.made

    async def _release(self, claim: Claim) -> None:
        await self._keep(
            lambda: self.records.release(self.scope, self.key, claim.id),
            "released",
            RELEASE_TIMEOUT,
        )

    async def _keep(
        self, write: Callable[[], Awaitable[None]], what: str, seconds: float = KEEP_TIMEOUT
    ) -> None:
        # Failing here would lose more than it saves: the prediction is known to this process.
        trouble: Exception | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for pause in itertools.chain((0.2, 0.4, 1.0, 2.0), itertools.repeat(KEEP_PAUSE)):
                    try:
                        await write()
                    except Exception as error:
                        trouble = error
                    else:
                        return
                    await asyncio.sleep(pause)
        self.observer.trouble(
            f"The record {self.key} of a prediction of {self.order.model} could not be {what}; a "
            f"retry of this run will call it in doubt. {trouble or 'There was no answer in time.'}"
        )

    async def give_up(self) -> bool:
        """Say in the record that a further attempt may be sent.

        Returns:
            False where its id has come in the meantime, or a person has decided about it.

        Raises:
            LedgerError: It could not be written, and so nothing further is sent.
        """
        # The clocks of two machines may differ by more than a create takes. So somebody else's
        # intent is watched for as long by this one's, before it is paid for a second time.
        began, patient = time.monotonic(), self.patience.total_seconds()
        while True:
            exists, record = await self.records.read(self.scope, self.key)
            if not exists:
                return False
            if record is not None:
                if record.outcome or record.prediction_id:
                    return False
                if record.lost or record.owner == self.intent.owner:
                    break
            if time.monotonic() >= began + (patient if record else self.records.torn_patience):
                break
            await asyncio.sleep(CLAIM_PAUSE)
        again = (record or self.intent).ended(Outcome.RESUBMITTED)
        await self.records.store(self.key, again)
        return True
