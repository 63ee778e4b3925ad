"""How far a batch is, what was wanted of it, and who is told."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from prefect_cometapi.batch_models import ITEMS_IN_RESULT, BatchItem, BatchResult, ItemStatus
from prefect_cometapi.batch_rules import quantile, spread
from prefect_cometapi.errors import RateLimited
from prefect_cometapi.failure_groups import FailureGroups
from prefect_cometapi.failures import Call
from prefect_cometapi.lifecycle import OnTimeout
from prefect_cometapi.observer import Observer, Observers
from prefect_cometapi.orders import OnInDoubt
from prefect_cometapi.stores import Store


@dataclass(frozen=True)
class BatchOptions:
    """What a caller wants of a batch; see `run_predictions`."""

    model: str
    scope: str
    prefix: str = ""
    credentials: str | None = None
    in_flight: int = 1000
    retry_failed: bool = False
    attempts: int = 1
    on_in_doubt: OnInDoubt = "raise"
    stop_after_failures: float | None = None
    prediction_timeout: float = 600.0
    batch_timeout: float | None = None
    on_timeout: OnTimeout = "leave"
    dry_run: bool = False
    provenance: bool = False


def _latest() -> deque[float]:
    return deque(maxlen=ITEMS_IN_RESULT)


@dataclass
class Tally:
    """How far a batch is."""

    started: float = field(default_factory=time.monotonic)
    expected: int | None = None
    looked_at: int = 0
    under_way: int = 0
    found: int = 0
    polls: int = 0
    #: Files that were saved now, and their bytes.
    files: int = 0
    size: int = 0
    #: How many items of each model have their files in storage.
    models: Counter[str] = field(default_factory=Counter)
    counts: Counter[ItemStatus] = field(default_factory=Counter)
    #: Predictions of each model that this run has created, or may have.
    created: Counter[str] = field(default_factory=Counter)
    failures: FailureGroups = field(default_factory=FailureGroups)
    #: How often a create was offered again, how often a poll brought nothing, how many were 429s.
    creates_again: int = 0
    polls_failed: int = 0
    rate_limited: int = 0
    #: How many predictions were running when it was interrupted.
    left_running: int = 0
    #: The latest, which are enough for a quantile.
    delays: deque[float] = field(default_factory=_latest)
    run_times: deque[float] = field(default_factory=_latest)
    queue_times: deque[float] = field(default_factory=_latest)
    saved_after: deque[float] = field(default_factory=_latest)

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """How many of them went wrong."""
        return sum(number for status, number in self.counts.items() if status.failure)

    def take(self, item: BatchItem) -> None:
        """Count an item that has ended."""
        self.counts[item.status] += 1
        self.found += item.found
        self.models[item.model] += item.status is ItemStatus.SAVED
        times = [(self.run_times, item.run_time), (self.queue_times, item.queue_time)]
        if not item.found:
            times.append((self.saved_after, item.saved_after))
        for latest, seconds in times:
            if seconds is not None:
                latest.append(seconds)
        if item.status.failure:
            self.failures.add(item)

    def poll_failed(self, error: Exception) -> None:
        """Count a poll that brought nothing."""
        self.polls_failed += 1
        self.rate_limited += isinstance(error, RateLimited)

    def sent_again(self, call: Call, error: Exception) -> None:
        """Count a request that was sent again."""
        if call is Call.CREATE:
            self.creates_again += 1
            self.rate_limited += isinstance(error, RateLimited)

    def result(self, options: BatchOptions, **more: Any) -> BatchResult:
        """What became of the batch so far.

        Args:
            options: What was wanted.
            more: What is known besides.
        """
        return BatchResult(
            **{
                "scope": options.scope,
                "model": options.model,
                "total": self.ended,
                "unread": max(0, (self.expected or 0) - self.looked_at),
                "counts": dict(self.counts),
                "created": self.created.total(),
                "found": self.found,
                "seconds": round(time.monotonic() - self.started, 3),
                "polls": self.polls,
                "polls_failed": self.polls_failed,
                "creates_again": self.creates_again,
                "rate_limited": self.rate_limited,
                "delay_p95": quantile(list(self.delays), 0.95),
                "run_times": spread(self.run_times),
                "queue_times": spread(self.queue_times),
                "saved_after": spread(self.saved_after),
                "files": self.files,
                "size": self.size,
                "reasons": self.failures.told(),
                "dry_run": options.dry_run,
                **more,
            }
        )


def done_share(tally: Tally) -> float:
    """Which part of a batch has ended; where its size is not known, of what was looked at."""
    return min(1.0, tally.ended / max(tally.expected or tally.looked_at, 1))


def progress_line(tally: Tally, now: float) -> str:
    """How far a batch is, in a line.

    Args:
        tally: How far it is.
        now: The time, by the clock that it was started by.
    """
    of = f" of {tally.expected:,}" if tally.expected is not None else ""
    counts = ", ".join(f"{number:,} {status}" for status, number in tally.counts.items())
    passed = max(now - tally.started, 0.001)
    line = (
        f"{tally.ended:,}{of} items have ended ({counts or 'none'}); {tally.under_way:,} under way"
    )
    if made := tally.ended - tally.found:  # what was found took no time
        line += f"; {60 * made / passed:,.0f} a minute"
        if tally.expected is not None and tally.expected > tally.ended:
            left = (tally.expected - tally.ended) * passed / made
            line += (
                f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
            )
    return f"{line}."


class BatchObserver:
    """Is told how a batch goes on. The methods do nothing here.

    Attributes:
        each: Told what happens to each prediction.
    """

    each = Observer()

    def began(self, tally: Tally, options: BatchOptions, ledger: str) -> None:
        """Its records are in the ledger, and it is about to look at the first input."""

    async def tick(self, tally: Tally) -> None:
        """A second has passed."""

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""

    def ended(self, item: BatchItem) -> None:
        """That is what became of an item."""

    async def finished(self, result: BatchResult, tally: Tally) -> None:
        """It is over."""

    async def closed(
        self,
        store: Store | None,
        options: BatchOptions,
        tally: Tally,
        result: BatchResult | None,
        *,
        fine: bool,
    ) -> None:
        """Nothing more happens.

        Args:
            store: Where its outputs went; None for nowhere.
            options: What was wanted.
            tally: How far it came.
            result: What became of it; None where it did not come to its end.
            fine: It ended without an error.
        """


class BatchObservers(BatchObserver):
    """Tells several, one after the other."""

    def __init__(self, *others: BatchObserver) -> None:
        self._others = others
        self.each = Observers(*(other.each for other in others))

    def began(self, tally: Tally, options: BatchOptions, ledger: str) -> None:
        """It is about to look at the first input."""
        for other in self._others:
            other.began(tally, options, ledger)

    async def tick(self, tally: Tally) -> None:
        """A second has passed."""
        for other in self._others:
            await other.tick(tally)

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
        for other in self._others:
            other.trouble(message)

    def ended(self, item: BatchItem) -> None:
        """That is what became of an item."""
        for other in self._others:
            other.ended(item)

    async def finished(self, result: BatchResult, tally: Tally) -> None:
        """It is over."""
        for other in self._others:
            await other.finished(result, tally)

    async def closed(
        self,
        store: Store | None,
        options: BatchOptions,
        tally: Tally,
        result: BatchResult | None,
        *,
        fine: bool,
    ) -> None:
        """Nothing more happens."""
        for other in self._others:
            await other.closed(store, options, tally, result, fine=fine)
