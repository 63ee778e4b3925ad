"""300 creates against 60 a minute take at most a tenth longer than they must, and none fails."""

from __future__ import annotations

import pytest

from benchmarks.rate import CREATES, FORMS, GOAL_DRAIN, GOAL_LATE, LIMIT, LIMITERS, WINDOW, drain


@pytest.mark.parametrize("limiter", LIMITERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_drain(limiter: str, form: str) -> None:
    ideal = drain(LIMITERS[limiter](LIMIT, WINDOW), None).seconds
    ours = drain(LIMITERS[limiter](LIMIT, WINDOW), form)
    assert ours.failed == 0
    assert ours.seconds <= GOAL_DRAIN * ideal
    assert ours.late <= GOAL_LATE * CREATES
