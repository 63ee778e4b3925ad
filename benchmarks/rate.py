"""Creates against a limit of 60 a minute: how long they take, and how many are refused.

    python benchmarks/rate.py

The package's own client on an event loop with a clock that jumps, against limiters inside the
process; it takes seconds. See `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from unittest.mock import patch

import httpx
from pydantic import SecretStr

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import virtual_time
from benchmarks.limiters import FixedWindow, Limiter, SlidingWindow, TokenBucket, too_many
from benchmarks.tables import markdown
from prefect_cometapi import connections
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import RateLimited
from prefect_cometapi.failures import Call
from prefect_cometapi.models import Prediction
from prefect_cometapi.rate import Rate
from prefect_cometapi.settings import CometAPISettings

CREATES = 300
LIMIT, WINDOW = 60, 60.0
FORMS = ("seconds", "date", "body", "text")
#: A limiter for so many requests in so many seconds.
LIMITERS: dict[str, Callable[[int, float], Limiter]] = {
    "token bucket": TokenBucket,
    "fixed window": FixedWindow,
    "sliding window": SlidingWindow,
}
#: How long a create takes, in seconds, there and back.
LATENCY = (0.1, 0.4)
#: The drain is at most so much longer than the ideal, and of the creates at most such a share is
#: refused after the first minute.
GOAL_DRAIN, GOAL_LATE = 1.10, 0.02
#: Each cell is the median of so many runs with other latencies; without a rate, of one.
RUNS = 3


@dataclass
class Drain:
    """How it went.

    Attributes:
        seconds: From the first request to the last answer.
        failed: Creates that ended with an error.
        refused: When each 429 was sent, in seconds.
    """

    seconds: float = 0.0
    failed: int = 0
    refused: list[float] = field(default_factory=list)

    @property
    def late(self) -> int:
        """How many were refused after the first minute."""
        return sum(moment > 60 for moment in self.refused)


@dataclass
class Row:
    """One cell of the table.

    Attributes:
        limiter: What the service counts with.
        form: How its 429s say when to come back.
        how: What waits for it.
        ideal: Seconds that the creates take where none is ever refused.
        seconds: Seconds that they took.
        failed: How many ended with an error, in the worst run.
        refused: How many 429s there were.
        late: Those after the first minute, as a share of the creates.
    """

    limiter: str
    form: str
    how: str
    ideal: float
    seconds: float
    failed: int
    refused: float
    late: float

    @property
    def ratio(self) -> float:
        """How much longer than the ideal."""
        return self.seconds / self.ideal

    @property
    def good(self) -> bool:
        """Whether the goal was reached."""
        return self.ratio <= GOAL_DRAIN and self.failed == 0 and self.late <= GOAL_LATE


class Service:
    """Takes creates as a limiter lets it.

    Args:
        limiter: The limiter.
        form: How a 429 says when to come back; None for an oracle, which lets a request wait until
            the limiter takes it.
        seed: For the latencies.
    """

    def __init__(self, limiter: Limiter, form: str | None, seed: int) -> None:
        self.limiter, self.form = limiter, form
        self.taken, self.refused = 0, list[float]()
        self._random = Random(seed)  # noqa: S311 - latencies

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """In place of a connection."""
        clock, latency = asyncio.get_running_loop().time, self._random.uniform(*LATENCY)
        await asyncio.sleep(latency / 2)
        wait = self.limiter.ask(now := clock())
        while wait > 0 and self.form is None:
            await asyncio.sleep(wait)
            wait = self.limiter.ask(now := clock())
        if wait > 0 and self.form is not None:
            self.refused.append(now)
            headers, body = too_many(self.form, wait, now)
            reply = httpx.Response(429, headers=headers, content=body)
        else:
            self.taken += 1
            value = {"id": f"prediction{self.taken:016}", "status": "starting"}
            reply = httpx.Response(201, json=value)
        await asyncio.sleep(latency / 2)
        return reply


class NoRate(Rate):
    """Learns nothing."""

    def refused(self, now: float, sent_at: float, asked: float | None) -> None:
        """Forget it."""
        self.unsent(sent_at)


@asynccontextmanager
async def turn_without_rate(
    wires: connections.Connections, api_root: str, call: Call
) -> AsyncGenerator[connections.Turn]:
    """Wait for the pause that the last 429 asked for, everybody alike.

    That is what a client can do that learns nothing, and what this one did before it had a rate.
    """
    brake, rate = wires.brakes[api_root, call], wires.rates[api_root, call][0]
    clock = asyncio.get_running_loop().time
    while True:
        while (wait := brake.wait(clock())) > 0:  # noqa: ASYNC110 - time is the event
            await asyncio.sleep(wait * _random.uniform(1.0, 1.1))
        http = await wires.creates.enter()
        try:
            if brake.wait(clock()) == 0:
                yield connections.Turn(http, rate, rate.sent(clock()))
                return
        finally:
            wires.creates.leave(http)


_random = Random(1)  # noqa: S311 - spreads requests out

OURS = "the rate"
HOW: dict[str, type[Rate]] = {OURS: Rate, "each pause": NoRate}


def drain(
    limiter: Limiter,
    form: str | None,
    *,
    creates: int = CREATES,
    seed: int = 1,
    rate: type[Rate] = Rate,
) -> Drain:
    """Create so many predictions, all asked for at once.

    Args:
        limiter: What the service allows.
        form: See `Service`.
        creates: How many.
        seed: For the latencies.
        rate: What learns.
    """
    service = Service(limiter, form, seed)
    patience = 0.0 if rate is NoRate else math.inf
    settings = CometAPISettings(create_timeout=3600)  # the oracle takes its time
    client = CometAPIClient(
        "https://api.example.com",
        SecretStr("sk-0123456789abcdef"),
        settings.model_copy(update={"submit_timeout": patience}),
    )
    client.notify = lambda _: None

    async def plainly(post: Callable[[], Awaitable[Prediction]]) -> Prediction:
        return await post()

    async def create(order: dict[str, str]) -> Prediction:
        for failures in itertools.count(1):
            try:
                return await client.submit("owner/name", order, plainly)
            except RateLimited as error:
                if rate is not NoRate:
                    raise
                await asyncio.sleep(client.pause_after(error, failures))
        raise AssertionError

    async def all_of_them() -> list[Prediction | BaseException]:
        orders = ({"prompt": str(number)} for number in range(creates))
        return await asyncio.gather(*map(create, orders), return_exceptions=True)

    with ExitStack() as stack:
        replace = stack.enter_context
        replace(patch.object(httpx.AsyncHTTPTransport, "handle_async_request", service.answer))
        if rate is NoRate:
            replace(patch.object(connections, "Rate", NoRate))
            replace(patch.object(connections.Connections, "turn", turn_without_rate))
        done, seconds = virtual_time.run(all_of_them())
    failed = sum(isinstance(each, BaseException) for each in done)
    return Drain(seconds, failed, service.refused)


def rows(creates: int = CREATES, limit: int = LIMIT, window: float = WINDOW) -> list[Row]:
    """Every limiter with every form of 429; the medians of some runs."""
    found = []
    for name, limiter in LIMITERS.items():

        def runs(form: str | None, rate: type[Rate] = Rate) -> list[Drain]:
            return [
                drain(limiter(limit, window), form, creates=creates, seed=seed, rate=rate)  # noqa: B023 - called at once
                for seed in range(RUNS if rate is Rate else 1)
            ]

        ideal = statistics.median(each.seconds for each in runs(None))
        for form in FORMS:
            for how, kind in HOW.items():
                drains = runs(form, kind)
                found.append(
                    Row(
                        limiter=name,
                        form=form,
                        how=how,
                        ideal=ideal,
                        seconds=statistics.median(each.seconds for each in drains),
                        failed=max(each.failed for each in drains),
                        refused=statistics.median(len(each.refused) for each in drains),
                        late=statistics.median(each.late for each in drains) / creates,
                    )
                )
    return found


def table(found: Sequence[Row]) -> str:
    """The rows, as Markdown."""
    return markdown(
        ["limiter", "429 as", "what waits", "drain", "÷ ideal", "failed", "429s", "after a minute"],
        [
            [
                *(row.limiter, row.form, row.how, f"{row.seconds:.0f} s"),
                *(f"{row.ratio:.2f}", row.failed, f"{row.refused:.0f}", f"{row.late:.1%}"),
            ]
            for row in found
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 where the goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write what was measured there")
    options = parser.parse_args(arguments)
    found = rows()
    print(table(found))
    if options.json:
        value = [asdict(row) | {"ratio": row.ratio} for row in found]
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    missed = [row for row in found if row.how == OURS and not row.good]
    print("The goal was missed." if missed else "The goal was reached everywhere.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
