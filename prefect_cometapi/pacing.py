"""When to send again what failed. Pure: time and chance come in as arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

#: First and longest pause before a failed request is sent again, in seconds.
RETRY_FIRST = 0.5
RETRY_MAX = 20.0

#: Requests that may be sent again at once after a quiet time: all that are usually in flight,
#: so that one lost gateway or connection pool is got over without anybody noticing.
BUDGET_BURST = 20.0
#: Requests a second that may be sent again while none succeeds: enough to see within a second
#: that an outage is over, and 300 in five minutes, however many predictions wait.
BUDGET_REFILL = 1.0
#: What a success pays back. Above 1, so that each lets more than one go and the flow doubles with
#: every round trip; at 2, the budget is felt only while more than half of the requests fail.
BUDGET_PAYBACK = 2.0
#: How often, in seconds, the first in line looks whether a success has filled the budget.
BUDGET_LOOK = 0.1

#: A query that takes so many times as long as they usually do has probably hung: quick replies and
#: slow ones differ by less.
HANGS = 10.0
#: But not before so many seconds: a network may stumble, and a batch's loop may be busy.
HANGS_LEAST = 2.0
#: The weight of the last reply in what is usual: the last twenty or so.
LATEST = 0.1

#: How long everything holds back after a 429 that names no time, in seconds.
BRAKE_DEFAULT = 1.0


def retry_delay(
    failures: int, random: Random, *, asked: float | None = None, cap: float = 60.0
) -> float:
    """Seconds until a request that failed `failures` times in a row is sent again.

    Args:
        failures: How often it has failed by now; at least 1.
        random: The source of chance.
        asked: Seconds that the service asked to wait; it is honoured, up to `cap`, and a little
            is added so that the waiting do not all return at the same moment.
        cap: Longest wait that the service may ask for, in seconds.
    """
    if asked is not None:
        return min(max(asked, 0.0), cap) + random.uniform(0, RETRY_FIRST)
    ceiling = min(RETRY_MAX, RETRY_FIRST * 2.0 ** (min(failures, 30) - 1))
    return random.uniform(ceiling / 2, ceiling)


@dataclass
class Patience:
    """How long to wait for a query that may be asked again, by how long they usually take."""

    usual: float | None = None

    def answered(self, seconds: float) -> None:
        """A reply came after so many seconds."""
        before = seconds if self.usual is None else self.usual
        self.usual = before + LATEST * (seconds - before)

    def seconds(self, most: float) -> float:
        """After so many seconds it is taken to hang; `most` where nothing is known."""
        return most if self.usual is None else min(most, max(HANGS_LEAST, HANGS * self.usual))


@dataclass
class Brake:
    """The process' memory of "too many requests": one 429 holds back every request.

    Times are of any monotonic clock, in seconds.
    """

    until: float = -math.inf

    def press(self, now: float, seconds: float) -> None:
        """Hold everything back for `seconds` from `now`, unless it is held longer already."""
        self.until = max(self.until, now + seconds)

    def wait(self, now: float) -> float:
        """Seconds that a request has to wait from `now`."""
        return max(0.0, self.until - now)


@dataclass
class RetryBudget:
    """What the process may spend on sending requests again, so that an outage is not multiplied.

    First attempts cost nothing, so a healthy process never meets it. Times are of any monotonic
    clock, in seconds.
    """

    left: float = BUDGET_BURST
    _updated: float = -math.inf

    def take(self, now: float) -> float:
        """Take what one request costs; or the seconds until there is enough, and nothing taken."""
        self._refill(now)
        if self.left < 1.0 - 1e-6:  # sums of fractions never quite get there
            return (1.0 - self.left) / BUDGET_REFILL
        self.left -= 1.0
        return 0.0

    def repay(self, now: float) -> None:
        """A request has succeeded, so the service can take more."""
        self._refill(now)
        self.left = min(BUDGET_BURST, self.left + BUDGET_PAYBACK)

    def _refill(self, now: float) -> None:
        passed = max(0.0, now - self._updated)
        self._updated = max(self._updated, now)
        self.left = min(BUDGET_BURST, self.left + passed * BUDGET_REFILL)
