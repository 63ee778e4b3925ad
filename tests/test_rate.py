"""A rate learned from 429s gets nearly all that a limiter gives, with few more 429s."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.limiters import FixedWindow, Limiter, SlidingWindow, TokenBucket, too_many
from prefect_cometapi.failures import Reply, asked_wait
from prefect_cometapi.rate import MARGIN, QUIET, RECOVERY, Rate

FORMS = ["seconds", "date", "body", "text", "nothing"]


@dataclass
class World:
    """Requests that a rate lets go, at most so many at once, to a limiter."""

    limiter: Limiter
    form: str
    rate: Rate = field(default_factory=Rate)
    at_once: int = 20
    latency: tuple[float, float] = (0.05, 0.15)
    now: float = 0.0
    refused: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311

    def run(self, *, requests: float = math.inf, seconds: float = math.inf) -> World:
        """Go on until so many more were taken, or so many seconds have passed."""
        goal, end = len(self.taken) + requests, self.now + seconds
        #: When an answer comes, when its request went, and the pause that it asks for.
        answers: list[tuple[float, float, Reply | None]] = []
        while (len(self.taken) < goal or answers) and self.now < end:
            under_way = len(answers) + (0 if requests == math.inf else len(self.taken))
            wants = under_way < goal and len(answers) < self.at_once
            wait = self.rate.wait(self.now) if wants else math.inf
            if wait == 0:
                answers.append(self._send())
                heapq.heapify(answers)
                continue
            answer = answers[0][0] if answers else math.inf
            assert min(self.now + wait, answer) < math.inf, "it would never go on"
            self.now = max(self.now, min(self.now + wait, answer))
            if answer <= self.now:
                _, went, reply = heapq.heappop(answers)
                if reply is None:
                    self.rate.answered(went)
                else:
                    self.rate.refused(self.now, went, asked_wait(reply))
        return self

    def _send(self) -> tuple[float, float, Reply | None]:
        latency = self.random.uniform(*self.latency)
        went, arrives = self.rate.sent(self.now), self.now + latency / 2
        if (wait := self.limiter.ask(arrives)) > 0:
            self.refused.append(arrives)
            headers, body = too_many(self.form, wait, arrives)
            return self.now + latency, went, Reply(429, headers, body)
        self.taken.append(arrives)
        return self.now + latency, went, None


def ideal(limiter: Limiter, requests: int) -> float:
    """The seconds that they take where everybody knows the limiter."""
    now = 0.0
    for _ in range(requests):
        while (wait := limiter.ask(now)) > 0:
            now += wait
    return now


LIMITERS: dict[str, Callable[[int, float], Limiter]] = {
    "token-bucket": TokenBucket,
    "small-bucket": lambda limit, window: TokenBucket(limit, window, max(6, limit // 10)),
    "fixed-window": FixedWindow,
    "half-a-window": lambda limit, window: FixedWindow(limit, window, window / 2),
    "sliding-window": SlidingWindow,
}
#: Requests, and the most that they may take of the ideal, at each limit.
LIMITS: dict[str, tuple[int, float, int, float]] = {
    "60-a-minute": (60, 60.0, 300, 1.10),
    "600-a-minute": (600, 60.0, 2400, 1.10),
    # A window is gone before an answer has come: what is late in one is too much in the next.
    "10-a-second": (10, 1.0, 900, 1.35),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limiter", LIMITERS)
@pytest.mark.parametrize("limit", LIMITS)
def test_a_drain_takes_little_longer_than_it_must(limit: str, limiter: str, form: str) -> None:
    most, window, requests, ratio = LIMITS[limit]
    world = World(LIMITERS[limiter](most, window), form).run(requests=requests)
    assert len(world.taken) == requests
    assert world.now <= ratio * ideal(LIMITERS[limiter](most, window), requests) + 2
    late = sum(moment > 60 for moment in world.refused)
    # One that is not told when to come back has to find it out once more.
    assert late <= (0.02 if form != "nothing" else 0.04) * requests


@pytest.mark.parametrize("limiter", LIMITERS)
def test_a_limit_that_was_raised_is_found(limiter: str) -> None:
    world = World(LIMITERS[limiter](60, 60.0), "seconds").run(seconds=180)
    world.limiter = LIMITERS[limiter](600, 60.0)
    world.limiter.ask(world.now)
    world.run(seconds=420)
    before = len(world.taken)
    world.run(seconds=120)
    assert len(world.taken) - before >= 0.8 * 1200


@pytest.mark.parametrize("limiter", LIMITERS)
def test_a_limit_that_was_lowered_is_kept(limiter: str) -> None:
    world = World(LIMITERS[limiter](600, 60.0), "seconds").run(seconds=120)
    world.limiter = LIMITERS[limiter](60, 60.0)
    world.limiter.ask(world.now)
    world.run(seconds=120)
    before, refused = len(world.taken), len(world.refused)
    world.run(seconds=300)
    assert len(world.taken) - before >= 0.9 * 300
    assert len(world.refused) - refused <= 0.03 * 300


def test_there_is_no_limit_until_the_first_429() -> None:
    rate = Rate()
    for number in range(5000):
        assert rate.wait(number * 0.001) == 0
        rate.answered(rate.sent(number * 0.001))
    assert rate.quota == 0


def learned() -> Rate:
    """Ten requests were taken in ten seconds: nine at once, and the tenth was told to wait."""
    rate = Rate()
    sent = [rate.sent(0.0) for _ in range(11)]
    for each in sent[:10]:
        rate.answered(each)
    rate.refused(0.5, sent[10], 9.5)
    return rate


def test_a_429_teaches_how_many_were_taken_in_which_time() -> None:
    rate = learned()
    assert (rate.quota, rate.period, rate.windows) == (10, 10.0, True)
    assert rate.wait(0.5) == pytest.approx(10.0 / (1 - MARGIN) - 0.5)
    assert rate.speed(10.0) == pytest.approx(1 - MARGIN)
    assert rate.speed(20.0) == pytest.approx(1.0)
    assert rate.speed(10.0 + 5 * RECOVERY) > 10


def test_requests_that_are_refused_together_count_once() -> None:
    rate = Rate()
    sent = [rate.sent(0.0) for _ in range(30)]
    for each in sent[:10]:
        rate.answered(each)
    for each in sent[20:]:
        rate.refused(0.5, each, 9.5)
    learned_so_far = (rate.quota, rate.period)
    for each in sent[10:20]:
        rate.refused(0.7, each, 9.3)
    assert (rate.quota, rate.period) == learned_so_far == (10, 10.0)


def test_an_answer_that_comes_after_the_429_still_counts() -> None:
    rate = Rate()
    sent = [rate.sent(0.0) for _ in range(11)]
    for each in sent[:4]:
        rate.answered(each)
    rate.refused(0.5, sent[10], 9.5)
    for each in sent[4:10]:
        rate.answered(each)
    assert (rate.quota, rate.period) == (10, 10.0)


def test_after_a_pause_the_first_goes_alone_until_it_is_answered() -> None:
    rate = learned()
    assert rate.wait(5.0) > 0
    assert rate.wait(11.0) == 0
    first = rate.sent(11.0)
    assert rate.wait(11.1) > 0
    rate.answered(first)
    assert rate.wait(11.1) == 0


def test_a_slot_that_is_not_used_is_free_again() -> None:
    rate = learned()
    rate.answered(rate.sent(11.0))
    sent = [rate.sent(11.0) for _ in range(9)]
    assert rate.wait(11.0) > 5
    rate.unsent(sent[4])
    assert rate.wait(11.0) == 0
    rate.sent(11.0)
    assert rate.wait(11.0) > 5


def test_a_request_that_was_lost_keeps_nobody_waiting_and_counts() -> None:
    rate = learned()
    rate.lost(rate.sent(11.0))
    assert rate.wait(11.0) == 0
    for _ in range(9):
        rate.lost(rate.sent(11.0))
    assert rate.wait(11.0) > 5


def test_a_quiet_time_forgets() -> None:
    rate = learned()
    assert rate.wait(10.0 + QUIET + 0.1) == 0
    assert rate.quota == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "refused", "lost", "unsent"]),
        st.floats(0, 100),
        st.one_of(st.none(), st.floats(0, 60)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_the_wait_ends(events: list[tuple[str, float, float | None]]) -> None:
    rate, now, under_way = Rate(), 0.0, list[float]()
    for what, passed, asked in events:
        now += passed
        under_way.append(rate.sent(now))
        if what == "refused":
            rate.refused(now, under_way.pop(0), asked)
        elif len(under_way) > 3:
            getattr(rate, what)(under_way.pop(0))
        assert rate.quota >= 0
    looks = 0
    while (wait := rate.wait(now)) > 0:
        assert math.isfinite(wait)
        # A step too small for a clock of this size is none.
        now, looks = max(now + wait, math.nextafter(now, math.inf)), looks + 1
        assert looks < 2000
