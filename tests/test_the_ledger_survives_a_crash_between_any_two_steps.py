"""Processes that race, die, lose answers and come back: what was paid for is never lost, and what
nobody asked for is never paid.

The real submission, settlement and records run here, one I/O step at a time, in an order that
hypothesis draws; see `ledger_in_memory` for what is on the other side of a step.

More examples, drawn anew each time: pytest --hypothesis-profile=long tests/test_the_ledger…
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefect_cometapi.errors import (
    CometAPIError,
    LedgerError,
    NeverDelivered,
    RequestRejected,
    SubmissionInDoubt,
)
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.models import Prediction
from prefect_cometapi.orders import Order
from tests.ledger_in_memory import (
    ABSENT,
    MODEL,
    NOTHING,
    PATIENCE,
    REQUESTS,
    SCOPE,
    Process,
    Step,
    World,
    decided,
    made,
    patched,
)

#: What may come of a step. Those with "dies" end the process.
WORKS, FAILS, LOST, TWICE = "works", "fails", "works, answer lost", "sent twice by Prefect's client"
DIES, DIES_AFTER, TEARS = "dies before", "dies after", "dies in the middle of writing"
REFUSED, UNDELIVERED = "the service refuses", "never delivered"
FATES = (WORKS, WORKS, WORKS, FAILS, LOST, TWICE, DIES, DIES_AFTER, TEARS, REFUSED, UNDELIVERED)


# --- the machine ------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Draws who takes the next step, and what comes of it."""

    stored = False

    @initialize()
    def begin(self) -> None:
        self.world = World(self.stored)
        self.patches = patched(self.world)
        self.patches.__enter__()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            while self.world.running:
                self._to_the_end(self.world.running[0])
            self.world.now += PATIENCE * 2
            for request in REQUESTS:  # somebody runs it all once more, and nothing goes wrong
                self._to_the_end(self._run(request, False, "nothing"))
                self.nothing_is_paid_unasked()
            self._everything_is_listed()
        finally:
            self.patches.__exit__(None, None, None)

    # --- what happens -------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.running) < 4)
    @rule(
        request=st.sampled_from(REQUESTS),
        resubmits=st.booleans(),
        ending=st.sampled_from(["nothing", "saved", "failed", "failed, tried again"]),
        minutes=st.sampled_from([0, 0, 10, -10]),
    )
    def run(self, request: str, resubmits: bool, ending: str, minutes: int) -> None:
        self._run(request, resubmits, ending, minutes)

    @precondition(lambda self: len(self.world.running) < 4)
    @rule(
        request=st.sampled_from(REQUESTS),
        attempt=st.integers(1, 3),
        decision=st.sampled_from(["adopt", Outcome.ABANDONED, Outcome.RESUBMITTED]),
    )
    def a_person_decides(self, request: str, attempt: int, decision: str) -> None:
        key = self.world.key(request, attempt)
        self._start(Process("person", decided(self.world, key, request, decision)))

    @precondition(lambda self: self.world.running)
    @rule(number=st.integers(0, 3), fate=st.sampled_from(FATES))
    def step(self, number: int, fate: str) -> None:
        self._step(self.world.running[number % len(self.world.running)], fate)

    @precondition(lambda self: self.world.running)
    @rule(number=st.integers(0, 3), steps=st.integers(2, 6))
    def steps(self, number: int, steps: int) -> None:
        process = self.world.running[number % len(self.world.running)]
        for _ in range(steps):
            if process in self.world.running:
                self._step(process, WORKS)

    @rule()
    def time_passes(self) -> None:
        self.world.now += PATIENCE + timedelta(seconds=1)

    def _run(self, request: str, resubmits: bool, ending: str, minutes: int = 0) -> Process:
        process = Process("run", NOTHING, request, resubmits, skew=timedelta(minutes=minutes))
        order = Order(
            MODEL,
            {"prompt": request},
            scope=SCOPE,
            on_in_doubt="resubmit" if resubmits else "raise",
        )
        process.work = made(self.world, process, order, ending)
        self._start(process)
        return process

    def _start(self, process: Process) -> None:
        self.world.running.append(process)
        self._resume(process, lambda: process.work.send(None))

    def _to_the_end(self, process: Process) -> None:
        for _ in range(5_000):
            if process not in self.world.running:
                return
            self._step(process, WORKS)
        raise AssertionError(f"it never ends: {process.log[-3:]}")

    def _step(self, process: Process, fate: str) -> None:
        step, self.world.current = process.step, process
        assert step is not None
        if step.what == "sleep" and fate not in (DIES, DIES_AFTER):
            fate = WORKS
        if fate in (DIES, DIES_AFTER, TEARS):
            if fate == DIES_AFTER:
                with suppress(Exception):
                    step.do()
            elif fate == TEARS:
                step.tear()
            self._gone(process)
            return
        answer: Any = None
        try:
            if fate in (LOST, TWICE):
                with suppress(Exception):
                    step.do()
            if step.what == "POST" and fate in (REFUSED, UNDELIVERED):
                answer = RequestRejected("no") if fate == REFUSED else NeverDelivered("no way")
            elif fate == WORKS or (fate == TWICE and "Variable" in step.what):
                answer = step.do()
            else:
                raise step.trouble()
        except Exception as error:
            trouble = error
            self._resume(process, lambda: process.work.throw(trouble))
        else:
            self._resume(process, lambda: process.work.send(answer))

    def _resume(self, process: Process, go_on: Callable[[], Step]) -> None:
        self.world.current = process
        try:
            process.step = go_on()
        except StopIteration as end:
            process.result = end.value
            self._gone(process)
        except CometAPIError as error:
            process.error = error
            self._gone(process)

    def _gone(self, process: Process) -> None:
        self.world.running.remove(process)
        self.world.ended.append(process)
        process.work.close()

    # --- what must be true --------------------------------------------------------------------

    @invariant()
    def nothing_is_paid_unasked(self) -> None:
        if not hasattr(self, "world"):
            return
        for request in REQUESTS:
            posts = [post for post in self.world.posts[request] if not post.refused]
            allowed = self.world.allowed[request]
            assert len(posts) <= 1 + len(allowed), f"{request}: {posts}, allowed {allowed}"
            assert len({post.key for post in posts}) == len(posts), "an attempt was sent twice"

    @invariant()
    def what_was_accepted_is_named(self) -> None:
        if not hasattr(self, "world"):
            return
        for posts in self.world.posts.values():
            for post in posts:
                if not post.accepted:
                    continue
                record = self.world.record_at(post.key)
                assert record is not ABSENT, f"{post.accepted} is in no record"
                if record is not None and record.prediction_id:
                    assert record.prediction_id == post.accepted

    @invariant()
    def no_attempt_is_skipped_and_every_run_says_how_it_ended(self) -> None:
        if not hasattr(self, "world"):
            return
        for process in [*self.world.running, *self.world.ended]:
            for post in process.posts:
                self._came_to(process, post.key)
        for process in self.world.ended:
            if process.name == "run":
                self._ended_well(process)
        self.world.ended.clear()

    def _came_to(self, process: Process, key: str) -> None:
        attempt = next(
            number for number in range(1, 100) if self.world.key(process.request, number) == key
        )
        for earlier in range(process.done_with + 1, attempt):
            record = process.seen.get(self.world.key(process.request, earlier))
            outcome = record and record.outcome
            assert outcome is Outcome.RESUBMITTED, f"{earlier} of {attempt} was skipped"

    def _ended_well(self, process: Process) -> None:
        again = sum("sent again, once" in line for line in process.log)
        assert again <= 1 + bool(process.done_with), "once a call"
        ids = {post.accepted: post.key for post in self.world.posts[process.request]}
        unknown = [post for post in process.posts[process.settled :] if not post.refused]
        if isinstance(process.result, Prediction):
            assert ids[process.result.id] == process.result.record_key
        elif isinstance(process.error, SubmissionInDoubt):
            assert self.world.request_of[str(process.error.record_key)] == process.request
        elif isinstance(process.error, LedgerError):
            assert process.resubmits or not unknown, f"something was sent: {process.error}"
        elif process.error is not None:
            assert isinstance(process.error, RequestRejected | NeverDelivered), process.error
        if process.error is not None and unknown:
            told = [str(process.error), str(process.error.__context__), *process.log]
            for post in unknown:
                record = self.world.record_at(post.key)
                if record and record.outcome:
                    continue  # somebody else has told, and decided about it
                assert any(post.key in line or f"created {post.accepted}" in line for line in told)

    def _everything_is_listed(self) -> None:
        process = Process("lister", self.world.ledger.records(SCOPE))
        self._start(process)
        self._to_the_end(process)
        for posts in self.world.posts.values():
            assert {post.key for post in posts if post.accepted} <= set(process.result)


