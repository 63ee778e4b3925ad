"""Processes that share a global concurrency limit of Prefect stay within it together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import count

import httpx
import pytest
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate as Update

from prefect_cometapi import limits, portal, prefect_api, simulator
from prefect_cometapi.errors import ConfigurationError, InvalidInput
from prefect_cometapi.limits import Limit, open_limit
from prefect_cometapi.prefect_api import ask
from tests.processes import answers, started, with_key

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

_numbers = count(1)


def make(slots: int, decay: float, *, active: bool = True) -> str:
    """Create a limit; returns its name."""
    name = f"limit-{next(_numbers)}"
    new = GlobalConcurrencyLimitCreate(
        name=name, limit=slots, slot_decay_per_second=decay, active=active
    )

    async def create() -> None:
        await ask(lambda client: client.create_global_concurrency_limit(new))

    portal.call(create)
    return name


def change(name: str, **fields: object) -> None:
    update = Update.model_validate(fields)

    async def send() -> None:
        await ask(lambda client: client.update_global_concurrency_limit(name, update))

    portal.call(send)


def delete(name: str) -> None:
    async def send() -> None:
        await ask(lambda client: client.delete_global_concurrency_limit_by_name(name))

    portal.call(send)


async def several(limit: Limit, number: int) -> None:
    async def take() -> None:
        await asyncio.gather(*(limit.take() for _ in range(number)))

    await portal.acall(take)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that were asked for."""
    asked: list[int] = []
    ask_for = Limit._ask_for

    async def noted(self: Limit, size: int) -> float | None:
        asked.append(size)
        return await ask_for(self, size)

    monkeypatch.setattr(Limit, "_ask_for", noted)
    return asked


SHARING = """
import asyncio, json, sys
from prefect_cometapi import CometAPICredentials, portal
from prefect_cometapi.limits import open_limit

async def main(name, creates):
    client, limit = CometAPICredentials.from_env().get_client(), await open_limit(name)

    async def one():
        await limit.take()
        await client.acreate_prediction("black-forest-labs/flux-schnell", {"prompt": "A boat"})

    await asyncio.gather(*(one() for _ in range(creates)))

portal.call(main, *map(json.loads, sys.argv[1:]))
"""


def test_two_processes_stay_within_the_limit(prefect_environment: dict[str, str]) -> None:
    slots, decay, creates = 6, 4.0, 20
    name = make(slots, decay)
    with simulator.run() as sim:
        env = with_key(prefect_environment, sim)
        with (
            started(SHARING, name, creates, env=env) as one,
            started(SHARING, name, creates, env=env) as other,
        ):
            answers(one), answers(other)
        came = sorted(each.time for each in sim.requests if each.operation == "create")
    assert len(came) == 2 * creates
    for first in range(len(came)):
        for last in range(first, len(came)):
            # What is given in one second may arrive in the next.
            allowed = slots + decay * (came[last] - came[first] + 1.0)
            assert last - first + 1 <= allowed + 1


async def test_slots_come_in_blocks(blocks: list[int]) -> None:
    limit = await open_limit(make(100, 20.0))
    await several(limit, 50)
    assert blocks == [20, 20, 10]
    await several(limit, 1)
    assert blocks == [20, 20, 10, 1]


async def test_a_block_is_at_most_the_limit_and_what_is_wanted(blocks: list[int]) -> None:
    await several(await open_limit(make(3, 1000.0)), 7)
    assert blocks[:2] == [3, 3]
    assert max(blocks) == 3


async def test_a_slow_limit_gives_one_by_one(blocks: list[int]) -> None:
    await several(await open_limit(make(5, 0.001)), 5)
    assert blocks == [1] * 5


async def test_whoever_is_canceled_takes_none() -> None:
    limit = await open_limit(make(2, 0.001))

    async def race() -> None:
        await limit.take()
        first, second = asyncio.create_task(limit.take()), asyncio.create_task(limit.take())
        await first
        third = asyncio.create_task(limit.take())
        await asyncio.sleep(0.3)
        assert not second.done()
        assert not third.done()
        second.cancel()
        third.cancel()
        await asyncio.gather(second, third, return_exceptions=True)
        assert limit._waiting == 0

    await portal.acall(race)
    change(limit.name, limit=3)
    await open_limit(limit.name)
    await several(limit, 1)


async def test_it_is_one_in_the_process() -> None:
    name = make(1, 1.0)
    assert await open_limit(name) is await open_limit(name)


async def test_a_limit_that_is_not_there_says_how_to_create_it() -> None:
    with pytest.raises(ConfigurationError, match="prefect gcl create nobody --limit 60 --slot-dec"):
        await open_limit("nobody")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ((5, 0.0, True), "prefect gcl update limit-.* --limit 60 --slot-decay-per-second 1"),
        ((0, 1.0, True), "prefect gcl update"),
        ((5, 1.0, False), "prefect gcl enable limit-"),
    ],
)
async def test_a_limit_that_is_no_rate_says_what_to_do(
    fields: tuple[int, float, bool], says: str
) -> None:
    slots, decay, active = fields
    with pytest.raises(ConfigurationError, match=says) as caught:
        await open_limit(make(slots, decay, active=active))
    assert "Nothing was sent." in str(caught.value)


@pytest.mark.parametrize("name", ["", "  ", None, 5])
async def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match="Nothing was sent"):
        await open_limit(name)  # type: ignore[arg-type]


async def test_a_limit_that_was_deleted_in_the_meantime_is_an_error() -> None:
    limit = await open_limit(make(5, 1.0))
    delete(limit.name)
    with pytest.raises(ConfigurationError, match="prefect gcl create"):
        await limit.take()


async def test_a_limit_that_was_lowered_in_the_meantime_is_kept(blocks: list[int]) -> None:
    limit = await open_limit(make(50, 50.0))
    change(limit.name, limit=5)
    await several(limit, 10)
    assert limit.slots == 5
    assert blocks[0] == 10
    assert max(blocks[1:]) == 5


async def test_a_server_that_is_away_is_asked_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = await open_limit(make(5, 1.0))
    away = True

    async def unless_away(*args: object, **named: object) -> object:
        if away:
            raise httpx.ConnectError("Nobody is there.")
        return await ask(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(limits, "ask", unless_away)
    monkeypatch.setattr(limits, "AWAY_FIRST", 0.01)
    with caplog.at_level(logging.WARNING, "prefect_cometapi"):
        waiting = asyncio.create_task(portal.acall(limit.take))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        away = False
        await waiting
    assert [record for record in caplog.messages if "is asked until it answers" in record]
    away = True
    with suppress(asyncio.CancelledError):
        limit._left = 0
        waiting = asyncio.create_task(portal.acall(limit.take))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await waiting
    assert limit._waiting == 0


async def test_a_server_that_can_not_be_asked_at_first_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nobody() -> None:
        raise httpx.ConnectError("Nobody is there.")

    monkeypatch.setattr(prefect_api, "_client", nobody)
    with pytest.raises(ConfigurationError, match=r"PREFECT_API_URL\. Nothing was sent"):
        await open_limit("cometapi")
