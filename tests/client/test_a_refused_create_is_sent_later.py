"""A create that is refused with 429 is sent later, however many there are, and none fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import NeverDelivered, RateLimited
from prefect_cometapi.models import Prediction
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.simulator import Simulator
from tests.processes import wait_until
from tests.servers import BOAT, MODEL, client_for, client_of, closed_port, configure

#: The forms in which a 429 says when to come back.
FORMS = ["429-seconds", "429-date", "429-body", "429-text", "429-reset"]


async def plainly(post: Callable[[], Awaitable[Prediction]]) -> Prediction:
    return await post()


@pytest.mark.parametrize("form", FORMS)
async def test_a_burst_that_is_refused_is_sent_later(
    sim: Simulator, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, submit_timeout=120)
    sim.script("create", [*["ok"] * 10, *[form] * 5, *["ok"] * 10, form])
    client = client_of(sim)
    made = await asyncio.gather(*(client.acreate_prediction(MODEL, BOAT) for _ in range(30)))
    assert len({each.id for each in made}) == 30
    assert sim.counts.accepted == 30
    assert sim.counts.by_status[429] == 6


async def test_a_batch_offers_a_create_for_as_long_as_it_likes(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, submit_timeout=0.1)
    client = client_of(sim)
    sim.script("create", ["429-seconds"])
    with pytest.raises(RateLimited):
        await client.submit(MODEL, BOAT, plainly)
    sim.script("create", ["429-seconds", "429-text"])
    patient = client.settings.model_copy(update={"submit_timeout": math.inf})
    await client.telling(client.notify, patient).submit(MODEL, BOAT, plainly)
    assert sim.counts.accepted == 1


async def test_who_is_canceled_in_line_takes_no_slot_along(sim: Simulator) -> None:
    client = client_of(sim)
    sim.script("create", [*["ok"] * 3, "429-seconds"])
    tasks = [asyncio.create_task(client.acreate_prediction(MODEL, BOAT)) for _ in range(40)]
    await asyncio.to_thread(wait_until, lambda: sim.counts.by_status.get(429))
    for task in tasks[1::2]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    made = [each for each in ended if isinstance(each, Prediction)]
    assert all(isinstance(each, Prediction) for each in ended[::2])
    await client.acreate_prediction(MODEL, BOAT)
    # One that was canceled while it was sent is paid for all the same, and nobody has it.
    assert len(made) + 1 <= sim.counts.accepted <= len(tasks) + 1


@on_background_loop
async def _under_way(client: CometAPIClient) -> int:
    rates = client._wires().rates
    return sum(len(rate._open) for (root, _), (rate, _) in rates.items() if root == client.api_root)


async def test_no_slot_is_lost(sim: Simulator) -> None:
    sim.script("create", ["ok", "429-seconds", "lost", "500", "422"])
    client = client_of(sim)
    several = (client.acreate_prediction(MODEL, BOAT) for _ in range(8))
    await asyncio.gather(*several, return_exceptions=True)
    assert await _under_way(client) == 0

    async def broken(_: object) -> Prediction:
        raise OSError("The ledger can not be written.")

    with pytest.raises(OSError, match="ledger"):
        await client.submit(MODEL, BOAT, broken)
    assert await _under_way(client) == 0
    nobody = client_for(f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(NeverDelivered):
        await nobody.acreate_prediction(MODEL, BOAT)
    assert await _under_way(nobody) == 0
