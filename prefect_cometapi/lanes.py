"""Room for so many requests at once, each with a connection of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

from prefect_cometapi.gate import Gate

#: How many requests there is room for at first: on a quick way, more of them only queue up in this
#: process, and each costs the service a connection.
LANES = 10
#: After so many seconds in which requests have waited for room, there is more of it: longer than
#: a burst of polls takes, and short beside any prediction.
LOOK = 0.25
#: More by this share each time: from 10 to 100 within two seconds.
GROWTH = 0.5
#: While the loop's thread computes for more than this share of the time, requests wait for that,
#: and more of them under way would only be slower ones. Half, because others may want the
#: processor too; a hundred requests on a slow network take a third.
BUSY = 0.5


def room(now: int, most: int, busy: float) -> int:
    """How many requests there is room for after some have waited.

    Args:
        now: For how many there is room now.
        most: The limit.
        busy: The share of the time that the loop's thread has computed.
    """
    return now if busy > BUSY else min(most, now + max(1, int(now * GROWTH)))


class Lanes:
    """Room for requests, which grows while they have to wait for the network. Of one event loop.

    A pool of httpx looks at each of its idle connections several times a request: with twenty of
    them that costs twice as much as the request. So each connection is a client of its own, and
    the one that was used last is used next.

    Args:
        most: How many requests may be under way at once.
        make: Makes a client.
    """

    def __init__(self, most: int, make: Callable[[], httpx.AsyncClient]) -> None:
        self._most, self._make = most, make
        self._room = min(most, LANES)
        self._gate = Gate(self._room)
        self._idle: list[httpx.AsyncClient] = []
        self._look: asyncio.TimerHandle | None = None

    async def enter(self) -> httpx.AsyncClient:
        """Wait for room; returns a client that nobody else uses until `leave`."""
        if self._gate.full:
            self._watch()
        await self._gate.enter()
        try:
            return self._idle.pop() if self._idle else self._make()
        except BaseException:
            self._gate.leave()
            raise

    def leave(self, http: httpx.AsyncClient) -> None:
        """Give the room back."""
        self._idle.append(http)
        self._gate.leave()

    def _watch(self) -> None:
        if self._look is None and self._room < self._most:
            loop = asyncio.get_running_loop()
            now = time.monotonic(), time.thread_time()
            self._look = loop.call_later(LOOK, self._widen, *now)

    def _widen(self, since: float, computed: float) -> None:
        self._look = None
        if not self._gate.waited_for:
            return
        busy = (time.thread_time() - computed) / (time.monotonic() - since)
        before, self._room = self._room, room(self._room, self._most, busy)
        for _ in range(self._room - before):
            self._gate.leave()
        self._watch()
