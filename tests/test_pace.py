"""Polls lie where completion is likely, and nowhere are there none."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest

from prefect_cometapi.pace import (
    HAZARD,
    POLL_MIN,
    POLL_SHARE,
    POLLS_PER_SECOND,
    RUSH,
    Pace,
    crowded,
    hazards,
)


def ages(pace: Pace, until: float = 6000.0, shortest: float = 0.0) -> list[float]:
    found = [pace.next_poll(0.0)]
    while found[-1] < until:
        found.append(max(pace.next_poll(found[-1]), found[-1] + shortest))
    return found


def cost(polls: Sequence[float], run_times: Sequence[float]) -> tuple[float, float]:
    """Polls a prediction, and the delay as a share of the run time; both on average."""
    number = delay = 0.0
    for run_time in run_times:
        place = bisect_left(polls, run_time)
        number += place + 1
        delay += (polls[place] - run_time) / run_time
    return number / len(run_times), delay / len(run_times)


def runs(middle: float, spread: float, number: int, seed: int = 0) -> list[float]:
    random = Random(seed)  # noqa: S311
    return [middle * math.exp(random.gauss(0, spread)) for _ in range(number)]


def test_with_nothing_known_each_pause_is_the_same_share_of_the_age() -> None:
    polls = ages(Pace(share=0.1))
    for one, other in pairwise(polls):
        assert other / one == pytest.approx(math.exp(0.1), rel=0.02)


def test_with_nothing_known_the_first_poll_comes_after_a_second() -> None:
    assert Pace().next_poll(0.0) == pytest.approx(1.0, rel=0.05)
    assert Pace(shortest=0.05).next_poll(0.0) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("middle", [2.0, 9.0, 120.0, 600.0])
def test_what_is_known_brings_fewer_polls_or_less_delay_and_never_more_of_both(
    middle: float,
) -> None:
    known, cold = Pace(runs(middle, 0.2, 20), share=0.3), Pace(share=0.3)
    times = runs(middle, 0.2, 500, seed=1)
    number, delay = cost(ages(known), times)
    cold_number, cold_delay = cost(ages(cold), times)
    # A quick model is polled once or twice when cold, and late: there it is the delay that falls.
    assert number * delay < 0.6 * cold_number * cold_delay
    assert delay < cold_delay
    assert sum(age < 0.4 * middle for age in ages(known)) <= 3


def test_one_run_is_enough_to_know_more_than_nothing() -> None:
    times = runs(120.0, 0.2, 500, seed=1)
    number, delay = cost(ages(Pace([110.0])), times)
    cold_number, cold_delay = cost(ages(Pace()), times)
    assert number < 0.8 * cold_number
    assert delay < cold_delay


def test_what_takes_ten_times_as_long_as_ever_is_polled_as_if_nothing_were_known() -> None:
    late = [age for age in ages(Pace(runs(9, 0.1, 50))) if 90 < age < 900]
    for one, other in pairwise(late):
        assert other / one == pytest.approx(math.exp(POLL_SHARE), rel=0.02)
    assert len(late) > 10


def test_those_that_still_run_keep_the_first_that_end_from_telling_for_all() -> None:
    """Five of a hundred have ended by now: the others are not due because of that."""
    ended, running = [5.0, 5.2, 5.4, 5.6, 5.8], [6.0] * 95
    misled = hazards(ended, [], 1.0)
    right = hazards(ended, running, 1.0)
    at = round(math.log(5.9 / 0.1) / 0.02)
    assert misled[at] > 5
    # Five of a hundred within a seventh of the scale's unit.
    assert right[at - 6] == pytest.approx(5 / 97 / 0.15, rel=0.6)


def test_beyond_all_that_was_seen_running_nothing_is_known() -> None:
    found = hazards([], [6.0] * 50, 1.0)
    at = round(math.log(6.0 / 0.1) / 0.02)
    assert found[at - 5] < HAZARD / 100
    assert found[at + 5] == pytest.approx(HAZARD)


@pytest.mark.parametrize("age", [-5.0, 0.0, 1e-9, 0.1, 1.0, 3600.0, 1e5, 1e9])
@pytest.mark.parametrize("run_times", [[], [0.0], [5.0], [5.0] * 50, [0.2, 4000.0], [1e9]])
@pytest.mark.parametrize("share", [1e-9, 0.15, 1.0])
def test_the_next_poll_is_later(age: float, run_times: list[float], share: float) -> None:
    pace = Pace(run_times, run_times, share=share)
    assert age < pace.next_poll(age) < math.inf
    assert pace.next_poll(age, 1.1) >= pace.next_poll(age, 0.9)
    assert age < pace.after(age, 0.5) < math.inf
    assert pace.after(age, 0.6) >= pace.after(age, 0.5)


@pytest.mark.parametrize("run_times", [[], [5.0] * 20, runs(100, 0.3, 50)])
@pytest.mark.parametrize("age", [1.5, 4.0, 60.0, 1000.0])
def test_turns_pass_as_they_come(run_times: list[float], age: float) -> None:
    pace = Pace(run_times)
    for turns in (0.1, 1.0, 10.0):
        assert pace.turns(age, pace.after(age, turns)) == pytest.approx(turns, rel=0.01)


def test_in_a_crowd_a_turn_is_a_second_a_rush_or_a_rest() -> None:
    assert Pace().after(50.0, 1.0) == pytest.approx(51.0, abs=0.01)
    known = Pace(runs(100, 0.05, 50))
    assert known.after(100.0, 1.0) == pytest.approx(100 + 1 / RUSH, abs=0.01)
    assert known.after(50.0, 1.0) > 55.0


@pytest.mark.parametrize(
    ("own", "all_", "models", "polls_a_second"),
    [
        pytest.param(1, 1, 1, POLLS_PER_SECOND, id="one"),
        pytest.param(1000, 1000, 1, POLLS_PER_SECOND, id="many-of-one-model"),
        pytest.param(500, 1000, 2, POLLS_PER_SECOND / 2, id="two-alike"),
        pytest.param(10, 10_010, 2, POLLS_PER_SECOND / 4, id="few-beside-many"),
        pytest.param(10_000, 10_010, 2, POLLS_PER_SECOND * 3 / 4, id="many-beside-few"),
    ],
)
def test_a_crowd_shares_the_polls_of_a_second(
    own: int, all_: int, models: int, polls_a_second: float
) -> None:
    assert own / crowded(own, all_, models) == pytest.approx(polls_a_second, rel=0.01)


@pytest.mark.parametrize(("known", "share", "most"), [(0, 0.14, 0.35), (20, 0.25, 0.2)])
def test_the_mixed_load_takes_a_third_of_the_polls_cold_and_a_fifth_when_learned(
    known: int, share: float, most: float
) -> None:
    """At the same delay as with a poll every half second."""
    number = delay = fixed = fixed_delay = 0.0
    for middle, part in ((2.0, 0.6), (9.0, 0.3), (120.0, 0.1)):
        times = runs(middle, 0.25, 500, seed=int(middle) + 1)
        pace = Pace(runs(middle, 0.25, known, seed=int(middle)), share=share)
        ours = cost(ages(pace, shortest=POLL_MIN), times)
        theirs = cost([0.5 * i for i in range(1, 3000)], times)
        number, delay = number + part * ours[0], delay + part * ours[1]
        fixed, fixed_delay = fixed + part * theirs[0], fixed_delay + part * theirs[1]
    assert number <= most * fixed
    assert delay <= fixed_delay


def test_with_nothing_known_long_runs_take_a_sixth_of_the_polls_and_short_ones_no_more() -> None:
    """Beside a poll every half second."""
    polls = ages(Pace(), shortest=POLL_MIN)
    assert bisect_left(polls, 8.0) <= 8 / 0.5
    assert bisect_left(polls, 120.0) <= 120 / 0.5 / 6
