"""Where the polls of a model are best put, from the run times that are known of it. Pure.

Each poll costs a request, and each completion is noticed late. With a known chance of completion
at each moment, the sum of both is least where polls are as dense as the square root of that chance
(Keller 1974, "Optimum checking schedules for systems subject to random failure"; Barlow, Hunter
and Proschan 1963 give the exact schedule). A delay counts in proportion to the run time, so all of
it happens on a logarithmic scale, on which nothing is known of a new model: every doubling is as
likely, and polls lie in a geometric series.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

#: Shortest pause between two polls, in seconds: half of what the service's own clients keep.
POLL_MIN = 0.25
#: Longest pause, in seconds: outputs live for an hour, a minute late is never too late. It bounds
#: what a wrong idea of a model costs.
POLL_MAX = 60.0
#: With nothing known, a pause is this share of the age. A prediction of 8 s then takes as many
#: polls as with one each half second, and one of two minutes takes a sixth; ten or more of a model
#: that run at once, which learn from each other, are noticed as soon.
POLL_SHARE = 0.12
#: With nothing known, nothing ends before so many of the shortest pauses, which leaves the first
#: poll at one second: hardly any model is quicker.
SOONEST = 3
#: The first poll comes after so many steps. The rule holds where some predictions end between any
#: two polls; before the first of them, one poll less is missed by nobody. Beside the optimum this
#: takes 1.14 times the polls instead of 1.47, where run times differ by a tenth and 20 are known.
FIRST = 2.5
#: With nothing known, the chance that a prediction ends before it is e times as old, as a rate.
#: Half: where most models take seconds and some take minutes, it is between 0.4 and 0.8.
HAZARD = 0.5
#: How many run times what is not known counts for: so little that twenty known ones leave one poll
#: to the time in which none of them ended, and yet no place is without any.
PRIOR = 0.125
#: Spread of the run times of a model before any is known, and the least that is believed, on the
#: logarithmic scale: the next one is within a third, and no model is steadier than a twentieth.
SPREAD, SPREAD_MIN = 0.3, 0.05

#: Polls a second that all who wait in a process share while it is not known which of them are
#: near their end: a third of a core, at 0.8 ms of CPU each.
POLLS_PER_SECOND = 400.0
#: By how much more where the end is near: two thirds of a core.
RUSH = 2.0

#: The scale: from a tenth of a second to four hours in steps of 2 %.
_START, _STEP, _STEPS = math.log(0.1), 0.02, 594


class Pace:
    """When to poll, by age, for one model.

    Args:
        run_times: Seconds that its predictions took, as seen from their creation.
        running: Ages in seconds at which others were seen that had not ended yet. Without them,
            the first that end among many would make the model look quick.
        share: With nothing known, each pause is about this share of the age; it is the exchange
            rate of polls and delays, and holds for what is known as well.
        shortest: The shortest pause in seconds; see `SOONEST`.
    """

    def __init__(
        self,
        run_times: Sequence[float] = (),
        running: Sequence[float] = (),
        *,
        share: float = POLL_SHARE,
        shortest: float = POLL_MIN,
    ) -> None:
        self._share = max(share, 0.001)
        rates = hazards(run_times, running, SOONEST * shortest)
        density = [math.sqrt(each / HAZARD) for each in rates]
        #: The polls that are due until each step of the scale.
        self._polls = [0.0, *accumulate(each * _STEP / self._share for each in density)]
        seconds = (_age(i) * math.expm1(_STEP) for i in range(_STEPS))
        rush = (min(each, RUSH) * time for each, time in zip(density, seconds, strict=True))
        #: The turns that come until then in a crowd where one comes each second of nothing known.
        self._turns = [0.0, *accumulate(rush)]

    def next_poll(self, age: float, step: float = 1.0) -> float:
        """The age at which the poll after the one at `age` is due, for who waits alone.

        Args:
            age: Seconds since the creation; 0 where there was no poll yet.
            step: One poll further; a little more or less, so that predictions which were created
                together are not polled together.
        """
        goal = _sum(self._polls, age) + step * (FIRST if age <= 0 else 1.0)
        due = _reached(self._polls, goal)
        if due is None:  # beyond the scale
            due = max(age * math.exp(self._share * step), _age(_STEPS))
        return max(due, age)

    def turns(self, since: float, until: float) -> float:
        """What has passed of a turn in a crowd between two ages; see `after`."""
        return _sum(self._turns, until) - _sum(self._turns, since)

    def after(self, age: float, turns: float) -> float:
        """The age at which so much of a turn has passed.

        It passes by the second where nothing is known, more slowly where completion is unlikely,
        and up to `RUSH` times as fast where it is likely.
        """
        found = _reached(self._turns, _sum(self._turns, age) + turns)
        return max(age, max(age + turns, _age(_STEPS)) if found is None else found)


def crowded(own: int, all_: int, models: int) -> float:
    """The seconds from one turn to the next where nothing is known.

    Half of `POLLS_PER_SECOND` belongs to all who wait alike, and half to the models alike: the
    few of a quick model must not wait for the thousands of a slow one.

    Args:
        own: How many predictions of the model are waited for; at least 1.
        all_: How many of all models.
        models: How many models they are of.
    """
    return own / (POLLS_PER_SECOND * (own / all_ + 1 / models) / 2)


def hazards(run_times: Sequence[float], running: Sequence[float], soonest: float) -> list[float]:
    """The chance of ending, as a rate on the logarithmic scale, at each of its steps.

    Those that ended at an age, over those that were seen at that age; run times are spread out a
    little, as the next one is only similar.
    """
    ended, left = [0.0] * _STEPS, [0.0] * (_STEPS + 1)
    kernel = _kernel([math.log(max(each, 0.05)) for each in run_times])
    for each in run_times:
        middle = _place(each)
        for i in range(1 - len(kernel), len(kernel)):
            ended[min(max(middle + i, 0), _STEPS - 1)] += kernel[abs(i)]
    for each in running:  # not spread out: beyond the oldest of them nothing is known
        left[_place(each)] += 1.0
    for i in reversed(range(_STEPS)):
        left[i] += ended[i] + left[i + 1]
    first = (math.log(soonest) - _START) / _STEP
    return [
        ((PRIOR * HAZARD if i >= first else 0.0) + ended[i] / _STEP)
        / (PRIOR + (left[i] + left[i + 1]) / 2)
        for i in range(_STEPS)
    ]


def _kernel(logs: Sequence[float]) -> list[float]:
    """How much of a run time counts so many steps away from it."""
    spread = SPREAD
    if logs:
        mean = sum(logs) / len(logs)
        squares = SPREAD**2 + sum((each - mean) ** 2 for each in logs)
        spread = 1.06 * math.sqrt(squares / len(logs)) * len(logs) ** -0.2  # Silverman's rule
    steps = max(spread, SPREAD_MIN) / _STEP
    half = [math.exp(-0.5 * (i / steps) ** 2) for i in range(math.ceil(3 * steps) + 1)]
    total = 2 * sum(half) - half[0]
    return [each / total for each in half]


def _place(age: float) -> int:
    return min(max(int((math.log(max(age, 0.05)) - _START) / _STEP), 0), _STEPS - 1)


def _sum(sums: Sequence[float], age: float) -> float:
    """A sum along the scale, up to an age."""
    at = (math.log(age) - _START) / _STEP if age > 0 else 0.0
    at = min(max(at, 0.0), float(_STEPS))
    place = min(int(at), _STEPS - 1)
    return sums[place] + (at - place) * (sums[place + 1] - sums[place])


def _reached(sums: Sequence[float], goal: float) -> float | None:
    """The age at which a sum is reached; None where that is beyond the scale."""
    after = bisect_left(sums, goal)
    if after >= len(sums):
        return None
    if after == 0:
        return 0.0
    part = (goal - sums[after - 1]) / (sums[after] - sums[after - 1])
    return _age(after - 1 + part)


def _age(place: float) -> float:
    return math.exp(_START + place * _STEP)