class OnTheServer(Machine):
    stored = False


class InAStorage(Machine):
    stored = True


HOMES = pytest.mark.parametrize("home", [OnTheServer, InAStorage])


@HOMES
def test_whatever_happens(home: type[Machine]) -> None:
    run_state_machine_as_test(home, settings=settings(stateful_step_count=40))


# --- histories that were found ----------------------------------------------------------------


@contextmanager
def history(home: type[Machine]) -> Iterator[Machine]:
    """A machine that is driven by hand, and checked at the end."""
    machine = home()
    machine.begin()
    try:
        yield machine
        machine.what_was_accepted_is_named()
        machine.no_attempt_is_skipped_and_every_run_says_how_it_ended()
    finally:
        machine.teardown()


def up_to(machine: Machine, process: Process, what: str) -> None:
    while process.step is None or not process.step.what.startswith(what):
        machine._step(process, WORKS)


@HOMES
def test_a_release_whose_answer_is_lost_leaves_the_next_claim_alone(home: type[Machine]) -> None:
    with history(home) as machine:
        first = machine._run(REQUESTS[0], False, "nothing")
        up_to(machine, first, "POST")
        machine._step(first, REFUSED)
        machine._step(first, LOST)  # the claim is gone, and first is going to delete it again
        second = machine._run(REQUESTS[0], False, "nothing")
        up_to(machine, second, "POST")
        up_to(machine, first, "delete")
        machine._step(first, WORKS)
        third = machine._run(REQUESTS[0], False, "nothing")
        machine._step(second, WORKS)
        while third in machine.world.running and third.step and third.step.what != "sleep":
            machine._step(third, WORKS)  # pays once more
        machine.nothing_is_paid_unasked()


