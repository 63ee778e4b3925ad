"""Every thread and loop of the process works on one background loop, which none can block."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from prefect_cometapi import portal
from tests.processes import python

WORD: contextvars.ContextVar[str] = contextvars.ContextVar("WORD", default="nothing")


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def thread_and_loop() -> tuple[int, int]:
    return threading.get_ident(), id(asyncio.get_running_loop())


class Work:
    """Something that takes for ever, and cleans up when it is canceled."""

    def __init__(self, clean_up: float = 0.3) -> None:
        self.started, self.clean = threading.Event(), threading.Event()
        self.clean_up = clean_up

    async def run(self) -> None:
        self.started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(self.clean_up)
            self.clean.set()


# --- values, exceptions, context --------------------------------------------------------------


def test_a_value_comes_back_in_sync_code() -> None:
    assert portal.call(double, 21) == 42


async def test_a_value_comes_back_in_async_code() -> None:
    assert await portal.acall(double, 21) == 42


def test_keyword_arguments_arrive() -> None:
    assert portal.call(double, value=4) == 8


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("mine"), KeyError("k")])
def test_an_exception_comes_back_in_sync_code(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        portal.call(fail, error)
    assert caught.value is error


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("mine"), KeyError("k")])
async def test_an_exception_comes_back_in_async_code(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await portal.acall(fail, error)
    assert caught.value.args == error.args  # asyncio makes a copy of a TimeoutError


def test_a_time_out_of_the_call_itself_is_told_from_the_end_of_a_slice() -> None:
    async def late() -> None:
        async with asyncio.timeout(2.5 * portal.SLICE):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        portal.call(late)


def test_a_call_that_outlasts_many_slices_brings_its_value() -> None:
    async def slow() -> str:
        await asyncio.sleep(3.5 * portal.SLICE)
        return "done"

    assert portal.call(slow) == "done"


def test_a_value_that_arrives_as_a_slice_ends_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # A paid create whose value came in just that moment would be reported as timed out.
    monkeypatch.setattr(portal, "SLICE", 0.0)  # every moment is the end of a slice

    async def soon(value: int) -> int:
        for _ in range(value % 17):
            await asyncio.sleep(0)
        return value

    assert [portal.call(soon, value) for value in range(3000)] == list(range(3000))


def test_context_variables_come_along_in_sync_code() -> None:
    async def read() -> str:
        return WORD.get()

    token = WORD.set("sync")
    try:
        assert portal.call(read) == "sync"
    finally:
        WORD.reset(token)
    assert portal.call(read) == "nothing"


async def test_context_variables_come_along_in_async_code() -> None:
    async def read() -> str:
        await asyncio.sleep(0)
        return WORD.get()

    WORD.set("async")
    assert await portal.acall(read) == "async"


async def test_a_decorated_function_runs_on_the_background_loop_wherever_it_is_awaited() -> None:
    @portal.on_background_loop
    async def where() -> tuple[int, int]:
        # Awaited from the background loop itself it must not wait for itself.
        return await portal.acall(thread_and_loop)

    assert await where() == (await portal.acall(thread_and_loop))
    assert (await where())[0] != threading.get_ident()


# --- one loop for all -------------------------------------------------------------------------


def test_threads_and_loops_at_once_share_one_loop() -> None:
    def from_thread(_: int) -> tuple[int, int]:
        return portal.call(thread_and_loop)

    def from_loop(_: int) -> tuple[int, int]:
        return asyncio.run(portal.acall(thread_and_loop))

    with ThreadPoolExecutor(16) as pool:
        seen = {*pool.map(from_thread, range(50)), *pool.map(from_loop, range(20))}
    assert len(seen) == 1
    assert threading.get_ident() not in {thread for thread, _ in seen}


def test_a_loop_may_end_and_another_may_follow() -> None:
    first = asyncio.run(portal.acall(thread_and_loop))
    second = asyncio.run(portal.acall(thread_and_loop))
    assert first == second


def test_calls_from_many_threads_run_at_the_same_time() -> None:
    async def nap() -> None:
        await asyncio.sleep(0.2)

    started = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: portal.call(nap), range(32)))
    assert time.monotonic() - started < 3  # one after the other it would be 6.4


def test_a_sync_call_from_the_background_loop_is_refused() -> None:
    async def inside() -> int:
        return portal.call(double, 1)

    with pytest.raises(RuntimeError, match="Await it instead"):
        portal.call(inside)
    assert portal.call(double, 1) == 2  # and nothing is blocked


async def test_a_sync_call_from_another_loop_is_served() -> None:
    assert portal.call(double, 5) == 10


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
def test_an_exit_inside_a_call_ends_neither_the_loop_nor_in_silence(error: str) -> None:
    # asyncio lets these two out of the loop: the thread would end, and every later call hang.
    script = f"""
from prefect_cometapi import portal
async def leave(): raise {error}
async def value(): return 42
try:
    portal.call(leave)
except BaseException as caught:
    print(type(caught).__name__)
