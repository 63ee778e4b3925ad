"""Places for so many at once, the next free one to whom it is most urgent."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Gate:
    """So many places. Belongs to one event loop.

    Args:
        places: How many may pass at once.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._arrivals = itertools.count()
        #: Rank, order of arrival, and what wakes the one who waits.
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, rank: float = 0.0) -> AsyncGenerator[None]:
        """Wait for a place and hold it.

        Args:
            rank: The lowest is next; of equal ones, who came first.
        """
        await self.enter(rank)
        try:
            yield
        finally:
            self.leave()

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return not self._free

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits."""
        return any(not place.done() for *_, place in self._waiting)

    async def enter(self, rank: float = 0.0) -> None:
        """Wait for a place, which has to be left; see `turn`."""
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), place))
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # given a place and canceled in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place to whom it is most urgent; also one more than there were."""
        while self._waiting:
            *_, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)  # handed over: nobody who comes now can take it
                return
        self._free += 1
