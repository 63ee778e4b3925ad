"""An event loop on which nobody waits: where every task sleeps, its clock jumps."""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from prefect_cometapi import portal

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Adds the time that would be waited to the clock instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:  # nobody would ever wake up
            raise RuntimeError("Every task waits for something that no clock brings.")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which begins at 0."""

    def __init__(self) -> None:
        self.clock = _Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        """Seconds since it was made."""
        return self.clock.now


class _Time:
    """What the package's modules find under the name `time`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic = loop.time

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def _background(loop: VirtualLoop) -> Iterator[None]:
    """The client's own loop, and its clock, for as long as the block runs."""
    names = [name for name in sys.modules if name.startswith("prefect_cometapi.")]
    with ExitStack() as stack:
        for module in map(sys.modules.__getitem__, names):
            if getattr(module, "time", None) is time:
                stack.enter_context(patch.object(module, "time", _Time(loop)))
        stack.enter_context(patch.object(portal, "_loop", loop))
        yield


def run(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Run a coroutine to its end; its result, and the virtual seconds that it took."""
    loop = VirtualLoop()
    try:
        with _background(loop):
            return loop.run_until_complete(work), loop.time()
    finally:
        loop.close()
