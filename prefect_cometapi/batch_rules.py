"""What a batch may spend, when it stops, and what is said at its end. Pure."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prefect_cometapi.batch_models import SAMPLE, BatchItem, BatchResult, ItemStatus, Spread
from prefect_cometapi.errors import (
    AccountError,
    BatchFailed,
    BatchStopped,
    CometAPIError,
    ConfigurationError,
    InvalidInput,
    LedgerError,
    ModelNotFound,
    NeverDelivered,
    OutputError,
    OutputExpired,
    PredictionCanceled,
    PredictionFailed,
    PredictionTimeout,
    RequestError,
    SubmissionInDoubt,
)
from prefect_cometapi.events import COMMAND
from prefect_cometapi.ledger import Outcome, Record, sentences, shortened

#: A share of failures is no share before so many items have ended.
SHARE_FROM = 20
#: In a deployed run, this many items are too many for records on a disk that may go with the pod.
LOCAL_MOST = 100
#: Why an item is in doubt, where nobody remembers what happened to its create.
FOUND_IN_DOUBT = "A create was sent by an earlier run, and what became of it is not known."
#: How many failures are kept for the sample of them that is told at the end.
FAILURES_KEPT = 200
#: Longest text of an item's error that is kept, in characters.
ERROR_LENGTH = 1_500
#: Longest part of it that the batch's own error repeats of each item in its sample.
TOLD_LENGTH = 200


#: Longest reason by which failures are told apart.
REASON_LENGTH = 200


class NotSent(Exception):
    """The batch sends nothing more."""


def check_count(name: str, value: object, *, least: int = 1, share: bool = False) -> None:
    """Refuse what is neither a number of items nor, where that is possible, a share of them.

    Raises:
        InvalidInput: Says which.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return
    if share and isinstance(value, float) and 0 <= value <= 1:
        return
    what = f"a whole number from {least} on" + (", or a share such as 0.05" if share else "")
    raise InvalidInput(f"{name} is {value!r:.80}; it is {what}. Nothing was sent.")


def too_many(limit: float | None, failed: int, ended: int) -> bool:
    """Whether so many failures are what a limit calls enough.

    Args:
        limit: A number of items, or a share of them.
        failed: How many have failed.
        ended: How many have ended.
    """
    if limit is None or not failed:
        return False
    if isinstance(limit, float):
        return ended >= SHARE_FROM and failed >= limit * ended
    return failed >= limit


def covered(allowed: float, failed: int, ended: int) -> bool:
    """Whether so many failures are within what a caller allows."""
    return failed <= (allowed * ended if isinstance(allowed, float) else allowed)


@dataclass
class Budget:
    """What may still be created. Prices are estimates: nobody has asked the service.

    Attributes:
        prices: What one prediction of a model costs.
        most: How many predictions the scope may have in all; None for any number.
        cost: What they may cost; None for anything.
        most_because: Why so many, where it is not for `max_predictions`.
        made: How many of each model there are, or may be: of earlier runs, too, and of other calls
            of the same scope.
        created: How many of each model this run has created.
    """

    prices: Mapping[str, float]
    most: int | None = None
    cost: float | None = None
    most_because: str = ""
    made: Counter[str] = field(default_factory=Counter)
    created: Counter[str] = field(default_factory=Counter)

    @property
    def spent(self) -> float:
        """What those that there are cost."""
        return self._cost_of(self.made)

    def price(self, model: str) -> float:
        """What one costs; 0 where that is not known."""
        return self.prices.get(model, 0.0)

    def check_price(self, model: str) -> None:
        """Refuse to bound a cost that is not known.

        Raises:
            InvalidInput: There is a bound, and the model has no price.
        """
        if self.cost is not None and model not in self.prices:
            raise InvalidInput(
                f"max_cost is {self.cost:g}, and the setting `prices` has no price of {model}. Set "
                f"it: PREFECT_INTEGRATIONS_COMETAPI_PRICES='{{\"{model}\": 0.003}}'. Nothing was "
                "sent."
            )

    def check_sizes(self, models: Mapping[str, int]) -> None:
        """Refuse a batch of a known size that can not be within the bounds.

        Args:
            models: How many items there are of each model.

        Raises:
            InvalidInput: Says which bound.
        """
        items = sum(models.values())
        if self.most is not None and items > self.most:
            raise InvalidInput(
                f"There are {items:,} items, and max_predictions is {self.most:,}. Nothing was "
                "sent."
            )
        cost = self._cost_of(models)
        if self._exceeds(cost):
            raise InvalidInput(
                f"{items:,} predictions of {', '.join(models)} are estimated to cost {cost:g} (by "
                f"the setting `prices`), and max_cost is {self.cost:g}. Nothing was sent."
            )

    def _exceeds(self, cost: float) -> bool:
        # A sum of prices is hardly ever exact.
        return self.cost is not None and cost > self.cost * (1 + 1e-9)

    def objection(self, model: str) -> str:
        """Why one more must not be created; empty where it may."""
        if self.most is not None and self.made.total() >= self.most:
            return self.most_because or f"max_predictions={self.most:,} is reached"
        if self.cost is not None and self._exceeds(self.spent + self.price(model)):
            return (
                f"max_cost={self.cost:g} would be exceeded: an estimated {self.spent:g} is spent, "
                f"and one more of {model} costs {self.price(model):g}"
            )
        return ""

    def take(self, model: str) -> None:
        """One is about to be created."""
        self.made[model] += 1
        self.created[model] += 1

    def give_back(self, model: str) -> None:
        """It was not accepted."""
        self.made[model] -= 1
        self.created[model] -= 1

    def estimate(self, models: Mapping[str, int] | None = None) -> float | None:
        """What so many of each model cost; None where a price is not known."""
        models = self.created if models is None else models
        if any(number and model not in self.prices for model, number in models.items()):
            return None
        return round(self._cost_of(models), 6)

    def _cost_of(self, models: Mapping[str, int]) -> float:
        return sum(number * self.price(model) for model, number in models.items())


