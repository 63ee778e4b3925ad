"""Three ways in which services limit requests, and the forms in which they say so.

Models of other people's servers: time comes in as an argument, in seconds from the first request.
"""

from __future__ import annotations

import json
import math
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Protocol

#: Seconds that are no time at all: sums of fractions never quite get there.
SOON = 1e-6


class Limiter(Protocol):
    """Takes a request, or says in how many seconds it takes the next one."""

    def ask(self, now: float) -> float:
        """0.0 where a request is taken, else the seconds until one would be."""
        ...


class TokenBucket:
    """Tokens drip in at `limit` in `window` seconds; at most `burst` are kept."""

    def __init__(self, limit: int, window: float, burst: int | None = None) -> None:
        self.pace, self.burst = limit / window, float(burst or limit)
        self.tokens, self.updated = self.burst, 0.0

    def ask(self, now: float) -> float:
        """See `Limiter`."""
        self.tokens = min(self.burst, self.tokens + (now - self.updated) * self.pace)
        self.updated = now
        if self.tokens < 1 - SOON * self.pace:
            return (1 - self.tokens) / self.pace
        self.tokens -= 1
        return 0.0


class FixedWindow:
    """`limit` requests in each window of the service's clock; `passed` of the first is over."""

    def __init__(self, limit: int, window: float, passed: float = 0.0) -> None:
        self.limit, self.window, self.passed = limit, window, passed
        self.number, self.taken = 0, 0

    def ask(self, now: float) -> float:
        """See `Limiter`."""
        number = math.floor((now + self.passed) / self.window)
        if number != self.number:
            self.number, self.taken = number, 0
        if self.taken >= self.limit:
            return max(SOON, (number + 1) * self.window - now - self.passed)
        self.taken += 1
        return 0.0


class SlidingWindow:
    """`limit` requests in any `window` seconds."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit, self.window = limit, window
        self.taken: deque[float] = deque()

    def ask(self, now: float) -> float:
        """See `Limiter`."""
        while self.taken and self.taken[0] + self.window - now < SOON:
            self.taken.popleft()
        if len(self.taken) >= self.limit:
            return self.taken[0] + self.window - now
        self.taken.append(now)
        return 0.0


#: The moment at which virtual time begins, by the service's clock.
EPOCH = datetime(2026, 3, 2, 9, 0, 0, 400_000, UTC)


def too_many(form: str, wait: float, now: float) -> tuple[dict[str, str], bytes]:
    """Headers and body of a 429, as services write them: in whole seconds, rounded up.

    Args:
        form: "seconds", "date", "body", "text" or "nothing".
        wait: Seconds until the next request would be taken.
        now: Seconds since `EPOCH`.
    """
    clock = EPOCH + timedelta(seconds=now)
    headers = {"date": format_datetime(clock, usegmt=True), "content-type": "application/json"}
    body: dict[str, object] = {"detail": "Request was throttled."}
    seconds = max(1, math.ceil(wait - SOON))
    match form:
        case "seconds":
            headers["retry-after"] = str(seconds)
        case "date":
            then = clock + timedelta(seconds=wait)
            then += timedelta(seconds=1) if then.microsecond else timedelta()
            headers["retry-after"] = format_datetime(then, usegmt=True)
        case "body":
            body |= {"status": 429, "retry_after": seconds}
        case "text":
            body["detail"] = f"Request was throttled. Your rate limit resets in ~{seconds}s."
        case "nothing":
            pass
        case _:
            raise ValueError(f"There is no form {form!r}.")
    return headers, json.dumps(body).encode()
