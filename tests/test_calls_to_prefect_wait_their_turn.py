"""Calls to Prefect's server: one at a time, ids first, and patient with a server that restarts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from prefect_cometapi import portal, prefect_api
from prefect_cometapi.prefect_api import ask
from tests.processes import python


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def nobody() -> None:
        pass

    monkeypatch.setattr(prefect_api, "_client", nobody)
    yield
    prefect_api._silent_until = 0.0


def test_what_is_urgent_goes_before_those_in_line() -> None:
    order: list[str] = []

    async def main() -> None:
        first_may_end = asyncio.Event()

        async def first(_: Any) -> None:
            await first_may_end.wait()

        async def note(name: str, urgent: bool = False) -> None:
            async def question(_: Any) -> None:
                order.append(name)

            await ask(question, urgent=urgent)

        tasks = [asyncio.create_task(ask(first))]
        await asyncio.sleep(0)
        for name, urgent in (("a read", False), ("a claim", False), ("an id", True)):
            tasks.append(asyncio.create_task(note(name, urgent)))
            await asyncio.sleep(0)
        first_may_end.set()
        await asyncio.gather(*tasks)

    portal.call(main)
    assert order == ["an id", "a read", "a claim"]


def test_those_in_line_do_not_wait_one_by_one_for_a_silent_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefect_api, "CALL_TIMEOUT", 6.0)
    monkeypatch.setattr(prefect_api, "SLOW", 0.1)
    waited: list[str] = []

    async def hangs(_: Any) -> None:
        await asyncio.sleep(60)

    async def takes_a_second(_: Any) -> None:
        await asyncio.sleep(1)
        waited.append("answered")

    async def not_found(_: Any) -> None:
        raise ObjectNotFound(Exception())

    def times_out(question: Any) -> None:
        with pytest.raises(TimeoutError):
            portal.call(ask, question)

    times_out(hangs)
    times_out(takes_a_second)  # within the silence, for a tenth of a second
    with pytest.raises(ObjectNotFound):
        portal.call(ask, not_found)  # which is an answer
    portal.call(ask, takes_a_second)
    assert waited == ["answered"]


async def test_busy_is_tried_again_soon_and_then_as_prefect_does() -> None:
    request = httpx.Request("GET", "http://127.0.0.1:4200/api/variables")
    soon = []
    for _ in range(4):
        response = httpx.Response(503, request=request)
        await prefect_api._soon_again(response)
        soon.append(response.headers.get("retry-after"))
    assert soon == ["0.3", "0.3", None, None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_opens_the_ledgers_storage_itself() -> None:
    script = """
import os, sys
from prefect_cometapi import records
where = "block://local-file-system/records"
assert records.open_ledger(where) is records.open_ledger(where)
child = os.fork()
if child == 0:
    os._exit(records._stored.cache_info().currsize)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    python("-W", "ignore::DeprecationWarning", "-c", script)
