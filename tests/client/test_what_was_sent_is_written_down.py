"""Whoever surrounds a create with steps of its own sees them through, even when it is canceled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from prefect_cometapi import portal
from prefect_cometapi.models import Prediction
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

Post = Callable[[], Awaitable[Prediction]]


async def test_around_may_write_down_what_happens_before_and_after(sim: Simulator) -> None:
    steps: list[str] = []

    async def around(post: Post) -> Prediction:
        steps.append(f"before {sim.counts.creates}")
        created = await post()
        steps.append(f"after {sim.counts.creates}")
        return created

    created = await client_of(sim).submit(MODEL, BOAT, around)
    assert created.id in sim.predictions
    assert steps == ["before 0", "after 1"]


@pytest.mark.parametrize("how", ["async", "on the background loop", "time-out"])
async def test_a_cancellation_in_the_middle_of_a_create_still_completes_around(how: str) -> None:
    arrived, written = threading.Event(), list[str]()

    async def handler(_: Request) -> Answer:
        arrived.set()
        await asyncio.sleep(0.5)
        return reply(prediction(status="starting"), 201)

    async def around(post: Post) -> Prediction:
        created = await post()
        await asyncio.sleep(0.2)
        written.append(created.id)
        return created

    with serve(handler) as server:
        client = client_for(server.url)

        async def create() -> object:
            if how == "time-out":
                async with asyncio.timeout(0.3):
                    return await client.submit(MODEL, BOAT, around)
            return await client.submit(MODEL, BOAT, around)

        task = asyncio.create_task(
            portal.acall(create) if how == "on the background loop" else create()
        )
        await asyncio.to_thread(arrived.wait, 5)
        if how != "time-out":
            task.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await task
        assert written == [ID]
        assert len(server.requests) == 1


async def test_a_cancellation_before_the_create_is_sent_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, requests_in_flight=1)
    posted = asyncio.Event()

    async def handler(_: Request) -> Answer:
        await asyncio.sleep(0.4)
        return reply(prediction(), 201)

    async def around(post: Post) -> Prediction:
        posted.set()
        return await post()

    with serve(handler) as server:
        client = client_for(server.url)
        first = asyncio.create_task(client.acreate_prediction(MODEL, BOAT))
        await asyncio.sleep(0.15)
        second = asyncio.create_task(client.submit(MODEL, BOAT, around))
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        await asyncio.sleep(0.1)
        assert not posted.is_set()
        assert len(server.requests) == 1
