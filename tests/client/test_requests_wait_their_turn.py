"""Requests wait at the brake and at the gate: a 429 is for all, and only so many go at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefect_cometapi import simulator
from prefect_cometapi.errors import RateLimited
from prefect_cometapi.simulator import Simulator
from tests.servers import (
    BOAT,
    ID,
    MODEL,
    Answer,
    Request,
    client_for,
    client_of,
    configure,
    prediction,
    reply,
    serve,
)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def test_one_429_holds_back_every_other_request() -> None:
    with simulator.run(retry_after=1.0) as sim:
        client = client_of(sim)
        created = await client.acreate_prediction(MODEL, BOAT)
        sim.script("create", ["429-seconds"])
        slow = asyncio.create_task(client.acreate_prediction(MODEL, BOAT))
        await until(lambda: bool(sim.counts.by_status.get(429)))
        await client_of(sim).aget_prediction(created.id)  # another client, the same process
        await slow
        refused = next(each.time for each in sim.requests if each.status == 429)
        query = next(each.time for each in sim.requests if each.operation == "query")
        assert query - refused >= 0.95


async def test_completions_are_noticed_while_creates_are_refused_for_long() -> None:
    with simulator.run(retry_after=30.0) as sim:
        client = client_of(sim)
        created = await client.acreate_prediction(MODEL, BOAT)
        sim.script("create", ["429-seconds"])
        slow = asyncio.create_task(client.acreate_prediction(MODEL, BOAT))
        await until(lambda: bool(sim.counts.by_status.get(429)))
        async with asyncio.timeout(20):
            await client.aget_prediction(created.id)
        assert sim.counts.creates == 2
        slow.cancel()


async def test_a_429_holds_back_the_requests_that_wait_at_the_gate_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, requests_in_flight=1, reconnect_timeout=10)
    came: list[float] = []

    async def handler(_: Request) -> Answer:
        came.append(time.monotonic())
        await asyncio.sleep(0.2)
        return (
            reply({"error": "slow"}, 429, retry_after="1")
            if len(came) == 1
            else reply(prediction())
        )

    with serve(handler) as server:
        client = client_for(server.url)
        await asyncio.gather(*(client.aget_prediction(f"{ID}{n}") for n in range(4)))
    assert len(came) == 5
    assert min(came[1:]) - came[0] >= 1.0


async def test_a_429_of_one_api_does_not_hold_back_another(sim: Simulator) -> None:
    with (
        simulator.run(retry_after=30, faults={"query.429-seconds": 1.0}) as other,
        pytest.raises(RateLimited),
    ):
        await client_of(other).aget_prediction(ID)
    started = time.monotonic()
    await client_of(sim).acreate_prediction(MODEL, BOAT)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["creates", "queries"])
@pytest.mark.parametrize("room", [1, 3])
def test_the_gates_bound_the_requests_in_flight(
    room: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, requests_in_flight=room, create_timeout=20)

    async def handler(request: Request) -> Answer:
        await asyncio.sleep(0.03)
        return reply(prediction(), 201 if request.method == "POST" else 200)

    with serve(handler) as server:
        client = client_for(server.url)  # shared by threads and by their loops

        def some(_: int) -> None:
            if kind == "creates":
                client.create_prediction(MODEL, BOAT)
            else:
                asyncio.run(client.aget_prediction(ID))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(some, range(16)))
        assert server.most_under_way == room
        assert len(server.requests) == 16


async def test_waiting_at_the_gate_does_not_count_as_time_of_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, requests_in_flight=1, create_timeout=0.6)

    async def handler(_: Request) -> Answer:
        await asyncio.sleep(0.15)
        return reply(prediction(), 201)

    with serve(handler) as server:
        client = client_for(server.url)
        await asyncio.gather(*(client.acreate_prediction(MODEL, BOAT) for _ in range(8)))
        assert len(server.requests) == 8
