"""Sends events to Prefect: what becomes of single predictions, and of batches.

Sending puts the event into a queue of Prefect's in memory, a tenth of a millisecond each, and
Prefect's own thread does the rest; nothing here fails the work. Only what is part of a run is told.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import Event, emit_event

from prefect_cometapi import events
from prefect_cometapi.batch_models import BatchItem, BatchResult
from prefect_cometapi.batch_rules import status_of
from prefect_cometapi.errors import OutputExpired, PredictionCanceled, SubmissionInDoubt
from prefect_cometapi.events import Change, Notice, Subject
from prefect_cometapi.ledger import Record
from prefect_cometapi.lineage import tried_again
from prefect_cometapi.models import Cancellation, Prediction, PredictionStatus, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.tally import BatchObserver, BatchOptions, Tally

#: So many exceptions of each kind are told one by one of a batch; the end of it has the numbers.
MANY = 100
#: The latest events of predictions, which the next one of each says that it follows.
_latest: OrderedDict[str, Event] = OrderedDict()
_LATEST = 1000
#: Of so many changes it is remembered that they were told: of all that are going on at once.
_TOLD = 100_000


def send(notice: Notice, run: Sequence[Mapping[str, str]] = ()) -> None:
    """Send an event, where this is part of a run; never raises.

    Args:
        notice: What to tell.
        run: The flow run that it belongs to and what goes with that, where it is not at work here.
    """
    if not run and not (FlowRunContext.get() or TaskRunContext.get()):
        return
    with suppress(Exception):
        subject = notice.resource["prefect.resource.id"]
        before = _latest.pop(subject, None)
        sent = emit_event(
            notice.event,
            notice.resource,
            related=[*notice.related, *map(dict, run)],
            payload=notice.payload,
            follows=None if notice.event == Change.CREATED.event else before,
            id=notice.id,
        )
        if sent is not None and notice.id is not None:
            _latest[subject] = sent
            if len(_latest) > _LATEST:
                _latest.popitem(last=False)


class PredictionEvents(Observer):
    """Tells each change of predictions.

    Args:
        prices: What one prediction of a model is estimated to cost.
        changes: Which changes are told.
        most: How many of each kind, at most.
        run: The flow run that they belong to; see `send`.

    Attributes:
        batch: The scope of the batch that the predictions are of.
    """

    def __init__(
        self,
        prices: Mapping[str, float],
        changes: frozenset[Change] = frozenset(Change),
        most: int | None = None,
        run: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._prices, self._changes, self._most, self._run = prices, changes, most, run
        self._told, self._counts = dict[UUID | None, None](), Counter[Change]()
        self.batch: str | None = None

    def tell(self, change: Change, about: Callable[[], Subject], **details: Any) -> None:
        """Tell a change, once; never raises, because its callers are about to write an id down.

        Args:
            change: What has become of a prediction.
            about: Says which one.
            details: See `events.of_change`.
        """
        if change not in self._changes:
            return
        with suppress(Exception):
            subject = about()
            notice = events.of_change(change, subject, batch=self.batch, **details)
            canceled = events.id_of(Change.CANCELED, subject)
            if notice.id in self._told or (change is Change.NOT_SAVED and canceled in self._told):
                return
            self._told[notice.id] = None
            if len(self._told) > _TOLD:
                del self._told[next(iter(self._told))]
            self._counts[change] += 1
            if self._most is None or self._counts[change] <= self._most:
                send(notice, self._run)

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        price = self._prices.get(prediction.model)
        self.tell(Change.CREATED, partial(events.of_prediction, prediction), price=price)

    def found(self, prediction: Prediction) -> None:
        """It had been created before; what the service says of its end may be news."""
        if prediction.service_status:  # else only its record says it, and it was told
            self._ended(prediction)

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""
        self._ended(prediction)

    def _ended(self, prediction: Prediction) -> None:
        if (change := events.ENDINGS.get(prediction.status)) is not None:
            reason, kind = events.why(prediction)
            about = partial(events.of_prediction, prediction)
            self.tell(change, about, reason=reason, error_type=kind)

    def in_doubt(self, record: Record, error: SubmissionInDoubt) -> None:
        """Its create may or may not have been accepted."""
        about = partial(events.of_record, record, error.record_key)
        self.tell(Change.IN_DOUBT, about, **_of_error(error))

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        self.tell(Change.SAVED, partial(events.of_prediction, prediction), files=files)

    def expired(self, prediction: Prediction, error: OutputExpired) -> None:
        """Its outputs were deleted before they were saved."""
        about = partial(events.of_prediction, prediction)
        self.tell(Change.EXPIRED, about, **_of_error(error))

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it, and answered."""
        if cancellation.accepted and cancellation.prediction is not None:
            about = partial(events.of_prediction, cancellation.prediction)
            reason, kind = cancellation.message, PredictionCanceled.__name__
            self.tell(Change.CANCELED, about, reason=reason, error_type=kind)


def _of_error(error: Exception) -> dict[str, str]:
    return {"reason": str(error), "error_type": type(error).__name__}


class SavingEvents(PredictionEvents):
    """The same of one prediction whose outputs are to be saved: also where they were not.

    Args:
        prices: What one prediction of a model is estimated to cost.
        prediction: What is known of it.
    """

    def __init__(self, prices: Mapping[str, float], prediction: Prediction | None = None) -> None:
        super().__init__(prices)
        #: What could be saved.
        self._known: Prediction | None = None
        if prediction is not None:
            self._take(prediction)

    def _take(self, prediction: Prediction) -> None:
        failed = prediction.finished and prediction.status is not PredictionStatus.SUCCEEDED
        self._known = None if failed else prediction

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        self._take(prediction)
        super().created(prediction)

    def found(self, prediction: Prediction) -> None:
        """It had been created before."""
        self._take(prediction)
        super().found(prediction)

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""
        self._take(prediction)
        super().polled(prediction)

    async def over(self, error: BaseException | None) -> None:
        """Nothing more happens."""
        known = self._known
        if not isinstance(error, Exception) or known is None or tried_again():
            return
        if events.OF_ITEMS.get(status_of(error, paid=True)) is Change.NOT_SAVED:
            about = partial(events.of_prediction, known)
            self.tell(Change.NOT_SAVED, about, **_of_error(error))


class BatchEvents(BatchObserver):
    """Tells the end of a batch, and on the way what went wrong, or everything.

    Args:
        prices: What one prediction of a model is estimated to cost.
        which: What of its predictions is told.
    """

    def __init__(self, prices: Mapping[str, float], which: events.WhichEvents) -> None:
        some = which == "exceptions"
        changes = events.EXCEPTIONS if some else frozenset(Change)
        self._predictions = PredictionEvents(prices, changes, MANY if some else None)
        self.each = self._predictions
        self._since, self._scope, self._dry = datetime.now(UTC), "", False

    def began(self, tally: Tally, options: BatchOptions, ledger: str) -> None:
        """It is about to look at the first input."""
        self._predictions.batch = self._scope = options.scope
        self._dry = options.dry_run

    def ended(self, item: BatchItem) -> None:
        """That is what became of an item: told where its prediction itself has not told it."""
        change = events.OF_ITEMS.get(item.status)
        now = item.ended_at is not None and item.ended_at >= self._since  # not in an earlier run
        if change is not None and now and not self._dry:
            about = partial(events.of_item, item, self._scope)
            self._predictions.tell(change, about, reason=item.reason, error_type=item.error_type)

    async def finished(self, result: BatchResult, tally: Tally) -> None:
        """It is over."""
        if result.dry_run:
            return
        with suppress(Exception):
            send(events.of_batch(result))