def test_an_id_is_written_down_however_often_that_fails_at_first() -> None:
    with history(OnTheServer) as machine:
        process = machine._run(REQUESTS[0], False, "nothing")
        up_to(machine, process, "POST")
        machine._step(process, WORKS)
        for _ in range(8):
            up_to(machine, process, "update")
            machine._step(process, FAILS)
        machine._to_the_end(process)
        [post] = machine.world.posts[REQUESTS[0]]
        record = machine.world.record_at(post.key)
        assert isinstance(record, Record)
        assert record.prediction_id == post.accepted is not None


@HOMES
def test_a_doubt_stays_one_where_resubmitting_it_fails(home: type[Machine]) -> None:
    with history(home) as machine:
        process = machine._run(REQUESTS[0], True, "nothing")
        up_to(machine, process, "POST")
        machine._step(process, LOST)
        up_to(machine, process, "read")
        machine._step(process, FAILS)
        assert isinstance(process.error, SubmissionInDoubt), process.error


def test_a_claim_that_the_storage_did_not_confirm_is_taken_back() -> None:
    with history(InAStorage) as machine:
        process = machine._run(REQUESTS[0], False, "nothing")
        up_to(machine, process, "create Variable")
        up_to(machine, process, "read cometapi-ledger")
        machine._step(process, FAILS)
        while process in machine.world.running:
            machine._step(process, WORKS)
        assert isinstance(process.error, LedgerError)
        machine.time_passes()
        again = machine._run(REQUESTS[0], False, "nothing")
        machine._to_the_end(again)
        assert again.error is None, again.error


def test_a_record_that_was_deleted_meanwhile_is_written_anew() -> None:
    with history(OnTheServer) as machine:
        process = machine._run(REQUESTS[0], False, "saved")
        up_to(machine, process, "update")
        machine._step(process, WORKS)
        up_to(machine, process, "update")
        machine.world.variables.clear()
        machine._step(process, WORKS)
        machine._step(process, TWICE)
        assert isinstance(process.result, Prediction)


@HOMES
def test_a_create_that_was_refused_is_not_resubmitted(home: type[Machine]) -> None:
    with history(home) as machine:
        first = machine._run(REQUESTS[0], False, "nothing")
        up_to(machine, first, "POST")
        machine.time_passes()
        second = machine._run(REQUESTS[0], True, "nothing")
        for _ in range(1 + home.stored):
            machine._step(second, WORKS)  # it sees the claim, which looks lost
        machine._step(first, REFUSED)
        machine._to_the_end(first)
        machine._to_the_end(second)
        assert isinstance(second.result, Prediction)
        assert second.result.attempt == 1
