"""A question to a language model is one call of the client: it keeps no poll waiting, and is asked
again only a few times where its answer is lost.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from prefect_cometapi.client import LOST_MOST
from prefect_cometapi.errors import UnknownOutcome
from prefect_cometapi.failures import Reply
from tests.servers import ID, Answer, Request, client_for, configure, prediction, reply, serve

QUESTION = b'{"model": "gpt"}'


def words(answer: Reply) -> Any:
    if not isinstance(answer.json, dict):
        raise UnknownOutcome("that is no answer")
    return answer.json["words"]


async def test_it_is_sent_with_the_key_and_read_by_the_caller() -> None:
    with serve(lambda _: reply({"words": "Boats"})) as server:
        assert await client_for(server.url).ask_language_model("gpt", QUESTION, words) == "Boats"
        [request] = server.requests
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"].startswith("Bearer ")
    assert request.body == QUESTION


async def test_what_the_caller_can_not_read_is_lost_and_asked_for_a_few_times() -> None:
    with serve(lambda _: reply([])) as server:
        client, told = client_for(server.url), list[str]()
        client.notify = told.append
        with pytest.raises(UnknownOutcome, match="no answer"):
            await client.ask_language_model("gpt", QUESTION, words)
        assert len(server.requests) == 1 + LOST_MOST
    assert len(told) == LOST_MOST
    assert all("may be charged" in line for line in told)


async def test_one_that_takes_long_keeps_no_poll_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, requests_in_flight=1)
    asked, answer = threading.Event(), threading.Event()

    async def handler(request: Request) -> Answer:
        if request.method == "GET":
            return reply(prediction())
        asked.set()
        await asyncio.to_thread(answer.wait, 30)
        return reply({"words": "Boats"})

    with serve(handler) as server:
        client = client_for(server.url)
        question = asyncio.create_task(client.ask_language_model("gpt", QUESTION, words))
        await asyncio.to_thread(asked.wait, 30)
        assert (await client.aget_prediction(ID)).id == ID
        assert not question.done()
        answer.set()
        assert await question == "Boats"
