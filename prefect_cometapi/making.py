"""One item of a batch, from its input to its files, as a single prediction goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prefect_cometapi import batch_rules, lifecycle, saving, settlement
from prefect_cometapi.attempts import MAY_BE_RETRIED, Past, past_of
from prefect_cometapi.batch_models import BatchItem, ItemStatus, PredictionRequest
from prefect_cometapi.batch_rules import NotSent
from prefect_cometapi.errors import (
    ContentRefused,
    OutputExpired,
    PredictionFailed,
    RequestError,
    SubmissionInDoubt,
)
from prefect_cometapi.hidden_texts import hidden_texts, without
from prefect_cometapi.ledger import Outcome, Record, excerpt_of, record_key
from prefect_cometapi.lifecycle import Waiting
from prefect_cometapi.models import Cancellation, Prediction, SavedFile
from prefect_cometapi.observer import Observers
from prefect_cometapi.orders import Order
from prefect_cometapi.provenance import Circumstances
from prefect_cometapi.provenance_files import write_beside
from prefect_cometapi.submission import Submission
from prefect_cometapi.workshop import Workshop

#: What an item keeps of an earlier run whose files are there.
OF_ITS_FILES = {"prediction_id", "record_key", "attempt", "files", "created_at"}


class Making(Observers):
    """One item on its way; what happens to it is counted, and told to those who want to know."""

    def __init__(
        self, shop: Workshop, number: int, request: PredictionRequest, order: Order
    ) -> None:
        super().__init__(shop.observer.each)
        self.shop, self.number, self.request, self.order = shop, number, request, order
        #: Under which its end is remembered, whichever attempt it was.
        self.key = self.key_of(1)
        self.stage: Submission | Waiting | None = None
        #: Whether it is on its way to its id, and was told that there is no more time for that.
        self.creating = self.cut_short = False
        self.was_found, self.polls = False, 0
        #: What an earlier run has saved of it, while that is being looked at.
        self._before: BatchItem | None = None
        self.delay: float | None = None
        self.saved_after: float | None = None

    def key_of(self, attempt: int) -> str:
        """The key of the record of an attempt."""
        order, shop = self.order, self.shop
        return record_key(
            shop.options.scope,
            shop.client.api_root,
            order.model,
            order.input,
            order.sample,
            key=order.key,
            attempt=attempt,
        )

    @property
    def prediction(self) -> Prediction | None:
        """What is known of its prediction."""
        if isinstance(self.stage, Waiting):
            return self.stage.prediction
        return self.stage.attempt.made if self.stage else None

    def found(self, prediction: Prediction) -> None:
        """An earlier run had created it."""
        self.was_found = True
        super().found(prediction)

    def refused(self, error: Exception) -> None:
        """Its create was not accepted: the others' would not be, either, where that ends all."""
        super().refused(error)
        if isinstance(error, batch_rules.ENDS_THE_BATCH):
            self.shop.halt(str(error), error)

    def poll_failed(self, prediction: Prediction, error: RequestError) -> None:
        """A poll brought nothing: counted."""
        self.shop.tally.poll_failed(error)
        super().poll_failed(prediction, error)

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage, by this run: counted."""
        self.saved_after = batch_rules.seconds_since(prediction.completed_at, datetime.now(UTC))
        self.shop.tally.files += len(files)
        self.shop.tally.size += sum(file.size for file in files)
        super().saved(prediction, files)

    def polled(self, prediction: Prediction) -> None:
        """Its state was read: counted, and how late its completion was noticed."""
        self.polls += 1
        self.shop.tally.polls += 1
        if prediction.finished and self.delay is None:
            self.delay = batch_rules.seconds_since(prediction.completed_at, datetime.now(UTC))
            # With the first poll, it was complete before anybody looked.
            if self.delay is not None and self.polls > 1:
                self.shop.tally.delays.append(self.delay)
        super().polled(prediction)

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it; told only where it refused."""
        if not cancellation.accepted:
            self.trouble(cancellation.message)
        super().canceled(cancellation)

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
        self.shop.observer.trouble(message)

    @property
    def excerpt(self) -> str:
        """The beginning of its prompt."""
        return excerpt_of(self.order.input) if self.shop.client.settings.prompts else ""

    @property
    def _given(self) -> dict[str, Any]:
        """What comes back with the result as it was given, this time."""
        return {"labels": self.request.labels, "origin": self.request.origin}

    def item(self, status: ItemStatus, **values: Any) -> BatchItem:
        """How it ended."""
        known = self.prediction
        if known is not None:
            values = {
                "prediction_id": known.id,
                "record_key": known.record_key,
                "attempt": known.attempt,
                "run_time": known.run_time,
                "queue_time": known.queue_time,
                "created_at": known.submitted_at,
                **values,
            }
        return BatchItem(
            number=self.number,
            status=status,
            model=self.order.model,
            key=self.order.key,
            sample=self.order.sample,
            **self._given,
            excerpt=self.excerpt,
            found=self.was_found,
            delay=self.delay,
            saved_after=self.saved_after,
            polls=self.polls,
            ended_at=datetime.now(UTC),
            **values,
        )

    async def make(self) -> tuple[BatchItem, bool]:
        """What became of it, and whether that was known before.

        Never raises, except where it is interrupted.
        """
        try:
            if (known := await self._known()) is not None:
                return known, True
            return await self._made(), False
        except Exception as error:
            return self.given_up(error), False

    async def _known(self) -> BatchItem | None:
        """How it ended in an earlier run, where that still holds."""
        known = self.shop.index.item(self.key)
        if known is None or known.record_key is None:
            return None
        _, record = self.shop.index.record(known.record_key)
        if record is None:
            return None
        holds = record.outcome in MAY_BE_RETRIED and not self.shop.options.retry_failed
        if holds:  # unless a further attempt was begun, and its end not written down
            holds = known.attempt > self._past().attempts
        if known.status.good:
            self._before = known
            holds = self.shop.store is None or await self._is_there(known.record_key, record)
        if not holds:
            self._before = None
            return None
        if known.excerpt and self.excerpt and known.excerpt != self.excerpt:
            self.trouble(
                f"The item with key {self.order.key!r} has a prediction of another prompt "
                f'("{known.excerpt}"), which counts: the key is what tells items apart. For a new '
                "one, use another key, or another scope."
            )
        new = {"number": self.number, **self._given, "found": True}
        return self._told(known, **new, polls=0)

    def _told(self, known: BatchItem, **new: Any) -> BatchItem:
        """What is known of an earlier run, which may have told more than this one is to."""
        hidden = hidden_texts(self.order.input, self.shop.client.settings.prompts)
        if hidden != ():
            error, reason = without(known.error, hidden), without(known.reason, hidden)
            new |= {"excerpt": "", "error": error, "reason": reason}
        return known.model_copy(update=new)

    async def _is_there(self, key: str, record: Record) -> bool:
        assert self.shop.store is not None  # noqa: S101 - for the type checker
        prediction = record.prediction(key, self.order.input)
        prefix = self.shop.options.prefix
        kept = await settlement.saved_files(self.shop.records, prediction, self.shop.store, prefix)
        if kept is not None and (told := self._circumstances):
            await write_beside(self.shop.store, kept, prediction, record, told, kept=True)
        return kept is not None

    @property
    def _circumstances(self) -> Circumstances | None:
        """What the provenance beside its files tells of this run; None where none is wanted."""
        told = self.shop.circumstances
        return told and replace(told, origin=self.request.origin)

    async def _made(self) -> BatchItem:
        options, past = self.shop.options, self._past()
        done_with, before = past.attempts, None
        failed: PredictionFailed | None = None
        for left in reversed(range(max(1, options.attempts - past.counted))):
            try:
                waiting = Waiting(  # which alone holds it while it runs: thousands do
                    self.shop.client, self.shop.records, await self._created(done_with), self
                )
            except NotSent:
                if failed is None:
                    raise
                self.stage = before
                raise failed from None
            self.stage, timeout = waiting, self._timeout(waiting.prediction)
            try:
                prediction = await waiting.until_done(timeout, options.on_timeout)
                break
            except ContentRefused:
                raise
            except PredictionFailed as error:
                if not left or self.shop.halted:
                    raise
                done_with, failed, before = waiting.prediction.attempt, error, waiting
                self.trouble(f"{error} Trying again, as attempts={options.attempts}.")
        if self.shop.store is None:
            if prediction.data_removed:  # which is how a record tells it
                prediction = await lifecycle.get(self.shop.client, prediction, observer=self)
                if prediction.data_removed:
                    raise OutputExpired(
                        f"The service has deleted the output of prediction {prediction.id}."
                    )
            await settlement.settle(self.shop.records, prediction, Outcome.HANDED_OVER, self)
            return self.item(ItemStatus.SUCCEEDED, output=prediction.output)
        files = await saving.save_to(
            self.shop.client,
            self.shop.records,
            prediction,
            self.shop.store,
            options.prefix,
            self,
            self._circumstances,
        )
        return self.item(ItemStatus.SAVED, files=files)

    def _past(self) -> Past:
        """The attempts that are not to be gone on with."""
        index, again = self.shop.index, self.shop.options.retry_failed
        return past_of(lambda attempt: index.record(self.key_of(attempt)), again=again)

    async def _created(self, after: int) -> Prediction:
        self.creating = not self.shop.halted
        try:
            return await self._submitted(after)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.cut_short or task is None:
                raise
            task.uncancel()
        finally:
            self.creating = False
        assert isinstance(self.stage, Submission)  # noqa: S101 - for the type checker
        if self.stage.attempt.doubt is not None:
            raise self.stage.attempt.doubt
        if self.stage.attempt.made is None:
            raise NotSent("Nothing was sent, because the batch has ended.")
        return self.stage.attempt.made

    async def _submitted(self, after: int) -> Prediction:
        self.stage = submission = Submission(
            self.shop.client,
            self.order,
            self.shop.records,
            self.shop.options.scope,
            self.shop.flow_runs,
            after=after,
            observer=self,
        )
        exists, record = self.shop.index.record(submission.attempt.key)
        paid = record is not None and record.prediction_id
        if exists and (paid or self.order.on_in_doubt == "raise"):  # nothing will be sent
            self.was_found = True
            return await submission.until_there()
        async with self.shop.creating:
            self.shop.go_on()
            if self.shop.before_create is not None:
                await self._slot(self.shop.before_create)
            return await submission.until_there()

    async def _slot(self, take: Callable[[], Awaitable[object]]) -> None:
        """Wait for a slot of a limit that others share, but not beyond the end of the batch."""
        taking = asyncio.ensure_future(take())
        ending = asyncio.ensure_future(self.shop.at_end.wait())
        try:
            await asyncio.wait([taking, ending], return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                raise NotSent("Nothing was sent, because the batch has ended.")
            taking.result()
        finally:
            taking.cancel()
            ending.cancel()

    def _timeout(self, prediction: Prediction) -> float:
        """Seconds from its submission until its deadline, or the batch's."""
        options = self.shop.options
        if options.batch_timeout is None:
            return options.prediction_timeout
        left = self.shop.tally.started + options.batch_timeout - time.monotonic()
        sent = prediction.submitted_at
        age = (datetime.now(UTC) - sent).total_seconds() if sent else 0.0
        return min(options.prediction_timeout, max(age + left, 0.001))

    def given_up(self, error: Exception) -> BatchItem:
        """What became of it, by the error that it ended with."""
        if isinstance(error, batch_rules.ENDS_THE_BATCH):
            self.shop.halt(str(error), error)
        paid = self.prediction is not None or self._before is not None
        status = batch_rules.status_of(error, paid=paid)
        values: dict[str, Any] = {
            "error": batch_rules.told(error),
            "error_type": type(error).__name__,
            "reason": batch_rules.reason_of(error),
            "request_id": getattr(error, "request_id", None),
        }
        if self._before is not None:  # what went wrong is beside its files
            self.was_found = True
            values |= self._before.model_dump(include=OF_ITS_FILES)
        if isinstance(error, SubmissionInDoubt):
            values |= self._doubt(error)
            status = ItemStatus.ABANDONED if error.abandoned else status
        return self.item(status, **values)

    def _doubt(self, error: SubmissionInDoubt) -> dict[str, Any]:
        """Which record is in doubt, and why where that was told when it came to be."""
        record, known = error.record_key, self.shop.index.item(self.key)
        values: dict[str, Any] = {"record_key": record} if record else {}
        if record and error.cause is None and known and known.record_key == record:
            known = self._told(known)
            values |= {"reason": known.reason, "request_id": known.request_id}
        return values

    def planned(self) -> BatchItem:
        """What would become of it, by the records."""
        known, attempt = self.shop.index.item(self.key), self._past().attempts + 1
        key = self.key_of(attempt)
        exists, record = self.shop.index.record(key)
        if exists:
            hidden = hidden_texts(self.order.input, self.shop.client.settings.prompts)
            self.was_found = True
            over = known and (known.status.good or (record and record.outcome))
            if known and over and known.record_key == key:
                new = {"number": self.number, **self._given, "found": True}
                return self._told(known, **new)
            return self.item(
                batch_rules.standing_of(record),
                prediction_id=record.prediction_id if record else None,
                record_key=key,
                attempt=attempt,
                error=without(record.reason, hidden) if record else "",
            )
        if why := self.shop.budget.objection(self.order.model):
            self.shop.halt(f"{why}.")
            return self.item(ItemStatus.NOT_SENT, error=f"{why}.")
        self.shop.budget.take(self.order.model)
        return self.item(ItemStatus.PLANNED)
