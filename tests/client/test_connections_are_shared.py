"""Connections are shared by threads and loops, carry no cookies, and never an idle one a create."""

from __future__ import annotations

import asyncio
import re

from tests.servers import BOAT, ID, KEY, MODEL, client_for, prediction, reply, serve


async def test_a_create_never_rides_on_a_connection_that_has_been_idle() -> None:
    with serve(lambda _: reply(prediction(), 201)) as server:
        client = client_for(server.url)
        await client.acreate_prediction(MODEL, BOAT)
        await client.acreate_prediction(MODEL, BOAT)
        assert server.connections == 1  # at once it may
        await asyncio.sleep(2.3)
        await client.acreate_prediction(MODEL, BOAT)
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_a_query_may_ride_on_one() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client = client_for(server.url)
        await client.aget_prediction(ID)
        await asyncio.sleep(2.3)
        await client.aget_prediction(ID)
        assert server.connections == 1


async def test_a_connection_that_the_server_closed_costs_no_create() -> None:
    with serve(lambda _: reply(prediction(), 201), idle=0.2) as server:
        client = client_for(server.url)
        for _ in range(3):
            await client.acreate_prediction(MODEL, BOAT)
            await asyncio.sleep(0.5)
        assert len(server.requests) == 3
        assert server.connections == 3


async def test_threads_and_loops_share_connections() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client = client_for(server.url)
        await client.aget_prediction(ID)
        await asyncio.to_thread(client.get_prediction, ID)
        await asyncio.to_thread(asyncio.run, client.aget_prediction(ID))
        await asyncio.to_thread(client_for(server.url).get_prediction, ID)
        assert server.connections == 1


def test_cookies_are_not_kept() -> None:
    with serve(lambda _: reply(prediction(), set_cookie="session=1; Path=/")) as server:
        client = client_for(server.url)
        for _ in range(2):
            client.get_prediction(ID)
            client.create_prediction(MODEL, BOAT)
            client.cancel_prediction(ID)
        assert len(server.requests) == 6
        assert [r for r in server.requests if "cookie" in r.headers] == []


def test_requests_say_who_sends_them_and_carry_the_key() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client = client_for(server.url)
        client.create_prediction(MODEL, BOAT)
        client.get_prediction(ID)
        client.cancel_prediction(ID)
        for request in server.requests:
            assert re.fullmatch(
                r"prefect-cometapi/\S+ \(python/3\.\S+\)", request.headers["user-agent"]
            )
            assert request.headers["authorization"] == f"Bearer {KEY}"
        assert [(request.method, request.target) for request in server.requests] == [
            ("POST", f"/replicate/v1/models/{MODEL}/predictions"),
            ("GET", f"/replicate/v1/predictions/{ID}"),
            ("POST", f"/replicate/v1/predictions/{ID}/cancel"),
        ]


def test_a_root_with_a_path_is_kept() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client_for(f"{server.url}/gateway/v1/").get_prediction(ID)
        assert server.requests[0].target == f"/gateway/replicate/v1/predictions/{ID}"
