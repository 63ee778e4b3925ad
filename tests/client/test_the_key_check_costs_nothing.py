"""The key check tells a good key from all else, and spends nothing."""

from __future__ import annotations

import time

import pytest

from prefect_cometapi.errors import AccountError, NeverDelivered, RequestRejected, UnknownOutcome
from prefect_cometapi.simulator import Simulator
from tests.servers import Answer, client_for, client_of, closed_port, configure, reply, serve


async def test_a_good_key_passes_the_check_and_costs_nothing(sim: Simulator) -> None:
    await client_of(sim).acheck_key()
    assert sim.counts.creates == 0


@pytest.mark.parametrize("status", [400, 404])
async def test_a_gateway_that_refuses_the_made_up_id_has_taken_the_key(status: int) -> None:
    with serve(lambda _: reply({"error": "no such thing"}, status)) as server:
        await client_for(server.url).acheck_key()


async def test_a_bad_key_fails_the_check(sim: Simulator) -> None:
    with pytest.raises(AccountError, match="missing or wrong"):
        await client_for(sim.url, "sk-another").acheck_key()


@pytest.mark.parametrize("status", [200, 404])
async def test_a_web_page_fails_the_check(status: int) -> None:
    page = Answer(status, b"<!doctype html><html></html>", {"content-type": "text/html"})
    with serve(lambda _: page) as server, pytest.raises(RequestRejected):
        await client_for(server.url).acheck_key()


async def test_nobody_there_fails_the_check() -> None:
    with pytest.raises(NeverDelivered):
        await client_for(f"http://127.0.0.1:{closed_port()}").acheck_key()


async def test_no_quota_fails_the_check_whatever_the_status() -> None:
    body = {"error": {"code": "insufficient_user_quota", "message": "user quota is not enough"}}
    with serve(lambda _: reply(body, 400)) as server, pytest.raises(AccountError):
        await client_for(server.url).acheck_key()


async def test_the_check_gets_over_a_hiccup(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, reconnect_timeout=8)
    sim.script("query", ["502", "dropped", "429-seconds"])
    await client_of(sim).acheck_key()
    assert sim.counts.polls == 4


async def test_the_check_does_not_ask_for_ever(sim: Simulator) -> None:
    sim.set_fault("query.502", 1.0)
    started = time.monotonic()
    with pytest.raises(UnknownOutcome):
        await client_of(sim).acheck_key()
    assert time.monotonic() - started < 5
