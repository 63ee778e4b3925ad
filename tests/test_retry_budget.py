"""An outage is not multiplied by the number of predictions that wait, and its end is soon noticed.

The client's own code runs here in virtual time, and once against a real server that is down.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_cometapi import client as client_module
from prefect_cometapi import connections as connections_module
from prefect_cometapi import exchange as exchange_module
from prefect_cometapi import lifecycle, portal
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    NeverDelivered,
    PredictionNotFound,
    RateLimited,
    RequestError,
    RequestRejected,
    UnknownOutcome,
)
from prefect_cometapi.failures import Reply, is_trouble
from prefect_cometapi.lanes import LANES
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.pacing import (
    BUDGET_BURST,
    BUDGET_PAYBACK,
    BUDGET_REFILL,
    RETRY_MAX,
    RetryBudget,
)
from prefect_cometapi.settings import CometAPISettings
from tests.servers import (
    BOAT,
    ID,
    KEY,
    MODEL,
    Answer,
    Request,
    client_for,
    closed_port,
    configure,
    prediction,
    reply,
    serve,
)

# --- the rule ---------------------------------------------------------------------------------


def taken(budget: RetryBudget, now: float) -> int:
    """How many may go at once."""
    count = 0
    while budget.take(now) == 0.0:
        count += 1
    return count


def test_a_burst_goes_at_once_and_then_one_a_second() -> None:
    budget = RetryBudget()
    assert taken(budget, 100.0) == BUDGET_BURST
    assert budget.take(100.0) == pytest.approx(1 / BUDGET_REFILL)
    assert budget.take(100.25) == pytest.approx(0.75 / BUDGET_REFILL), "a refusal takes nothing"
    assert taken(budget, 105.0) == 5 * BUDGET_REFILL
    assert taken(budget, 1e9) == BUDGET_BURST, "quiet times save up no more than a burst"


def test_each_success_lets_more_than_one_go() -> None:
    budget = RetryBudget()
    taken(budget, 0.0)
    budget.repay(0.0)
    assert taken(budget, 0.0) == BUDGET_PAYBACK > 1
    for _ in range(1000):
        budget.repay(0.0)
    assert taken(budget, 0.0) == BUDGET_BURST, "successes save up no more than a burst"


def test_a_clock_that_stands_still_or_jumps_back_gives_nothing() -> None:
    budget = RetryBudget()
    taken(budget, 100.0)
    assert taken(budget, 100.0) == taken(budget, 50.0) == 0
    assert taken(budget, 101.0) == BUDGET_REFILL


@pytest.mark.parametrize("failing", [0.0, 0.2, 0.5])
def test_it_is_not_felt_while_half_of_the_requests_succeed(failing: float) -> None:
    budget, now = RetryBudget(), 0.0
    for number in range(10_000):
        now += 0.001
        if number % 10 < failing * 10:
            assert budget.take(now) == 0.0
        else:
            budget.repay(now)


@pytest.mark.parametrize("failing", [0.9, 0.99, 1.0])
def test_where_most_fail_few_are_sent_again(failing: float) -> None:
    budget, now, again, succeeded = RetryBudget(), 0.0, 0, 0
    for number in range(10_000):
        now += 0.01
        if number % 100 < failing * 100:
            again += budget.take(now) == 0.0
        else:
            succeeded += 1
            budget.repay(now)
    assert again <= BUDGET_BURST + now * BUDGET_REFILL + succeeded * BUDGET_PAYBACK


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NeverDelivered("x"), True),
        (UnknownOutcome("x"), True),
        (RequestRejected("x"), True),  # of a query, such as a web page
        (RateLimited("x", retry_after=1), False),
        (PredictionNotFound("x"), False),
        (OSError("x"), False),
    ],
)
def test_what_takes_from_the_budget(error: Exception, expected: bool) -> None:
    assert is_trouble(error) is expected


# --- the client, in virtual time --------------------------------------------------------------


class Skipping(selectors.DefaultSelector):
    """Waits for nothing: what would be waited is added to the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is left to happen"
        self.now += timeout
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Skipping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


@dataclass
class World:
    """A service that is down from one moment to another, and what it has seen."""

    loop: VirtualTime
    down_from: float = 60.0
    down_until: float = 360.0
    refused: int = 0
    served: list[float] = field(default_factory=list)

    def client(self) -> CometAPIClient:
        return Reaching(self, CometAPISettings())


