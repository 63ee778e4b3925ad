"""A rate of requests that is learned from the 429s, kept just below them, and tried again upwards.

Pure: times come in as arguments, of any monotonic clock, in seconds.

A service may count its requests in windows, or hand out tokens, and says neither. What a 429 does
tell is how many requests it took, and in which time: until it takes the next one. As many in the
same time is what `Rate` then allows. Where that next one is far off, requests are counted in
windows, and go at once when one opens; else they go one after the other.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

#: How far below what a 429 taught the rate begins: a clock that is a little off must not bring the
#: next 429, and the requests of a minute take three seconds more.
MARGIN = 0.05
#: Seconds after which the rate is back at what was learned: one 429 in two minutes or so, which at
#: 60 requests a minute is less than one in fifty.
RECOVERY = 60.0
#: It is back earlier after so many requests: more 429s are cheap where there are many requests.
RECOVERY_REQUESTS = 200
#: It is back not sooner, in seconds. What was learned in a moment may be far too low and is tried
#: again as quickly, but every correction costs a 429.
RECOVERY_LEAST = 1.0
#: A pause in which as many requests would go means windows: a bucket asks for the time of one, or
#: of two where it rounds.
WINDOW = 4.0
#: And of so many seconds: in shorter windows it costs nothing to go one after the other.
WINDOW_LEAST = 5.0
#: The last seconds to learn from: limits are made by the second or by the minute.
MEMORY = 60.0
#: Of fewer requests nothing is learned from how they lie in that time: one more is chance.
ENOUGH = 10
#: The most requests that are remembered; where they are sent in less than `MEMORY`, they will do.
MOST = 1000
#: Seconds without a request after which everything is forgotten: windows of a minute have been
#: empty for long, and the limit may be another.
QUIET = 300.0
#: How long a pause is where the service names no time: at least so many seconds, and this share of
#: the time in which it has taken nothing, so that the end is found late by that share at most.
BLIND = 1.0
BLIND_SHARE = 0.0625
#: How long, in seconds, the first request after a pause goes alone at most: until its answer, which
#: saves all the others a 429.
ALONE = 2.0
#: How often, in seconds, to look whether it has been answered; also the shortest pause.
LOOK = 0.1
#: Requests that come late by so many seconds are caught up with: timers are not exact.
SLACK = 0.1


@dataclass(frozen=True)
class _Lesson:
    """What a 429 taught.

    Attributes:
        quota: How many requests were taken; 0 where nothing is known.
        since: Since when.
        shut: When the first was refused.
        windows: Whether requests are counted in windows.
    """

    quota: int = 0
    since: float = -math.inf
    shut: float = -math.inf
    windows: bool = False


@dataclass
class Rate:
    """At most so many requests in so many seconds; without a limit until the first 429.

    Attributes:
        quota: How many requests; 0 while there is no limit.
        period: In how many seconds.
        windows: Whether they may go at once, or else one after the other.
    """

    quota: int = 0
    period: float = 0.0
    windows: bool = False
    #: When requests went, the refused ones taken out; and those of them without an answer yet.
    _sent: deque[float] = field(default_factory=lambda: deque(maxlen=MOST))
    _open: set[float] = field(default_factory=set)
    #: The last 429 that counts: when it came, whether it met the request that went alone, how many
    #: requests had been taken since when, and how many of them in the latter half of that time.
    _changed: float = -math.inf
    _early: bool = False
    _taken: int = 0
    _latter: int = 0
    _start: float = -math.inf
    #: What was known before it.
    _before: _Lesson = _Lesson()
    #: Where the time ends that was learned from, and when the service takes requests again.
    _end: float = -math.inf
    _opens: float = -math.inf
    #: Where requests go one after the other: when it is time for the next.
    _next: float = -math.inf
    #: Whether the next request has been held back, and which one goes alone until it is answered.
    _held: bool = False
    _alone: float | None = None
    #: What is known now.
    _lesson: _Lesson = _Lesson()

    def wait(self, now: float) -> float:
        """Seconds until the next request may go, or until the next look."""
        if not self.quota:
            return 0.0
        if now - max(self._opens, self._sent[-1] if self._sent else -math.inf) > QUIET:
            self.quota, self._alone, self._lesson = 0, None, _Lesson()
            return 0.0
        wait = self._opens - now
        if not self.windows:
            wait = max(wait, self._next - now)
        elif len(self._sent) >= self.quota:
            wait = max(wait, self._sent[-self.quota] + self.period / self.speed(now) - now)
        self._held = self._held or wait > 0
        if self._alone is not None:
            wait = max(wait, min(self._alone + ALONE - now, LOOK))
        return max(0.0, wait)

    def speed(self, now: float) -> float:
        """The rate as a share of what was learned.

        It is regained quickly, kept for long and then passed ever faster, as TCP CUBIC does: the
        429s come rarely, and a limit that was raised tenfold is found within seven minutes.
        """
        recovery = min(self.period, RECOVERY, RECOVERY_REQUESTS * self.period / self.quota)
        passed = max(0.0, now - self._opens) / max(recovery, RECOVERY_LEAST)
        return 1.0 + MARGIN * (passed - 1.0) ** 3

    def sent(self, now: float) -> float:
        """A request goes; returns the moment by which it is known from now on."""
        last = self._sent[-1] if self._sent else self._changed
        now = max(now, math.nextafter(last, math.inf))  # each has its own
        if self.quota:
            spacing = self.period / self.quota
            self._next = max(self._next, now - SLACK) + spacing / self.speed(now)
            if self.windows and self._held and now - last > 2 * spacing:
                self._alone = now
            self._held = False
        self._sent.append(now)
        self._open.add(now)
        return now

    def answered(self, sent_at: float) -> None:
        """The service took the request that went at `sent_at`."""
        if sent_at in self._open and self._start <= sent_at <= self._changed:
            self._taken += 1  # it belongs to what was learned last
            self._latter += sent_at >= (self._start + self._changed) / 2
            self._learn()
        self.lost(sent_at)

    def lost(self, sent_at: float) -> None:
        """Nobody knows what became of the request: it counts, and nobody waits for it."""
        self._open.discard(sent_at)
        if self._alone is not None and sent_at >= self._alone:
            self._alone = None

    def unsent(self, sent_at: float) -> None:
        """The request did not go after all."""
        if sent_at in self._open and sent_at in self._sent:
            self._sent.remove(sent_at)
        self.lost(sent_at)

    def refused(self, now: float, sent_at: float, asked: float | None) -> None:
        """The service refused a request with a 429.

        Args:
            now: When its answer came.
            sent_at: When it went.
            asked: Seconds that the service asked to wait; None where it named no time.
        """
        early = sent_at == self._alone
        self.unsent(sent_at)
        if sent_at <= self._changed:
            return  # several that went together are one event
        self._before = self._lesson
        self._start = max(self._end, now - MEMORY)
        if len(self._sent) == MOST:
            self._start = max(self._start, self._sent[0])
        went = [each for each in self._sent if each >= self._start]
        if self._start != self._end:
            self._start = min([*went, now])
        taken = [each for each in went if each not in self._open]
        self._taken = len(taken)
        self._latter = sum(each >= (self._start + now) / 2 for each in taken)
        self._changed, self._early = now, early
        vain = bool(self._before.quota) and not self._taken
        guess = BLIND_SHARE * (now - self._before.shut) if vain else 0.0
        if asked is None:
            asked = max(BLIND, guess)
        elif vain:  # it came when it had been told to
            asked = max(asked, min(BLIND, guess))
        self._opens = self._next = now + max(asked, LOOK)
        self._learn()

    def _learn(self) -> None:
        """What was taken in which time. An answer that comes late may still change it."""
        if self._taken:
            lesson = _Lesson(self._taken, self._start, self._changed, self._early)
        elif self._before.quota:
            lesson = self._before  # it took as long as this for as many
        else:
            lesson = _Lesson(1, self._changed, self._changed)
        spacing = (self._opens - lesson.since) / lesson.quota
        long = self._opens - lesson.shut > max(WINDOW * spacing, WINDOW_LEAST)
        self.quota, self.windows = lesson.quota, lesson.windows or long
        self._end = self._opens
        if not self.windows:
            # What it asks for in whole seconds may be less.
            self._end = min(self._end, self._changed + spacing)
            # While the rate grows, most go in the latter half of the time.
            if self._latter >= ENOUGH:
                self.quota = max(self.quota, 2 * self._latter)
        self.period = max(self._end - lesson.since, 0.001)
        self._lesson = _Lesson(lesson.quota, lesson.since, lesson.shut, self.windows)
