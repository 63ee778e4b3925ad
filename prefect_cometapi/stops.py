"""Who wants a run to stop: a person, who wants the spending to stop as well, or nobody.

A person is Ctrl-C, or a flow run that Prefect's server calls Cancelling or Cancelled. SIGTERM alone
(eviction, redeploy), a time-out and a crash are nobody: what they interrupt goes on and can be
collected.
"""

from __future__ import annotations

import asyncio
import faulthandler
import math
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, TypeVar
from uuid import UUID

from prefect_cometapi import portal
from prefect_cometapi.errors import LedgerError
from prefect_cometapi.prefect_api import flow_run_state, lineage

R = TypeVar("R")

#: How often Ctrl-C is looked for, in seconds, for the work in threads that it does not reach.
LOOK = 0.5
#: How often the server is asked for the state of a run that waits, in seconds: a run that is
#: canceled has 30 s until it is killed, and work in threads learns of it by no other way.
ASK = 10.0
#: Seconds after SIGTERM in which work in threads may still end by itself. Then it is interrupted:
#: the process would wait for it until it is killed, and could not report.
GRACE = 10.0
#: Longest that an interrupted run waits for the server to say why, in seconds.
PATIENCE = 3.0


class _Noticed:
    """Notices a signal in whichever thread one waits, without taking it away.

    Python hands signals to the main thread alone, and lets only that install handlers. faulthandler
    works from any thread: it writes a traceback, here to a file that only grows, and passes on.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._seen: IO[bytes] | None = None

    def count(self) -> int:
        """Grows with each signal since somebody first watched."""
        return os.fstat(self._seen.fileno()).st_size if self._seen else 0

    def watch(self) -> int:
        """See to it that signals are noticed from now on; returns the count."""
        # Only where Python itself handles it: what is ignored or deadly stays so.
        if hasattr(faulthandler, "register") and callable(signal.getsignal(self._number)):
            if self._seen is None:
                self._seen = tempfile.TemporaryFile(prefix="prefect-cometapi-")  # noqa: SIM115
            faulthandler.unregister(self._number)  # another handler may have come in between
            faulthandler.register(self._number, self._seen, all_threads=False, chain=True)
        return self.count()


_ctrl_c, _sigterm = _Noticed(signal.SIGINT), _Noticed(signal.SIGTERM)


def ctrl_c_was_pressed() -> bool:
    """Whether Ctrl-C came to this process since it first waited for something here."""
    return _ctrl_c.count() > 0


@dataclass(eq=False)
class _Watch:
    """One piece of work, and whether a person wants it to stop."""

    task: asyncio.Task[Any]
    presses: int
    sigterms: int
    ends_at: float = math.inf
    runs: tuple[UUID, ...] = ()
    asked: bool = False

    async def learn_runs(self) -> None:
        """Find out whose work it is."""
        with suppress(LedgerError):  # then only Ctrl-C is seen; work must not depend on the server
            self.runs = self.runs or await lineage()

    def look(self) -> bool:
        """Whether Ctrl-C was pressed since it began, or the server said that its run is to stop."""
        self.asked = self.asked or _ctrl_c.count() > self.presses
        return self.asked

    async def by_a_person(self) -> bool:
        """Whether a person is behind an interruption that has just come; may ask the server."""
        if not self.look() and self.runs:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    self.asked = await _stop_wanted(self.runs)
        return self.asked


_watches: dict[asyncio.Task[Any], _Watch] = {}
_looking: asyncio.Task[None] | None = None


async def guarded(
    work: Callable[[], Awaitable[R]], at_stop: Callable[[bool], Awaitable[object]] | None = None
) -> R:
    """Do some work on the background loop, and interrupt it when a person wants its run to stop.

    However an interruption arrives, `at_stop` is awaited first, uninterrupted, and then it goes on.

    Args:
        work: What to do.
        at_stop: What to do when it is interrupted, told whether a person wants it to stop; it must
            end by itself within seconds.
    """
    global _looking
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    inner = task in _watches
    watch = _watches.setdefault(task, _Watch(task, _ctrl_c.watch(), _sigterm.watch()))
    if _looking is None or _looking.done():
        _looking = asyncio.create_task(_look())
    try:
        await watch.learn_runs()
        return await work()
    except asyncio.CancelledError:
        if at_stop is not None:
            await portal.uninterrupted(_stop(watch, at_stop))
        raise
    finally:
        if not inner:
            del _watches[task]


async def _stop(watch: _Watch, at_stop: Callable[[bool], Awaitable[object]]) -> None:
    await at_stop(await watch.by_a_person())


async def _look() -> None:
    loop, told = asyncio.get_running_loop(), set[_Watch]()
    ask_at = loop.time() + ASK
    while _watches:
        await asyncio.sleep(LOOK)
        if loop.time() >= ask_at:
            for runs in {watch.runs for watch in _watches.values() if watch.runs}:
                if await _stop_wanted(runs):
                    for watch in _watches.values():
                        watch.asked = watch.asked or watch.runs == runs
            ask_at = loop.time() + ASK
        for watch in set(_watches.values()) - told:
            if _sigterm.count() > watch.sigterms:
                watch.ends_at = min(watch.ends_at, loop.time() + GRACE)
            if watch.look() or loop.time() >= watch.ends_at:
                told.add(watch)
                watch.task.cancel()


_questions: dict[tuple[UUID, ...], asyncio.Task[bool]] = {}


async def _stop_wanted(runs: tuple[UUID, ...]) -> bool:
    """Whether the server says that one of the runs is to stop; many ask at once, one is sent."""
    question = _questions.get(runs)
    if question is None:
        question = _questions[runs] = asyncio.create_task(_ask(runs))
        question.add_done_callback(lambda _: _questions.pop(runs, None))
    return await asyncio.shield(question)


async def _ask(runs: tuple[UUID, ...]) -> bool:
    for run in runs:
        state = await flow_run_state(run)
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            return True
    return False
