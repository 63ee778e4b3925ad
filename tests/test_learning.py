"""What ended teaches when to poll what runs, and a crowd is polled evenly, no more than it may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from benchmarks.crowd import Crowd, crowd
from prefect_cometapi.learning import KEPT, WATCHED, RunTimes, Turn, run_time
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.pace import Pace

START = datetime(2026, 3, 12, tzinfo=UTC)


def chance(seed: int = 0) -> Random:
    return Random(seed)  # noqa: S311


def test_each_new_run_time_counts_at_first_and_many_when_many_are_known() -> None:
    known, made = RunTimes(), []
    for number in range(1, KEPT + 101):
        known.began(number)
        if known.ended(number, 9.0):
            made.append(number)
    assert made[:6] == [1, 2, 3, 4, 5, 6]
    assert 10 < len(made) < 30
    assert 15 <= made[-1] - made[-2] <= 20
    assert known.learned == KEPT + 100
    assert known.known() == [9.0] * KEPT


def test_of_thousands_those_that_began_first_are_watched_to_their_end() -> None:
    known = RunTimes()
    for who in range(1000):
        known.began(who)
    for who in range(WATCHED, 1000):
        known.ended(who, 1.0)
    assert known.known() == []
    for who in range(WATCHED):
        known.ended(who, 9.0)
    assert known.known() == [9.0] * WATCHED


def test_while_most_still_run_nothing_is_worth_remembering() -> None:
    known = RunTimes()
    for who in range(10):
        known.began(who)
        known.runs(who, 5.0)
    for who in range(5):
        assert known.known() == []
        known.ended(who, 6.0)
    assert known.known() == [6.0] * 5


def test_who_leaves_before_the_end_says_nothing() -> None:
    known = RunTimes()
    pace = known.pace
    known.began("a")
    assert not known.ended("a", None)
    assert not known.ended("a", 5.0), "it is not watched any more"
    assert (known.pace, known.learned, known.known()) == (pace, 0, [])


def test_what_is_remembered_is_older_than_what_was_found_out_since() -> None:
    known = RunTimes()
    known.began("a")
    known.ended("a", 9.0)
    known.remember([100.0] * (KEPT + 5))
    assert known.known() == [100.0] * (KEPT - 1) + [9.0]
    assert known.pace.next_poll(0.0) > Pace().next_poll(0.0)


def prediction(
    status: PredictionStatus, created: float | None, completed: float | None
) -> Prediction:
    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else START + timedelta(seconds=seconds)

    return Prediction(
        id="p",
        model="owner/name",
        status=status,
        api_root="https://api.example",
        created_at=at(created),
        completed_at=at(completed),
    )


GOOD, BAD = PredictionStatus.SUCCEEDED, PredictionStatus.FAILED


@pytest.mark.parametrize(
    ("status", "times", "running", "seen", "expected"),
    [
        pytest.param(GOOD, (0, 8), 7.0, 9.0, 8.0, id="as-the-service-says"),
        pytest.param(GOOD, (0, 8), 0.0, 500.0, 8.0, id="also-when-looked-for-much-later"),
        pytest.param(BAD, (0, 8), 7.0, 9.0, 8.0, id="a-failure-is-an-end"),
        pytest.param(GOOD, (0, 5), 7.0, 9.0, 7.0, id="not-before-it-was-seen-running"),
        pytest.param(GOOD, (0, 99), 7.0, 9.0, 9.0, id="not-after-it-was-seen-to-have-ended"),
        pytest.param(GOOD, (8, 0), 0.0, 9.0, 0.0, id="a-clock-that-went-back"),
        pytest.param(GOOD, (None, 8), 7.0, 9.0, 8.0, id="without-times-between-two-polls"),
        pytest.param(GOOD, (0, None), 5.0, 9.0, None, id="which-are-too-far-apart"),
        pytest.param(GOOD, (None, None), 0.0, 9.0, None, id="or-there-is-only-one"),
        pytest.param(PredictionStatus.CANCELED, (0, 8), 7.0, 9.0, None, id="a-cancel-is-no-end"),
        pytest.param(PredictionStatus.PROCESSING, (0, None), 7.0, 7.0, None, id="it-still-runs"),
    ],
)
def test_the_run_time_is_as_certain_as_it_can_be(
    status: PredictionStatus,
    times: tuple[float | None, float | None],
    running: float,
    seen: float,
    expected: float | None,
) -> None:
    assert run_time(prediction(status, *times), running, seen) == expected


@pytest.mark.parametrize(
    ("age", "shortest", "longest", "crowd", "least", "most"),
    [
        pytest.param(0.0, 0.25, 60.0, 0.003, 0.9, 1.2, id="the-first-of-an-unknown-model"),
        pytest.param(100.0, 0.25, 60.0, 0.003, 11.0, 15.0, id="a-share-of-the-age"),
        pytest.param(100.0, 30.0, 60.0, 0.003, 30.0, 30.0, id="no-sooner"),
        pytest.param(1000.0, 0.25, 60.0, 0.003, 60.0, 60.0, id="no-later"),
        pytest.param(100.0, 0.25, 60.0, 40.0, 40.0, 40.0, id="a-crowd-takes-longer"),
        pytest.param(100.0, 0.25, 5.0, 40.0, 40.0, 40.0, id="also-than-the-longest-pause"),
        pytest.param(0.1, 0.25, 5.0, 0.003, 0.6, 1.1, id="hardly-begun"),
    ],
)
def test_the_pause_after_a_poll(
    age: float, shortest: float, longest: float, crowd: float, least: float, most: float
) -> None:
    for seed in range(50):
        turn = Turn(age, chance(seed), shortest, longest)
        if age > 0:
            turn.polled(age)
        pause = turn.due(age, Pace(), crowd) - age
        assert least - 1e-6 <= pause <= most + 0.5 * (crowd > 1)


def test_who_comes_late_is_polled_at_once_but_not_all_of_a_crowd() -> None:
    assert Turn(100.0, chance()).due(100.0, Pace(), 0.003) <= 100.01
    due = sorted(Turn(100.0, chance(seed)).due(100.0, Pace(), 10.0) for seed in range(1000))
    for i, each in enumerate(due):  # one after the other, for as long as a turn
        assert each == pytest.approx(100.0 + i / 100, abs=1.0)


def test_a_turn_goes_on_where_it_was_when_others_leave_or_something_is_learned() -> None:
    turn = Turn(100.0, chance())
    turn.polled(100.0)
    assert turn.due(100.0, Pace(), 40.0) == pytest.approx(140.0, abs=0.5)
    assert turn.due(120.0, Pace(), 20.0) == pytest.approx(130.0, abs=0.5)
    assert turn.due(125.0, Pace(), 80.0) == pytest.approx(145.0, abs=0.5)


def test_predictions_created_together_are_not_polled_together() -> None:
    due = {Turn(0.0, chance(seed)).due(0.0, Pace(), 0.003) for seed in range(200)}
    assert len(due) > 190


@pytest.mark.parametrize(
    ("load", "polls", "p95"),
    [
        pytest.param(Crowd("", 1000, 8.0), 6.5, 1.5, id="1000-of-which-nothing-is-known"),
        pytest.param(Crowd("", 1000, 8.0, known=50), 5.0, 1.5, id="1000-learned"),
        pytest.param(Crowd("", 1000, 300.0, known=50), 14.0, 20.0, id="1000-for-5-minutes"),
        pytest.param(
            Crowd("", 3000, 8.0, in_flight=1000), 5.0, 2.0, id="one-begins-when-another-ends"
        ),
    ],
)
def test_a_crowd_is_noticed_in_time_by_few_polls(load: Crowd, polls: float, p95: float) -> None:
    """On a clock of its own, with the CPU that each poll takes, learning on the way."""
    found = crowd(load, seed=1)
    assert found["polls"] <= polls
    assert found["p95"] <= p95
    assert found["peak"] <= 950
    assert found["wall"] <= 1.15
