"""Which deployment a run is of is told where it is known, and else holds up and breaks nothing."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client, task
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_cometapi import portal, prefect_api
from prefect_cometapi.prefect_api import deployment_id
from prefect_cometapi.provenance_files import circumstances_here
from tests.servers import Answer, Request, closed_port, serve

found: list[str | None] = []


@task
def in_a_task() -> None:
    found.append(portal.call(deployment_id))


@flow
def inner() -> None:
    in_a_task()


@flow
def outer() -> None:
    found.append(portal.call(deployment_id))
    in_a_task()
    inner()


async def deployed(client: PrefectClient) -> tuple[UUID, FlowRun]:
    """A deployment of `outer`, and a run of it."""
    flow_id = await client.create_flow(outer)
    deployment = await client.create_deployment(flow_id, f"of a test {uuid4()}")
    return deployment, await client.create_flow_run_from_deployment(deployment)


@pytest.mark.usefixtures("prefect_server")
def test_a_deployed_run_its_tasks_and_its_subflows_are_of_the_deployment() -> None:
    async def prepare() -> tuple[UUID, FlowRun]:
        async with get_client() as client:
            return await deployed(client)

    deployment, run = asyncio.run(prepare())
    found.clear()
    run_flow(outer, flow_run=run)
    assert found == [str(deployment)] * 3


@pytest.mark.usefixtures("prefect_server")
def test_in_a_process_that_has_only_the_id_of_the_run_the_server_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def prepare() -> tuple[UUID, FlowRun]:
        async with get_client() as client:
            return await deployed(client)

    deployment, run = asyncio.run(prepare())
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))
    assert portal.call(deployment_id) == str(deployment)


@pytest.mark.usefixtures("prefect_server")
def test_other_runs_are_of_none() -> None:
    found.clear()
    outer()
    assert found == [None] * 3
    assert portal.call(deployment_id) is None


def test_a_server_that_is_gone_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(uuid4())
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", run)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{closed_port()}/api"}):
        told = portal.call(circumstances_here).saved_by
    assert (told.flow_run_id, told.deployment_id) == (run, None)


def test_a_server_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid4()))
    monkeypatch.setattr(prefect_api, "SLOW", 3.0)
    asked = threading.Event()

    def handler(_: Request) -> Answer:
        asked.set()
        return Answer(length=99, end="hang")

    async def ask_meanwhile() -> bool:
        question = asyncio.create_task(deployment_id())
        await asyncio.to_thread(asked.wait, 30)
        pending = not question.done()  # so the loop was free to look
        assert await question is None
        return pending

    with serve(handler) as server, temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
        assert portal.call(ask_meanwhile)
