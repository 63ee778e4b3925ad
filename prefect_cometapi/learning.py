"""What is learned of a model's run times, and whose turn it is by that. Pure.

Ages are in seconds since the creation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from random import Random

from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.pace import POLL_MAX, POLL_MIN, POLL_SHARE, Pace

#: How many run times are kept: of the next one, a hundred say about all that many can say, and
#: what a model did before them may be out of date.
KEPT = 100
#: How many are watched at once, from the first to the last of them: the first that end among
#: thousands say nothing about the others, and all thousands no more than so many.
WATCHED = 100
#: By how much what is known, or the crowd, has to change to plan anew: the density of polls
#: changes by half of that.
CHANGE = 0.2
#: Pauses vary by this share, so that predictions created together are not polled together.
JITTER = 0.1
#: Where the service gives no times, the end lies between two polls: how far they may be apart for
#: the middle to be believed, as a ratio.
APART = 1.5


class RunTimes:
    """The run times of one model, of those that ended and of those that run.

    Args:
        share: See `Pace`.
        shortest: See `Pace`.
    """

    def __init__(self, share: float = POLL_SHARE, shortest: float = POLL_MIN) -> None:
        self._share, self._shortest = share, shortest
        self._ended: deque[float] = deque(maxlen=KEPT)
        #: Those that are watched, and the age at which each was last seen running.
        self._running: dict[Hashable, float] = {}
        #: How many have ended since `pace` was last made.
        self._new = 0
        #: How many have ended in this process.
        self.learned = 0
        self.pace = Pace(share=share, shortest=shortest)

    def began(self, who: Hashable) -> None:
        """Somebody begins to wait for a prediction."""
        if len(self._running) < WATCHED:
            self._running[who] = 0.0

    def runs(self, who: Hashable, age: float) -> None:
        """It was seen running."""
        if who in self._running:
            self._running[who] = max(self._running[who], age)

    def ended(self, who: Hashable, age: float | None) -> bool:
        """It is not waited for any more; True where there is a new `pace` because of that.

        Args:
            who: As it began.
            age: When it ended; None where that is not known.
        """
        if self._running.pop(who, None) is None or age is None:
            return False
        self._ended.append(age)
        self._new += 1
        self.learned += 1
        if self._new < CHANGE * (len(self._ended) - self._new):
            return False
        self._make()
        return True

    def remember(self, run_times: Iterable[float]) -> None:
        """What another process has found out before this one."""
        now = list(self._ended)
        self._ended = deque([*run_times, *now], KEPT)
        self._make()

    def known(self) -> list[float]:
        """Run times worth remembering; none while most of those watched still run.

        What has ended by then is only the quick ones.
        """
        seen = sum(age > 0 for age in self._running.values())
        return list(self._ended) if seen <= len(self._ended) else []

    def _make(self) -> None:
        self._new = 0
        running = [age for age in self._running.values() if age > 0]
        self.pace = Pace(self._ended, running, share=self._share, shortest=self._shortest)


class Turn:
    """When one prediction is polled next.

    Args:
        age: Its age when the wait begins.
        random: The source of chance.
        shortest: Shortest pause in seconds.
        longest: Longest pause in seconds, unless a crowd makes it longer.
    """

    def __init__(
        self, age: float, random: Random, shortest: float = POLL_MIN, longest: float = POLL_MAX
    ) -> None:
        self._random, self._shortest, self._longest = random, shortest, longest
        self._last, self._since = 0.0, age
        self._step = self._vary()
        # In a crowd, how much of a turn has passed until an age, and by which pace it passes. Who
        # comes is somewhere in it, so that the polls of a crowd that came at once flow evenly.
        self._passed, self._until = random.random(), age
        self._by: tuple[Pace, float] | None = None

    def polled(self, age: float) -> None:
        """It was polled, and is still running."""
        self._last = self._since = self._until = age
        self._step, self._passed, self._by = self._vary(), 0.0, None

    def due(self, age: float, pace: Pace, crowd: float) -> float:
        """The age at which it is polled next; earlier than `age` where that is overdue.

        Args:
            age: Now. What has passed of a turn remains passed when pace or crowd are others.
            pace: What is known of the model.
            crowd: Seconds from one turn to the next where nothing is known; see `crowded`.
        """
        if self._by is not None:
            before, seconds = self._by
            self._passed += before.turns(self._until, age) / seconds
        self._until, self._by = age, (pace, crowd)
        turn = pace.after(age, max(0.0, 1 - self._passed) * crowd)
        alone = max(pace.next_poll(self._last, self._step), self._last + self._shortest)
        return min(max(alone, turn), self._since + max(self._longest, crowd))

    def _vary(self) -> float:
        return self._random.uniform(1 - JITTER, 1 + JITTER)


def run_time(prediction: Prediction, running: float, seen: float) -> float | None:
    """The age at which a prediction ended, as far as it can be known; None where it can not.

    Failures count: they are ends, and noticed by the same polls. A cancel says only when somebody
    lost interest.

    Args:
        prediction: As it was seen when it had ended.
        running: The age at which it was last known to run; 0 for never.
        seen: The age at which it was seen to have ended.
    """
    if not prediction.finished or prediction.status is PredictionStatus.CANCELED:
        return None
    start, end = prediction.created_at, prediction.completed_at
    if start is not None and end is not None:
        # That clock counts whole seconds, perhaps, or was set meanwhile; ours knows the limits.
        return min(max((end - start).total_seconds(), running), seen)
    if seen > APART * running:
        return None
    return (running + seen) / 2