#: What an error of one item is an error of: nothing else would fare better.
ENDS_THE_BATCH = (AccountError, ModelNotFound, LedgerError, ConfigurationError)


def status_of(error: BaseException, *, paid: bool) -> ItemStatus:
    """What became of an item, by the error that it ended with.

    Args:
        error: The error.
        paid: Its prediction is known to exist.
    """
    match error:
        case PredictionFailed():
            return ItemStatus.FAILED
        case PredictionCanceled():
            return ItemStatus.CANCELED
        case PredictionTimeout():
            return ItemStatus.TIMED_OUT
        case OutputExpired():
            return ItemStatus.EXPIRED
        case SubmissionInDoubt():
            return ItemStatus.IN_DOUBT
        case OutputError():
            return ItemStatus.NOT_SAVED
    if paid:
        return ItemStatus.NOT_SAVED
    never_sent = isinstance(error, NotSent | NeverDelivered | LedgerError | AccountError)
    if not never_sent and isinstance(error, InvalidInput | RequestError):
        return ItemStatus.REFUSED
    return ItemStatus.NOT_SENT if never_sent else ItemStatus.FAILED


#: What becomes of an item whose end is known only by its record.
_STATUS_OF = {
    Outcome.SAVED: ItemStatus.SAVED,
    Outcome.HANDED_OVER: ItemStatus.UNDER_WAY,
    Outcome.FAILED: ItemStatus.FAILED,
    Outcome.CANCELED: ItemStatus.CANCELED,
    Outcome.EXPIRED: ItemStatus.EXPIRED,
    Outcome.ABANDONED: ItemStatus.ABANDONED,
}


def standing_of(record: Record | None) -> ItemStatus:
    """What a dry run says of a prediction that there is, or may be."""
    if record is None or not (record.prediction_id or record.outcome):
        return ItemStatus.IN_DOUBT
    return _STATUS_OF[record.outcome] if record.outcome else ItemStatus.UNDER_WAY


def told(error: BaseException) -> str:
    """An error's text, as an item keeps it."""
    kind, text = type(error).__name__, str(error)
    known = isinstance(error, CometAPIError | NotSent)
    return shortened(text if known and text else f"{kind}: {text}".rstrip(": "), ERROR_LENGTH)


def reason_of(error: BaseException) -> str:
    """Why an item went wrong, without its ids: the service's words, where it gave any."""
    prediction = getattr(error, "prediction", None)
    if prediction is not None and prediction.error:
        return shortened(prediction.error, REASON_LENGTH)
    text = getattr(error, "cause", None) or (
        FOUND_IN_DOUBT if isinstance(error, SubmissionInDoubt) else told(error)
    )
    text = text.replace(f" (request id: {getattr(error, 'request_id', None)})", "")
    if prediction is not None:
        text = text.replace(prediction.id, "…")
    return sentences(text, REASON_LENGTH)


def seconds_since(moment: datetime | None, now: datetime) -> float | None:
    """Seconds since a moment of the service's clock, which may be ahead; None without one."""
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def counted(items: int) -> str:
    """So many items, in words."""
    return f"{items:,} item{'' if items == 1 else 's'}"


def spread(values: Sequence[float]) -> Spread | None:
    """How values are spread; None without any."""
    if not values:
        return None
    ordered = sorted(values)
    median, p95 = (round(_at(ordered, share), 3) for share in (0.5, 0.95))
    return Spread(median=median, p95=p95, longest=round(ordered[-1], 3))


