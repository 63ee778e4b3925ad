"""What failed is sent again later each time, never sooner than the service asked; and one 429 holds
back everybody.
"""

import math
from random import Random

import pytest

from prefect_cometapi.pacing import (
    RETRY_FIRST,
    RETRY_MAX,
    Brake,
    retry_delay,
)

SEEDS = range(200)


class Fixed(Random):
    """Chance that always falls at one place between both ends: 0 is the low end, 1 the high."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self.place = place

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.place


def chance(seed: int) -> Random:
    return Random(seed)  # noqa: S311


@pytest.mark.parametrize(
    ("failures", "ceiling"),
    [
        (1, 0.5),
        (2, 1.0),
        (3, 2.0),
        (4, 4.0),
        (5, 8.0),
        (6, 16.0),
        (7, 20.0),
        (8, 20.0),
        (10**6, 20),
    ],
)
def test_retry_delay_doubles_up_to_a_limit(failures: int, ceiling: float) -> None:
    assert retry_delay(failures, Fixed(1)) == pytest.approx(ceiling)
    assert retry_delay(failures, Fixed(0)) == pytest.approx(ceiling / 2)
    assert ceiling <= RETRY_MAX


@pytest.mark.parametrize(
    ("asked", "cap", "least"),
    [
        pytest.param(5.0, 60.0, 5.0, id="as-asked"),
        pytest.param(30.0, 30.0, 30.0, id="at-the-cap"),
        pytest.param(3600.0, 60.0, 60.0, id="capped"),
        pytest.param(1e300, 60.0, 60.0, id="absurd"),
        pytest.param(math.inf, 60.0, 60.0, id="for-ever"),
        pytest.param(0.0, 60.0, 0.0, id="at-once"),
        pytest.param(-5.0, 60.0, 0.0, id="never-negative"),
    ],
)
def test_retry_delay_as_the_service_asked(asked: float, cap: float, least: float) -> None:
    for failures in (1, 5, 10**6):
        assert retry_delay(failures, Fixed(0), asked=asked, cap=cap) == pytest.approx(least)
        most = retry_delay(failures, Fixed(1), asked=asked, cap=cap)
        assert most == pytest.approx(least + RETRY_FIRST)
    spread = {retry_delay(1, chance(seed), asked=asked, cap=cap) for seed in SEEDS}
    assert len(spread) > len(SEEDS) * 0.9, "all that waited would return at once"


def test_the_brake_holds_everybody_as_long_as_the_longest_asked() -> None:
    brake = Brake()
    assert brake.wait(0.0) == 0.0
    assert brake.wait(-1e9) == 0.0
    brake.press(100.0, 30.0)
    assert [brake.wait(now) for now in (100.0, 110.0, 130.0, 500.0)] == [30.0, 20.0, 0.0, 0.0]
    brake.press(110.0, 5.0)
    assert brake.wait(110.0) == 20.0, "a shorter wait does not let go of a longer one"
    brake.press(125.0, 10.0)
    assert brake.wait(125.0) == 10.0, "a later end holds longer"
    brake.press(200.0, 0.0)
    assert brake.wait(200.0) == 0.0
