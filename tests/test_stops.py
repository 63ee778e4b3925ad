"""Signals are noticed in threads, whoever handles them, and only those of this process."""

from __future__ import annotations

import os

import pytest

from tests.processes import python

pytestmark = pytest.mark.slow

#: Work on the background loop, for which a thread waits; `end()` says how it ended.
HEAD = """
import asyncio, os, signal, sys, threading, time
from datetime import UTC, datetime, timedelta
from prefect_cometapi import portal, stops
stops.LOOK = 0.05
begun, ends = threading.Event(), []
async def at_stop(by_a_person):
    ends.append("a person" if by_a_person else "nobody")
async def wait():
    begun.set()
    await asyncio.sleep(20)
def run():
    try:
        portal.call(stops.guarded, wait, at_stop)
    except BaseException as error:
        ends.append(type(error).__name__)
def start():
    begun.clear()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun.wait(5)
    return thread
def press(number=signal.SIGINT):
    try:
        signal.raise_signal(number)
        time.sleep(0.2)
    except KeyboardInterrupt:
        pass
def end(thread, seconds=5):
    thread.join(seconds)
    return "goes on" if thread.is_alive() else " ".join(ends)
"""


def said_by(script: str) -> str:
    done = python("-W", "ignore::DeprecationWarning", "-c", HEAD + script, seconds=60)
    assert done.stderr == ""
    return done.stdout.strip()


def test_ctrl_c_ends_work_in_threads() -> None:
    assert said_by("thread = start(); press(); print(end(thread))") == "a person CancelledError"


def test_the_handler_behind_it_is_still_called() -> None:
    script = """
signal.signal(signal.SIGINT, lambda *_: print("mine"))
thread = start()
press()
print(end(thread))
"""
    assert said_by(script).splitlines() == ["mine", "a person CancelledError"]


@pytest.mark.parametrize(
    "between",
    [
        "signal.signal(signal.SIGINT, lambda *_: None)",
        "asyncio.run(asyncio.sleep(0.2))",  # takes the signal for itself, and puts it back
        "asyncio.run(asyncio.sleep(0.2)); asyncio.run(asyncio.sleep(0.2))",
    ],
)
def test_a_handler_that_came_later_does_not_hide_it(between: str) -> None:
    script = f"thread = start(); {between}; time.sleep(0.3); press(); print(end(thread))"
    assert said_by(script) == "a person CancelledError"


def test_what_is_ignored_or_deadly_stays_so() -> None:
    script = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
thread = start()
press()
print(end(thread, 0.5))
if not (child := os.fork()):
    signal.raise_signal(signal.SIGTERM)
    time.sleep(5)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert said_by(script).splitlines() == ["goes on", "-15"]


def test_sigterm_alone_ends_work_after_a_while_and_nobody_asked_for_it() -> None:
    script = """
stops.GRACE = 0.5
signal.signal(signal.SIGTERM, lambda *_: None)
thread = start()
press(signal.SIGTERM)
print(end(thread, 0.1), end(thread), sep=", ")
"""
    assert said_by(script) == "goes on, nobody CancelledError"


def test_a_signal_to_a_forked_child_is_not_this_processes() -> None:
    # Pools end their forked workers by SIGTERM, and terminals press Ctrl-C on some of them.
    script = """
stops.GRACE = 0.1
signal.signal(signal.SIGTERM, lambda *_: None)
thread = start()
if not (child := os.fork()):
    press()
    press(signal.SIGTERM)
    os._exit(0)
os.waitpid(child, 0)
print(end(thread, 0.8), stops.ctrl_c_was_pressed())
"""
    assert said_by(script) == "goes on False"


def test_a_forked_child_notices_its_own() -> None:
    script = """
thread = start()
if not (child := os.fork()):
    mine = start()
    press()
    print(end(mine), stops.ctrl_c_was_pressed(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(end(thread, 0.5))
"""
    assert said_by(script).splitlines() == ["a person CancelledError True", "goes on"]


def test_an_earlier_ctrl_c_is_not_of_what_begins_later() -> None:
    script = """
end(start(), 0.1)
press()
time.sleep(0.3)
now = datetime.now(UTC)
print(stops.ctrl_c_was_pressed(now - timedelta(seconds=5)), stops.ctrl_c_was_pressed(now))
ends.clear()
print(end(start(), 0.5))
"""
    assert said_by(script).splitlines() == ["True False", "goes on"]


def test_an_error_while_stopping_does_not_take_its_place() -> None:
    script = """
import logging
logging.disable()
async def at_stop(by_a_person):
    raise ValueError("no")
thread = start()
press()
print(end(thread))
"""
    assert said_by(script) == "CancelledError"


def test_stopping_that_does_not_end_is_ended() -> None:
    script = """
import logging
logging.disable()
stops.AT_STOP = 0.3
async def at_stop(by_a_person):
    await asyncio.sleep(60)
thread = start()
press()
print(end(thread))
"""
    assert said_by(script) == "CancelledError"


def test_without_a_place_for_files_work_goes_on_all_the_same() -> None:
    script = """
def no_place(**_):
    raise FileNotFoundError("no usable temporary directory")
stops.tempfile.TemporaryFile = no_place
async def value():
    return 42
print(portal.call(stops.guarded, value))
"""
    assert said_by(script) == "42"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_many_presses_and_many_threads_end_each_piece_of_work_once() -> None:
    script = """
threads = [start() for _ in range(50)]
for _ in range(3):
    press()
for thread in threads:
    thread.join(5)
print(len(ends), sorted(set(ends)))
"""
    assert said_by(script) == "100 ['CancelledError', 'a person']"