def may_be_told(item: BatchItem, kept: list[BatchItem]) -> bool:
    """Whether an item that went wrong is kept for the sample that is told: what is in doubt is."""
    in_doubt = sum(each.status is ItemStatus.IN_DOUBT for each in kept)
    return len(kept) < FAILURES_KEPT or (item.status is ItemStatus.IN_DOUBT and in_doubt < SAMPLE)


def first_failures(items: list[BatchItem]) -> list[BatchItem]:
    """A sample of what went wrong: what is in doubt first, then one of each kind, then the rest.

    Of what was not sent, one of each kind says it all.
    """
    wrong = sorted(items, key=lambda item: (item.status is not ItemStatus.IN_DOUBT, item.number))
    seen, first, rest = set[tuple[str, str]](), list[BatchItem](), list[BatchItem]()
    for item in wrong:
        kind = (item.status, item.error_type)
        new = item.status is ItemStatus.IN_DOUBT or kind not in seen
        if new or item.status is not ItemStatus.NOT_SENT:
            (first if new else rest).append(item)
        seen.add(kind)
    return [*first, *rest][:SAMPLE]


def ending(result: BatchResult, allowed: float | None) -> BatchFailed | None:
    """The error that a batch ends with; None where all is well, or within what is allowed.

    Args:
        result: What became of it.
        allowed: How many items may have failed, or what share of them; None for any number.
    """
    in_doubt = result.count(ItemStatus.IN_DOUBT)
    fine = allowed is None or (not in_doubt and covered(allowed, result.failed, result.total))
    if fine and not result.stopped:
        return None
    # The reason first: lists of runs show the beginning.
    wrong = f"{result.failed + result.unread:,} of {counted(result.inputs)} went wrong"
    lines = [f"{wrong}: {result.summary} (scope {result.scope!r})."]
    if result.stopped:
        lines.insert(0, f"The batch was ended early: {result.stopped}")
    for item in result.failures:
        of = f" (record {item.record_key})" if item.record_key else ""
        of = f" (prediction {item.prediction_id})" if item.prediction_id else of
        why = sentences(item.reason or item.error, TOLD_LENGTH)
        said = why.lower().startswith(f"{item.status}:")
        lines.append(f"- {item.what}{of}: {why if said else f'{item.status}. {why}'}")
    if (more := result.failed - len(result.failures)) > 0:
        lines.append(f"… and {more:,} more. All of them are in the manifest: {result.manifest}")
    lines += ways_out(result)
    return (BatchStopped if result.stopped else BatchFailed)("\n".join(lines), result=result)


def ways_out(result: BatchResult) -> list[str]:
    """What a person can do now, a sentence each."""
    scope = f"--scope {shlex.quote(result.scope)}"
    ways = []
    if result.count(ItemStatus.IN_DOUBT):
        ways.append(
            f"In doubt: `{COMMAND} list --in-doubt {scope}`, look for them in the vendor's "
            f"dashboard, then `{COMMAND} adopt KEY ID`, `resubmit KEY` or `abandon KEY`."
        )
    if result.count(ItemStatus.NOT_SAVED, ItemStatus.TIMED_OUT):
        ways.append(
            f"Paid, not saved: run again in the same scope, or `{COMMAND} collect {scope} "
            "--storage STORAGE --prefix PREFIX` with those of the batch, within an hour of their "
            "completion."
        )
    if result.count(ItemStatus.FAILED, ItemStatus.CANCELED, ItemStatus.EXPIRED):
        ways.append(
            "To make what failed again, at a new price: run again in the same scope with "
            "retry_failed=True."
        )
    if result.stopped.startswith("max_"):
        ways.append(f"To go on, raise {result.stopped.partition('=')[0]}.")
    elif result.count(ItemStatus.REFUSED, ItemStatus.NOT_SENT):
        ways.append("What was refused or not sent is tried when you run again in the same scope.")
    ways.append("Running again in the same scope pays for nothing twice.")
    return ways


def interrupted(running: int) -> str:
    """What becomes of predictions that run while their batch is stopped by no person."""
    return (
        f"Interrupted while {running:,} predictions are running. They are not canceled, because "
        "nobody asked to stop this run: a retry goes on with them, and `python -m prefect_cometapi "
        "ledger collect` saves them while the service has them."
    )


def stopped_by_a_person(asked: int, running: int, scope: str) -> str:
    """What becomes of them where a person has stopped it, and some could be asked to cancel."""
    message = (
        f"A person has stopped this run: the service was asked to cancel {asked:,} of the "
        f"{running:,} predictions that were running. What it canceled is made again, at a new "
        "price, when the scope is run again."
    )
    if left := running - asked:
        message += (
            f" There was no time for {left:,}: they go on and are billed. `python -m "
            f"prefect_cometapi ledger list --scope {shlex.quote(scope)} --unsaved`"
        )
    return message


def quantile(values: list[float], share: float) -> float | None:
    """The value that so large a share of the values does not exceed; None without any."""
    return _at(sorted(values), share) if values else None


def _at(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
