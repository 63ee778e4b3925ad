"""The one background event loop of the process, and calls into it from threads and other loops.

Everything that does I/O here runs on this loop, so that Prefect's threads and loops and the
user's own share one HTTP connection pool, one gate and one memory of "too many requests". An
httpx client belongs to one loop, and Prefect starts a loop of its own for each submitted task.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar

import anyio

P = ParamSpec("P")
R = TypeVar("R")

#: A waiting thread wakes this often, in seconds: exceptions that Prefect injects into a thread
#: (a time-out, for example) only arrive between two of its bytecodes.
SLICE = 0.2
#: How long a canceled call may take to clean up before its caller stops waiting, in seconds.
CLEAN_UP = 15.0

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use on a daemon thread. A forked child starts its own."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(
                target=_run_for_ever, args=(_loop,), name="prefect-cometapi", daemon=True
            ).start()
        return _loop


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # SystemExit or KeyboardInterrupt out of one call ends asyncio's loop; that call's caller
        # gets it, and everybody else's calls go on.
        with suppress(BaseException):
            loop.run_forever()


def _forget_after_fork() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def call(function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a coroutine function on the background loop and wait for it, from sync code.

    Context variables come along, so that Prefect's run loggers work inside. When the waiting is
    interrupted (Ctrl-C, a time-out, a cancellation), the call is canceled and gets up to
    `CLEAN_UP` seconds to put things in order before the interruption goes on.
    """
    if _running_loop() is background_loop():
        raise RuntimeError(
            f"{function.__qualname__} was called synchronously from prefect-cometapi's own event "
            "loop, which it would block. Await it instead."
        )
    job = _Job(function(*args, **kwargs))
    try:
        job.start()  # inside, because Ctrl-C can come between any two steps
        while True:
            try:
                return job.result.result(SLICE)
            except concurrent.futures.TimeoutError:
                if job.result.done():  # just now, or with a TimeoutError of its own
                    return job.result.result()
    except concurrent.futures.CancelledError:  # an Exception, which Prefect would retry
        raise asyncio.CancelledError(f"{function.__qualname__} was interrupted.") from None
    except BaseException:
        job.cancel()
        while job.wants_time():
            concurrent.futures.wait([job.result], SLICE)
        raise


async def acall(
    function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a coroutine function on the background loop and await it from any other loop.

    A cancellation reaches the call, which gets up to `CLEAN_UP` seconds to put things in order.
    """
    if _running_loop() is background_loop():
        return await function(*args, **kwargs)
    job = _Job(function(*args, **kwargs))
    job.start()
    result = asyncio.wrap_future(job.result)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        job.cancel()
        # Prefect's time-outs are anyio's, which cancel again at every turn of the loop.
        with anyio.CancelScope(shield=True):
            while job.wants_time():
                # asyncio.run cancels again what a canceled gather has left behind.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([result], timeout=SLICE)
        if result.done() and not result.cancelled():
            result.exception()  # looked at, so that asyncio does not report it as forgotten
        raise


def on_background_loop(
    function: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a coroutine function run on the background loop, wherever it is awaited."""

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return await acall(function, *args, **kwargs)

    return wrapper


async def uninterrupted(work: Awaitable[R]) -> R:
    """Await `work` to its end even when the caller is canceled, then let the cancellation go on.

    For the few steps that must not be cut in two: what has been paid for has to be written down.
    The caller waits for them, however long they take.
    """
    job, held = _current.get(), _Held()
    token = _held.set(held)  # the task gets a copy of these variables
    task = asyncio.ensure_future(work)
    _held.reset(token)
    if job:
        job.uninterruptible += 1
    try:
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if task.cancelled():
                    raise
                held.canceled = error
            except Exception:
                break  # raised again by result(), below
    finally:
        if job:
            job.uninterruptible -= 1
    if held.canceled is not None:
        raise held.canceled
    return task.result()


def interruption_waits() -> bool:
    """Whether what is awaited `uninterrupted` here holds a cancellation up."""
    held = _held.get()
    return held is not None and held.canceled is not None


class _Held:
    canceled: asyncio.CancelledError | None = None


class _Job(Generic[R]):
    """One call on the background loop. `result` is done only once the call has really ended."""

    def __init__(self, coroutine: Coroutine[Any, Any, R]) -> None:
        self.result: concurrent.futures.Future[R] = concurrent.futures.Future()
        self.uninterruptible = 0
        self._patience_ends = math.inf
        self._coroutine = coroutine
        self._loop = background_loop()
        self._task: asyncio.Task[R] | None = None

    def start(self) -> None:
        # call_soon_threadsafe copies the caller's context variables.
        self._loop.call_soon_threadsafe(self._begin)

    def cancel(self) -> None:
        self._patience_ends = time.monotonic() + CLEAN_UP
        self._loop.call_soon_threadsafe(self._stop)

    def wants_time(self) -> bool:
        """True while a canceled call may still put things in order."""
        if self.result.done():
            return False
        return self.uninterruptible > 0 or time.monotonic() < self._patience_ends

    def _stop(self) -> None:
        if self._task is None:  # interrupted before it was started
            self._begin()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        _current.set(self)
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._hand_over)

    def _hand_over(self, task: asyncio.Task[R]) -> None:
        if task.cancelled():
            self.result.cancel()
            self.result.set_running_or_notify_cancel()  # wakes concurrent.futures.wait
        elif error := task.exception():
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())


_held: ContextVar[_Held | None] = ContextVar("prefect_cometapi_held", default=None)
_current: ContextVar[_Job[Any] | None] = ContextVar("prefect_cometapi_job", default=None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
