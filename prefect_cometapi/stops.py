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
from datetime import datetime
from logging import getLogger
from typing import IO, Any, TypeVar
from uuid import UUID

from prefect_cometapi import portal
from prefect_cometapi.errors import LedgerError
from prefect_cometapi.prefect_api import flow_run_state, lineage

R = TypeVar("R")

#: How often Ctrl-C is looked for, in seconds, for the work in threads that it does not reach.
LOOK = 0.5
#: How often the server is asked for the state of a run that waits, in seconds: a run that is
#: canceled has 30 s until it is killed, and some are told of it by nobody else.
ASK = 10.0
#: Seconds after SIGTERM in which work in threads may still end by itself. Then it is interrupted:
#: the process would wait for it until it is killed, and could not report.
GRACE = 10.0
#: Longest that an interrupted run waits for the server to say why, in seconds.
PATIENCE = 3.0
#: Longest that an interruption is held up altogether, in seconds: a cancel takes up to 10, and
#: the rest is for the record of it.
AT_STOP = 20.0


class _Noticed:
    """Notices a signal in whichever thread one waits, without taking it away.

    Python hands signals to the main thread alone, and lets only that install handlers. faulthandler
    works from any thread: it writes a traceback, here to a file that only grows, and passes on.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._seen: IO[bytes] | None = None
        self._behind: object = None

    def count(self) -> int:
        """Grows with each signal since somebody first watched."""
        return os.fstat(self._seen.fileno()).st_size if self._seen else 0

    def last(self) -> float:
        """When the last one came, in seconds since 1970."""
        return os.fstat(self._seen.fileno()).st_mtime if self._seen and self.count() else -math.inf

    def watch(self) -> int:
        """See to it that signals are noticed from now on; returns the count."""
        handler = signal.getsignal(self._number)
        # Only where Python itself handles it: what is ignored or deadly stays so.
        if hasattr(faulthandler, "register") and callable(handler):
            with suppress(OSError):  # no place for files: work must not depend on this
                if self._seen is None:
                    self._seen = tempfile.TemporaryFile(prefix="prefect-cometapi-")  # noqa: SIM115
                faulthandler.unregister(self._number)  # another handler may have come in between
                faulthandler.register(self._number, self._seen, all_threads=False, chain=True)
                self._behind = handler
        return self.count()

    def keep_watching(self) -> None:
        """Watch again where another handler has come in between, as with `asyncio.run`."""
        if signal.getsignal(self._number) is not self._behind:
            self.watch()

    def forget(self) -> None:
        """Write no more to the file, which after a fork is another process's."""
        if self._seen is not None and callable(signal.getsignal(self._number)):
            faulthandler.unregister(self._number)
        self._seen = self._behind = None


_ctrl_c, _sigterm = _Noticed(signal.SIGINT), _Noticed(signal.SIGTERM)


def ctrl_c_was_pressed(since: datetime | None = None) -> bool:
    """Whether Ctrl-C came to this process: since a moment, or since something first waited here."""
    return _ctrl_c.last() > (since.timestamp() if since else -math.inf)


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
        if self.runs:
            if len(_began) >= _MANY:
                _began.clear()
            # Threads may begin a piece of work after Ctrl-C has ended the flow that it belongs to.
            self.presses = _began.setdefault(self.runs[-1], self.presses)

    def look(self) -> bool:
        """Whether Ctrl-C was pressed since its run began, or the server said that it is to stop."""
        self.asked = self.asked or _ctrl_c.count() > self.presses
        return self.asked

    async def by_a_person(self) -> bool:
        """Whether a person is behind an interruption that has just come; may ask the server."""
        if not self.look() and self.runs:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await asyncio.shield(_question(self.runs))
        return self.look()


_watches: dict[asyncio.Task[Any], _Watch] = {}
_looking: asyncio.Task[None] | None = None
#: The count of Ctrl-C when a root run was first seen. Bounded: a worker may see many.
_began: dict[UUID, int] = {}
_MANY = 1000
_questions: dict[tuple[UUID, ...], asyncio.Task[None]] = {}


async def guarded(
    work: Callable[[], Awaitable[R]], at_stop: Callable[[bool], Awaitable[object]] | None = None
) -> R:
    """Do some work on the background loop, and interrupt it when a person wants its run to stop.

    However an interruption arrives, `at_stop` is awaited first, uninterrupted, and then it goes on.

    Args:
        work: What to do.
        at_stop: What to do when it is interrupted, told whether a person wants it to stop. It gets
            `AT_STOP` seconds.
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
        if watch.look():
            raise asyncio.CancelledError("A person has stopped this run.")
        return await work()
    except asyncio.CancelledError:
        if at_stop is not None:
            await portal.uninterrupted(_stop(watch, at_stop))
        raise
    finally:
        if not inner:
            del _watches[task]


async def _stop(watch: _Watch, at_stop: Callable[[bool], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(AT_STOP):
            await at_stop(await watch.by_a_person())
    except Exception as error:  # it must not take the place of the interruption
        getLogger("prefect_cometapi").warning(
            "What was interrupted could not be put in order (%s: %s).", type(error).__name__, error
        )


async def _look() -> None:
    loop, told = asyncio.get_running_loop(), set[_Watch]()
    ask_at, sigterms = loop.time() + ASK, _sigterm.count()
    while _watches:
        await asyncio.sleep(LOOK)
        _ctrl_c.keep_watching()
        _sigterm.keep_watching()
        # At once after SIGTERM, which is how Prefect ends the process of a canceled run, too.
        if loop.time() >= ask_at or _sigterm.count() > sigterms:
            ask_at, sigterms = loop.time() + ASK, _sigterm.count()
            for runs in {watch.runs for watch in _watches.values() if watch.runs}:
                _question(runs)
        for watch in set(_watches.values()) - told:
            if _sigterm.count() > watch.sigterms:
                watch.ends_at = min(watch.ends_at, loop.time() + GRACE)
            if watch.look() or loop.time() >= watch.ends_at:
                told.add(watch)
                watch.task.cancel()


def _question(runs: tuple[UUID, ...]) -> asyncio.Task[None]:
    """The question under way whether one of these runs is to stop; many ask at once, one is sent.

    It is answered to all whose run it is, and waited for by nobody who must not be held up.
    """
    if runs not in _questions:
        _questions[runs] = asyncio.create_task(_ask(runs))
        _questions[runs].add_done_callback(lambda _: _questions.pop(runs, None))
    return _questions[runs]


async def _ask(runs: tuple[UUID, ...]) -> None:
    for run in runs:
        state = await flow_run_state(run)
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            for watch in _watches.values():
                watch.asked = watch.asked or watch.runs == runs
            return


async def at_rest(run: UUID) -> None:
    """Wait until nothing of a flow run is under way in this process, for `AT_STOP` seconds.

    A flow can end before its tasks have: `asyncio.gather` does not wait for the others.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(AT_STOP):
            while any(run in watch.runs for watch in _watches.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


def _forget_after_fork() -> None:
    global _looking
    _looking = None
    for known in (_watches, _began, _questions):
        known.clear()
    _ctrl_c.forget()
    _sigterm.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
