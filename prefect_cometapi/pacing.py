"""When to ask again, and when to send again. Pure: time and chance come in as arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

#: Shortest pause between two polls, in seconds: what the service's own clients use.
POLL_MIN = 0.5
#: Longest pause, in seconds: outputs live for an hour, a minute late is never too late.
POLL_MAX = 15.0
#: A pause is this share of the prediction's age, so a completion is noticed late by at most that
#: share of the run time, however long the model runs.
POLL_SHARE = 0.1
#: Pauses vary by this share, so that predictions created together are not polled together.
JITTER = 0.1

#: First and longest pause before a failed request is sent again, in seconds.
RETRY_FIRST = 0.5
RETRY_MAX = 20.0


def poll_delay(
    age: float,
    random: Random,
    *,
    shortest: float = POLL_MIN,
    longest: float = POLL_MAX,
    share: float = POLL_SHARE,
) -> float:
    """Seconds until the next poll of a prediction that is `age` seconds old."""
    pause = min(max(age * share, shortest), max(longest, shortest))
    return pause * random.uniform(1 - JITTER, 1 + JITTER)


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