print(portal.call(value))
"""
    assert run_script(script, timeout=5).split() == [error.partition("(")[0], "42"]


# --- cancellation -----------------------------------------------------------------------------


async def test_a_canceled_async_caller_waits_for_the_clean_up() -> None:
    work = Work()
    task = asyncio.create_task(portal.acall(work.run))
    await asyncio.to_thread(work.started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.clean.is_set()


async def test_a_time_out_around_an_async_call_waits_for_the_clean_up() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await portal.acall(work.run)
    assert work.clean.is_set()


async def test_a_clean_up_that_takes_for_ever_does_not_hold_the_caller_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portal, "CLEAN_UP", 0.2)
    work = Work(clean_up=30)
    task = asyncio.create_task(portal.acall(work.run))
    await asyncio.to_thread(work.started.wait, 5)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 5
    assert not work.clean.is_set()


def test_ctrl_c_cancels_the_call_and_waits_for_the_clean_up() -> None:
    work = Work()

    def press() -> None:
        work.started.wait(5)
        _thread.interrupt_main(signal.SIGINT)

    threading.Thread(target=press).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        portal.call(work.run)
    assert work.clean.is_set()
    # Not the whole of CLEAN_UP, which is for clean-ups that do not end.
    assert time.monotonic() - started < portal.CLEAN_UP / 3


def test_an_exception_injected_into_the_waiting_thread_arrives() -> None:
    # How Prefect times out a sync task that runs in a worker thread.
    import ctypes

    class Injected(Exception):
        pass

    work, caught = Work(clean_up=0.1), list[BaseException]()

    def wait() -> None:
        try:
            portal.call(work.run)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    work.started.wait(5)
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Injected)
    )
    thread.join(portal.CLEAN_UP / 3)
    assert [type(error) for error in caught] == [Injected]
    assert work.clean.is_set()


async def test_calls_that_are_canceled_as_they_start_end_at_once() -> None:
    # Some before their first step, some after it.
    started = time.monotonic()
    for number in range(100):
        task = asyncio.create_task(portal.acall(Work(clean_up=0).run))
        await asyncio.sleep(0 if number % 2 else 0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - started < portal.CLEAN_UP / 2


async def test_a_call_that_cancels_itself_is_canceled_for_its_caller() -> None:
    with pytest.raises(asyncio.CancelledError):
        await portal.acall(fail, asyncio.CancelledError())


# --- uninterrupted ----------------------------------------------------------------------------


async def test_uninterrupted_work_ends_before_the_cancellation_goes_on() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("started")
        await asyncio.sleep(0.2)
        steps.append("ended")

    async def caller() -> None:
        await portal.uninterrupted(work())
        steps.append("went on")

    task = asyncio.create_task(caller())
    await asyncio.sleep(0.05)
    for _ in range(3):  # more than one may come
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["started", "ended"]


async def test_uninterrupted_work_gives_its_value_and_its_exceptions() -> None:
    assert await portal.uninterrupted(double(3)) == 6
    error = TimeoutError("mine")
    with pytest.raises(TimeoutError) as caught:
        await portal.uninterrupted(fail(error))
    assert caught.value is error


async def test_work_that_fails_after_a_cancellation_leaves_nothing_unretrieved() -> None:
    trouble: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))

    async def work() -> None:
        await asyncio.sleep(0.1)
        raise ValueError("late")

    task = asyncio.create_task(portal.uninterrupted(work()))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, ValueError)):
        await task
    del task
    await asyncio.sleep(0.02)
    assert trouble == []


async def test_uninterrupted_work_that_is_canceled_itself_is_canceled() -> None:
    with pytest.raises(asyncio.CancelledError):
        await portal.uninterrupted(fail(asyncio.CancelledError()))


async def test_uninterrupted_work_on_the_background_loop_survives_its_caller() -> None:
    done = threading.Event()

    async def work() -> None:
        await asyncio.sleep(0.3)
        done.set()

    task = asyncio.create_task(portal.acall(partial(portal.uninterrupted, work())))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


# --- processes --------------------------------------------------------------------------------


def run_script(script: str, timeout: float = 30) -> str:
    words = ("-W", "ignore::DeprecationWarning", "-c", script)
    done = python(*words, env=os.environ | {"PYTHONASYNCIODEBUG": "0"}, seconds=timeout)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    script = """
import asyncio, os, sys, threading
from prefect_cometapi import portal
async def where(): return os.getpid(), id(portal.background_loop())
parent = portal.call(where)
portal._lock.acquire()  # a fork may find it held by another thread
child = os.fork()
if child == 0:
    threading.Timer(8, os._exit, [9]).start()
    first, second = portal.call(where), asyncio.run(portal.acall(where))
    print(first == second, first[0] == os.getpid(), first != parent, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
portal._lock.release()
assert os.waitstatus_to_exitcode(status) == 0, status
print(portal.call(where) == parent)
"""
    assert run_script(script).split() == ["True"] * 4


def test_a_program_ends_at_once_and_in_silence_while_a_call_is_under_way() -> None:
    script = """
import asyncio, threading
from prefect_cometapi import portal
started = threading.Event()
async def long():
    started.set()
    await asyncio.sleep(60)
threading.Thread(target=portal.call, args=[long], daemon=True).start()
started.wait(5)
print("end")
"""
    assert run_script(script, timeout=10) == "end\n"
