"""A poll that hangs while others are answered is asked again soon, then with all its patience."""

from __future__ import annotations

import asyncio
import time

import pytest

from prefect_cometapi import lifecycle
from prefect_cometapi.pacing import HANGS_LEAST
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
    reply,
    serve,
)
from tests.servers import prediction as shape


async def test_a_poll_that_hangs_costs_its_prediction_two_seconds(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, query_timeout=60)
    client = client_of(sim)
    await client.aget_prediction((await client.acreate_prediction(MODEL, BOAT)).id)
    made = await client.acreate_prediction(MODEL, BOAT)
    sim.script("query", ["hang"])
    began = time.monotonic()
    await lifecycle.wait(client, made, timeout=100)
    assert HANGS_LEAST <= time.monotonic() - began < 30


async def test_a_reply_that_takes_long_arrives_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, query_timeout=20)
    asked = 0

    async def handler(request: Request) -> Answer:
        nonlocal asked
        if request.method == "POST":
            return reply(shape(status="starting"), 201)
        asked += 1
        if asked > 1:
            await asyncio.sleep(HANGS_LEAST + 1)
        return reply(shape(status="succeeded" if asked > 1 else "processing"))

    with serve(handler) as server:
        client = client_for(server.url)
        made = await client.acreate_prediction(MODEL, BOAT)
        done = await lifecycle.wait(client, made, timeout=60)
    assert (done.id, done.status) == (ID, "succeeded")
    assert asked == 3, "the first that took long was given up, the second was not"
