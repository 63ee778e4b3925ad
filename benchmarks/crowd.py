"""Many who wait for predictions in one process, on a clock of their own: the real rules, no I/O."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from itertools import count
from random import Random

from prefect_cometapi.learning import CHANGE, RunTimes, Turn
from prefect_cometapi.pace import crowded

#: Seconds of CPU that a poll takes, and that its reply is on its way.
CPU, REPLY = 0.001, 0.005


@dataclass(frozen=True)
class Crowd:
    """Predictions of one model.

    Args:
        name: For the table.
        number: How many.
        middle: Their median run time in seconds.
        spread: The deviation of its logarithm.
        known: How many run times are known from before.
        begin: Seconds in which the first are created.
        in_flight: How many are under way at once; 0 for all.
    """

    name: str
    number: int
    middle: float
    spread: float = 0.2
    known: int = 0
    begin: float = 2.0
    in_flight: int = 0


class _Process:
    """What `tempo` does, with a heap for an event loop."""

    def __init__(self, crowd: Crowd, seed: int) -> None:
        self.random = Random(f"{crowd} {seed}")  # noqa: S311
        take = [crowd.middle * math.exp(self.random.gauss(0, crowd.spread)) for _ in range(10_000)]
        self.take = take[: crowd.number]
        self.run_times = RunTimes()
        if crowd.known:
            self.run_times.remember(self.random.sample(take, crowd.known))
        self.first = min(crowd.in_flight or crowd.number, crowd.number)
        self.begin = crowd.begin
        self.created: dict[int, float] = {}
        self.turns: dict[int, Turn] = {}
        #: Those that are asleep, by when they wake; others wait for a reply.
        self.asleep: dict[int, float] = {}
        self.planned = 0
        self.events: list[tuple[float, int, str, int]] = []
        self.order = count()
        self.free = 0.0  # when the CPU is
        self.polls, self.seconds = 0, Counter[int]()
        self.late: list[float] = []
        self.now = 0.0

    def at(self, time: float, what: str, who: int) -> None:
        heapq.heappush(self.events, (time, next(self.order), what, who))

    def plan(self, who: int) -> float:
        age = self.now - self.created[who]
        pause = crowded(len(self.turns), len(self.turns), 1)
        due = self.created[who] + self.turns[who].due(age, self.run_times.pace, pause)
        self.asleep[who] = max(due, self.now)
        self.at(self.asleep[who], "wakes", who)
        return due

    def run(self) -> None:
        for who in range(self.first):
            self.at(self.begin * who / self.first, "begins", who)
        while self.events:
            self.now, _, what, who = heapq.heappop(self.events)
            if what == "begins":
                self.created[who] = self.now
                self.turns[who] = Turn(0.0, self.random)
                self.run_times.began(who)
                self.planned = max(self.planned, len(self.turns))
                self.plan(who)
            elif what == "reply":
                self.reply(who)
            elif self.asleep.get(who) == self.now and self.plan(who) <= self.now + 0.005:
                del self.asleep[who]
                self.poll(who)

    def poll(self, who: int) -> None:
        start = max(self.now, self.free)
        self.free = start + CPU
        self.polls += 1
        self.seconds[int(start)] += 1
        self.at(self.free + REPLY, "reply", who)

    def reply(self, who: int) -> None:
        age = self.now - self.created[who]
        if age - REPLY / 2 < self.take[who]:
            self.turns[who].polled(age)
            self.run_times.runs(who, age - REPLY - CPU)
            self.plan(who)
            return
        self.late.append(age - self.take[who])
        del self.turns[who]
        learned = self.run_times.ended(who, self.take[who])
        if learned or len(self.turns) < (1 - CHANGE) * self.planned:
            self.planned = len(self.turns)
            for each in list(self.asleep):
                self.plan(each)
        if len(self.created) < len(self.take):
            self.at(self.now, "begins", len(self.created))


def crowd(each: Crowd, seed: int) -> dict[str, float]:
    """What a crowd costs, and how late it is."""
    process = _Process(each, seed)
    process.run()
    late = sorted(process.late)
    longest = max(process.created[who] + take for who, take in enumerate(process.take))
    return {
        "polls": process.polls / each.number,
        "late": late[len(late) // 2],
        "p95": late[int(len(late) * 0.95)],
        "share": sum(late) / sum(process.take),
        "peak": float(max(process.seconds.values())),
        "wall": process.now / longest,
    }