class Reaching(CometAPIClient):
    """The client itself, but for the network."""

    def __init__(self, world: World, settings: CometAPISettings) -> None:
        super().__init__("https://api.example", SecretStr(KEY), settings)
        self.world = world
        self.notify = lambda _: None

    async def _exchange(self, *_: object) -> Reply:
        world = self.world
        if world.down_from <= world.loop.time() < world.down_until:
            world.refused += 1
            await asyncio.sleep(0.01)
            raise NeverDelivered("refused")
        await asyncio.sleep(0.2)
        world.served.append(world.loop.time())
        return Reply(200, {}, b'{"id": "%s", "status": "processing"}' % ID.encode())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    loop = VirtualTime()
    for module in (client_module, connections_module, exchange_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
    return World(loop)


def run(world: World, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return world.loop.run_until_complete(work)
    finally:
        world.loop.close()


async def polls(world: World, predictions: int, *, budget: bool = True) -> float:
    """Poll as `lifecycle.wait` does; returns the seconds after the outage until all are well."""
    client, well = world.client(), dict[int, float]()

    async def poll(number: int) -> None:
        failures, again = 0, False
        await asyncio.sleep(10.0 * number / predictions)
        while number not in well:
            try:
                await client.query(ID, again=again and budget)
            except RequestError as error:
                failures, again = failures + 1, is_trouble(error)
                await asyncio.sleep(client.pause_after(error, failures))
            else:
                failures, again = 0, False
                if world.loop.time() >= world.down_until:
                    well[number] = world.loop.time()
                await asyncio.sleep(10.0)

    await asyncio.gather(*(poll(number) for number in range(predictions)))
    return max(well.values()) - world.down_until


@pytest.mark.parametrize("predictions", [1, 10, 100, 1000, 3000])
def test_an_outage_of_five_minutes(world: World, predictions: int) -> None:
    recovery = run(world, polls(world, predictions))
    outage = world.down_until - world.down_from
    again = world.refused - predictions
    assert again <= BUDGET_BURST + outage * BUDGET_REFILL + 1
    # The longest pause of those that had just failed; then what the places that there always are
    # let through at 0.2 s each. (More of them come where the machine has time to spare.)
    assert recovery <= RETRY_MAX + 5 + predictions * 0.2 / LANES
    if predictions >= 100:
        assert again >= 0.9 * outage, "the end of the outage is looked for all the time"


def test_without_it_the_outage_is_multiplied(world: World) -> None:
    run(world, polls(world, 1000, budget=False))
    assert world.refused > 15_000


def test_the_flow_doubles_when_the_service_is_back(world: World) -> None:
    run(world, polls(world, 1000))
    after = [moment - world.down_until for moment in world.served if moment >= world.down_until]
    within = [sum(moment <= seconds for moment in after) for seconds in (2, 4, 6)]
    assert within[0] >= 8
    assert within[2] >= 200, within


def test_a_process_in_which_few_fail_never_waits_for_it(world: World) -> None:
    world.down_from, world.down_until = 5.0, 6.0
    recovery = run(world, polls(world, 100))  # one second, in which ten of them ask
    assert recovery <= 10.0
    assert world.refused < 30


async def test_the_line_is_served_in_order_and_left_by_who_gives_up(world: World) -> None:
    world.loop.close()
    client, went = world.client(), list[int]()
    budget, _ = client._wires().budgets[client.api_root]
    taken(budget, 0.0)

    async def go(number: int) -> None:
        if await client._spend(0.05 if number == 1 else None):
            went.append(number)

    async def quiet() -> None:
        await asyncio.sleep(0.2)
        for _ in range(2):
            budget.repay(0.0)

    await asyncio.gather(*(go(number) for number in range(5)), quiet())
    assert went == [0, 2, 3, 4]


# --- a real server ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["query", "wait"])
def test_a_server_that_is_down_for_a_while(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, reconnect_timeout=20)
    predictions, down, started = 60, 3.0, time.monotonic()
    came: list[float] = []

    def handler(_: Request) -> Answer:
        came.append(time.monotonic() - started)
        return Answer(end="drop") if came[-1] < down else reply(prediction())

    with serve(handler) as server:
        client = client_for(server.url)
        client.notify = lambda _: None

        async def ask(number: int) -> None:
            known = Prediction(
                id=f"{ID}{number}",
                model=MODEL,
                status=PredictionStatus.STARTING,
                api_root=server.url,
                submitted_at=datetime.now(UTC) - timedelta(minutes=1),
            )
            if call == "query":
                await client.aget_prediction(known.id)
            else:
                await lifecycle.wait(client, known)

        async def ask_for_all() -> None:
            await asyncio.gather(*(ask(number) for number in range(predictions)))

        portal.call(ask_for_all)
    while_down = sum(moment < down for moment in came)
    assert predictions < while_down <= predictions + BUDGET_BURST + down * BUDGET_REFILL + 1
    assert max(came) < down + 6
    assert len(came) - while_down == predictions


@pytest.mark.parametrize("call", ["create", "query"])
def test_waiting_for_the_budget_ends_at_the_callers_deadline(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, reconnect_timeout=1.2)
    client = client_for(f"http://127.0.0.1:{closed_port()}")
    client.notify = lambda _: None

    async def spend_all() -> None:
        budget, _ = client._wires().budgets[client.api_root]
        budget.take(time.monotonic())
        budget.left = -100.0

    portal.call(spend_all)
    send = {
        "create": lambda: client.create_prediction(MODEL, BOAT),
        "query": lambda: client.get_prediction(ID),
    }
    started = time.monotonic()
    with pytest.raises(NeverDelivered, match="could not be reached"):
        send[call]()
    assert 1.0 < time.monotonic() - started < 3.0
