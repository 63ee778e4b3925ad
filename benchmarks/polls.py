"""How many polls a prediction takes, and how late its end is noticed: the rules alone, no server.

    python benchmarks/polls.py

Takes half a minute. See `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.crowd import Crowd, crowd
from benchmarks.tables import markdown
from prefect_cometapi.learning import KEPT
from prefect_cometapi.pace import POLL_MIN, POLL_SHARE, Pace

#: The pause of the service's own clients, in seconds.
FIXED = 0.5
#: The mixed load: the median run time of each model in seconds, and its part of the predictions.
MODELS = ((2.0, 0.6), (9.0, 0.3), (120.0, 0.1))
#: How much run times of one model differ: the deviation of their logarithm.
SPREADS = (0.1, 0.25, 0.5)
SEEDS = range(9)
#: Run times that a schedule is tried on.
TRIED = 500
#: The model that is compared with the optimum, in seconds, and in how many steps.
ONE, GRID = 9.0, 240
#: What is to be reached.
COLD, LEARNED, OPTIMUM = 0.35, 0.2, 1.25

#: Polls a prediction, and how late on average as a share of the run time.
Cost = tuple[float, float]
Row = dict[str, Any]


def run_times(middle: float, spread: float, number: int, seed: object) -> list[float]:
    """Seconds that predictions of one model take."""
    random = Random(f"{middle} {spread} {seed}")  # noqa: S311
    return [middle * math.exp(random.gauss(0, spread)) for _ in range(number)]


def schedule(pace: Pace, shortest: float, until: float) -> list[float]:
    """The ages at which a prediction is polled that does not end before `until`."""
    ages = [pace.next_poll(0.0)]
    while ages[-1] < until:
        ages.append(max(pace.next_poll(ages[-1]), ages[-1] + shortest))
    return ages


def cost(ages: Sequence[float], times: Sequence[float]) -> Cost:
    """What polls at these ages cost."""
    polls = late = 0.0
    for time in times:
        place = bisect_left(ages, time)
        polls += place + 1
        late += (ages[place] - time) / time
    return polls / len(times), late / len(times)


# --- the mixed load beside fixed pauses -------------------------------------------------------


def mixed(spread: float, known: int, share: float, seed: int) -> Cost:
    """The mixed load, where so many run times of each model are known."""

    def one(middle: float) -> Cost:
        pace = Pace(run_times(middle, spread, known, f"known {seed}"), share=share)
        times = run_times(middle, spread, TRIED, seed)
        return cost(schedule(pace, POLL_MIN, max(times)), times)

    return _together(one)


def fixed(spread: float, seed: int) -> Cost:
    """The mixed load with a poll every half second."""

    def one(middle: float) -> Cost:
        times = run_times(middle, spread, TRIED, seed)
        return cost([FIXED * i for i in range(1, int(max(times) / FIXED) + 2)], times)

    return _together(one)


def _together(one: Callable[[float], Cost]) -> Cost:
    costs = [(part, one(middle)) for middle, part in MODELS]
    return sum(part * each[0] for part, each in costs), sum(part * each[1] for part, each in costs)


def equal_delay(spread: float, known: int, seed: int, late: float) -> Cost:
    """With the largest share that is no later on average than `late`."""
    best = mixed(spread, known, 0.02, seed)
    share = 0.02
    while share < 2.0:
        found = mixed(spread, known, share := share * 1.05, seed)
        if found[1] <= late and found[0] < best[0]:
            best = found
    return best


def beside_fixed() -> list[Row]:
    """Polls and delays beside polls every half second, at equal delay and with the defaults."""
    rows = []
    for spread in SPREADS:
        for known, reach in ((0, COLD), (20, LEARNED)):
            equal, plain, plain_late = [], [], []
            for seed in SEEDS:
                polls, late = fixed(spread, seed)
                equal.append(equal_delay(spread, known, seed, late)[0] / polls)
                ours = mixed(spread, known, POLL_SHARE, seed)
                plain.append(ours[0] / polls)
                plain_late.append(ours[1] / late)
            rows.append(
                {
                    "load": "mixed",
                    "spread": spread,
                    "known": known,
                    "polls at equal delay": median(equal),
                    "reach": reach,
                    "reached": median(equal) <= reach,
                    "polls": median(plain),
                    "delay": median(plain_late),
                }
            )
    return rows


# --- one known model beside the optimum -------------------------------------------------------


def optimum(times: Sequence[float], worth: float) -> list[float]:
    """The best schedule for exactly these run times, by dynamic programming.

    Args:
        times: The run times.
        worth: How many polls a delay of a whole run time is worth.
    """
    ordered = sorted(times)
    low, high = math.log(ordered[0] * 0.9), math.log(ordered[-1])
    grid = [math.exp(low + (high - low) * i / GRID) for i in range(GRID)] + [ordered[-1]]
    ended = [bisect_right(ordered, age) for age in grid]
    inverse = [0.0, *accumulate(1 / time for time in ordered)]
    best, then = [0.0] * (GRID + 1), [GRID] * (GRID + 1)
    for i in reversed(range(GRID)):
        # From a poll at i, or from the start, to the next at j: one for each that runs at i, and
        # the delay of each that ends in between.
        best[i], then[i] = min(
            (
                len(ordered)
                - ended[i]
                + worth * (grid[j] * (inverse[ended[j]] - inverse[ended[i]]) - ended[j] + ended[i])
                + best[j],
                j,
            )
            for j in range(i + 1, GRID + 1)
        )
    ages, place = [], 0
    while place < GRID:
        place = then[place]
        ages.append(grid[place])
    return ages


def fewest(frontier: Iterable[Cost], late: float) -> float:
    """Polls of the optimum that is as late, between two optima where need be."""
    points = sorted(frontier, key=lambda each: each[1])
    for (more, before), (fewer, after) in pairwise(points):
        if before <= late <= after:
            part = (late - before) / (after - before) if after > before else 0.0
            return more + part * (fewer - more)
    raise ValueError(f"A delay of {late} is beyond the optima that were tried.")


def beside_optimum() -> list[Row]:
    """Polls beside the fewest that are possible at the same delay, on one known model."""
    rows = []
    for spread in SPREADS:
        tried = [run_times(ONE, spread, TRIED, seed) for seed in SEEDS]
        frontiers = [
            [cost(optimum(times, 2.0**i), times) for i in range(1, 13)]  # from 2 to 4,096 polls
            for times in tried
        ]
        for known in (20, KEPT):
            ratios = []
            for seed, times, frontier in zip(SEEDS, tried, frontiers, strict=True):
                pace = Pace(run_times(ONE, spread, known, f"known {seed}"))
                polls, late = cost(schedule(pace, 0.0, max(times)), times)
                ratios.append(polls / fewest(frontier, late))
            rows.append(
                {
                    "load": "one model",
                    "spread": spread,
                    "known": known,
                    "polls / optimum": median(ratios),
                    "reach": OPTIMUM,
                    "reached": median(ratios) <= OPTIMUM,
                }
            )
    return rows


# --- many at once -----------------------------------------------------------------------------

CROWDS = (
    Crowd("1,000 at once, 8 s, nothing known", 1000, 8.0),
    Crowd("1,000 at once, 8 s, 50 known", 1000, 8.0, known=50),
    Crowd("10,000, of which 1,000 in flight, 8 s, nothing known", 10_000, 8.0, in_flight=1000),
    Crowd("10,000 at once, 5 minutes, 50 known", 10_000, 300.0, known=50, begin=20.0),
)


def in_a_crowd() -> list[Row]:
    """Polls and delays where many are waited for in one process."""
    return [
        {"load": each.name, **{key: median(found) for key, found in _columns(each).items()}}
        for each in CROWDS
    ]


def _columns(each: Crowd) -> dict[str, list[float]]:
    seeds = SEEDS if each.number <= 1000 else range(1)
    found = [crowd(each, seed) for seed in seeds]
    return {key: [one[key] for one in found] for key in found[0]}


# --- the command ------------------------------------------------------------------------------


def rows() -> list[Row]:
    """All that is measured; `reached` says whether a row with a `reach` has reached it."""
    return [*beside_fixed(), *beside_optimum(), *in_a_crowd()]


def tables(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    by_fixed = [row for row in found if row["load"] == "mixed"]
    by_optimum = [row for row in found if row["load"] == "one model"]
    crowds = [row for row in found if "wall" in row]
    return "\n\n".join(
        [
            markdown(
                [
                    *("spread", "runs known of each model", "polls / fixed, at equal delay"),
                    *("reach", "reached", "by default: polls / fixed", "delay / fixed"),
                ],
                [
                    [
                        *(row["spread"], row["known"], f"{row['polls at equal delay']:.2f}"),
                        *(f"≤ {row['reach']}", _yes(row)),
                        *(f"{row['polls']:.2f}", f"{row['delay']:.2f}"),
                    ]
                    for row in by_fixed
                ],
            ),
            markdown(
                ["spread", "runs known", "polls / optimum, at equal delay", "reach", "reached"],
                [
                    [
                        *(row["spread"], row["known"], f"{row['polls / optimum']:.2f}"),
                        *(f"≤ {row['reach']}", _yes(row)),
                    ]
                    for row in by_optimum
                ],
            ),
            markdown(
                [
                    *("crowd", "polls each", "late: median", "95 %", "share of the run time"),
                    *("most polls in a second", "wall / longest"),
                ],
                [
                    [
                        *(row["load"], f"{row['polls']:.1f}", f"{row['late']:.1f} s"),
                        *(f"{row['p95']:.1f} s", f"{row['share']:.1%}"),
                        *(f"{row['peak']:.0f}", f"{row['wall']:.2f}"),
                    ]
                    for row in crowds
                ],
            ),
        ]
    )


def _yes(row: Row) -> str:
    return "yes" if row["reached"] else "**no**"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and say with the exit code whether all was reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    found = rows()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(tables(found))
    return 0 if all(row.get("reached", True) for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
