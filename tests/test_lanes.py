"""There is room for more requests only where the network makes them wait, and up to the limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace

import httpx
import pytest

from prefect_cometapi import lanes
from prefect_cometapi.lanes import LANES, Lanes, room
from prefect_cometapi.pacing import HANGS_LEAST, Patience


@pytest.mark.parametrize(
    ("now", "most", "busy", "then"),
    [
        pytest.param(10, 100, 0.1, 15, id="waiting-for-the-network"),
        pytest.param(10, 100, 0.9, 10, id="waiting-for-this-thread"),
        pytest.param(1, 100, 0.0, 2, id="by-one-at-least"),
        pytest.param(90, 100, 0.0, 100, id="up-to-the-limit"),
        pytest.param(100, 100, 0.0, 100, id="at-the-limit"),
    ],
)
def test_room(now: int, most: int, busy: float, then: int) -> None:
    assert room(now, most, busy) == then


class Road:
    """Lanes, and how many are on them."""

    def __init__(self, most: int) -> None:
        self.made = 0
        self.under_way = 0
        self.most_under_way = 0
        self.lanes = Lanes(most, self._make)

    def _make(self) -> httpx.AsyncClient:
        self.made += 1
        return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))

    async def go(self, until: Callable[[], bool]) -> None:
        http = await self.lanes.enter()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            while not until():  # noqa: ASYNC110 - one of them is the clock
                await asyncio.sleep(0.01)
        finally:
            self.under_way -= 1
            self.lanes.leave(http)


async def test_requests_that_wait_for_the_network_get_more_room_up_to_the_limit() -> None:
    road = Road(most=18)
    async with asyncio.timeout(30):
        await asyncio.gather(*(road.go(lambda: road.most_under_way == 18) for _ in range(18)))
    assert road.most_under_way == road.made == 18


async def test_a_busy_thread_gets_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    # It computes all the time, whatever else this machine is busy with.
    clock = SimpleNamespace(monotonic=time.monotonic, thread_time=time.monotonic)
    monkeypatch.setattr(lanes, "time", clock)
    road, ends = Road(most=100), time.monotonic() + 3 * lanes.LOOK
    await asyncio.gather(*(road.go(lambda: time.monotonic() > ends) for _ in range(30)))
    assert road.most_under_way == LANES


async def test_the_connection_that_was_used_last_is_used_next() -> None:
    road = Road(most=5)
    first, second = await road.lanes.enter(), await road.lanes.enter()
    road.lanes.leave(first)
    road.lanes.leave(second)
    assert await road.lanes.enter() is second
    assert road.made == 2


async def test_room_is_not_lost_where_nothing_can_be_made() -> None:
    def refuse() -> httpx.AsyncClient:
        raise ValueError("no proxy is named so")

    broken = Lanes(1, refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="proxy"):
            await asyncio.wait_for(broken.enter(), 5)


def test_a_query_is_given_up_where_others_took_far_less() -> None:
    patience = Patience()
    assert patience.seconds(20.0) == 20.0, "nothing is known"
    patience.answered(0.1)
    assert patience.seconds(20.0) == HANGS_LEAST
    for _ in range(100):
        patience.answered(1.0)
    assert patience.seconds(20.0) == pytest.approx(10.0, rel=0.01)
    assert patience.seconds(1.0) == 1.0, "the setting is the limit"
