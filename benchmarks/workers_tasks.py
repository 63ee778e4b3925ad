"""The same predictions as one batch, as three task runs each, and as a task run for each poll.

python -m benchmarks.workers_tasks NAME ORDER.json prints what it used, as a line of JSON. Prefect's
server is another process. `requests` are as many bare requests, to be taken off.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from pydantic import SecretStr

from benchmarks.usage import Usage
from benchmarks.workers import KEY, Order, Report, prompt, run
from prefect_cometapi import (
    CometAPICredentials,
    acreate_prediction,
    apoll_prediction,
    arun_predictions,
    asave_outputs,
)

#: Seconds between two polls of the run that has a task run for each: as many as we poll on average.
POLL_FREQUENCY = 2.0
#: So many predictions at once, where each is task runs: with more, Prefect's server on SQLite does
#: not keep up, and they fail.
AT_ONCE = 100


def _credentials(order: Order) -> CometAPICredentials:
    return CometAPICredentials(api_key=SecretStr(KEY), base_url=order["url"])


def _measured(work: Any, order: Order) -> Report:
    """Run a flow twice: with one prediction to warm up, and with all of them."""
    asyncio.run(work(order, 1))
    with Usage() as used:
        asyncio.run(work(order, order["many"]))
    return used.figures


def batch(order: Order) -> Report:
    """One task run for all."""

    @flow(name="batch")
    async def work(order: Order, many: int) -> None:
        await arun_predictions(
            _credentials(order),
            order["model"],
            map(prompt, range(many)),
            order["folder"],
            scope=f"{order['scope']}-{many}",
        )

    return _measured(work, order)


def task_runs(order: Order) -> Report:
    """Three task runs for each prediction."""

    @flow(name="task runs")
    async def work(order: Order, many: int) -> None:
        credentials, turns = _credentials(order), asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with turns:
                await in_turn(number)

        async def in_turn(number: int) -> None:
            made = await acreate_prediction(credentials, order["model"], prompt(number))
            made = await apoll_prediction(credentials, made)
            await asave_outputs(credentials, made, order["folder"])

        await asyncio.gather(*map(one, range(many)))

    return _measured(work, order)


@task
async def submit(http: httpx.AsyncClient, url: str, number: int) -> Any:
    """POST, as `jobs_runs_submit` of prefect-databricks."""
    return (await http.post(url, json={"input": prompt(number)})).raise_for_status().json()


@task
async def get(http: httpx.AsyncClient, url: str) -> Any:
    """GET, as `jobs_runs_get` of prefect-databricks."""
    return (await http.get(url)).raise_for_status().json()


@task
async def save(http: httpx.AsyncClient, url: str, path: Path) -> None:
    """Fetch an output."""
    path.write_bytes((await http.get(url)).raise_for_status().content)


def task_runs_per_poll(order: Order) -> Report:
    """A task run for each request, as in `jobs_runs_submit_and_wait_for_completion` there.

    Kinder than the original, which opens an HTTP client for each request.
    """

    @flow(name="a task run per poll")
    async def work(order: Order, many: int) -> None:
        root = f"{order['url']}/replicate/v1"

        turns = asyncio.Semaphore(AT_ONCE)

        async def one(http: httpx.AsyncClient, number: int) -> None:
            async with turns:
                await in_turn(http, number)

        async def in_turn(http: httpx.AsyncClient, number: int) -> None:
            made = await submit(http, f"{root}/models/{order['model']}/predictions", number)
            while made["status"] not in ("succeeded", "failed", "canceled"):
                await asyncio.sleep(POLL_FREQUENCY)
                made = await get(http, f"{root}/predictions/{made['id']}")
            path = Path(order["folder"]) / f"{made['id']}.png"
            await save(http, made["output"][0], path)

        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(limits=limits, timeout=300) as http:
            await asyncio.gather(*(one(http, number) for number in range(many)))

    return _measured(work, order)


def requests(order: Order) -> Report:
    """So many creates, polls and files, one after the other: what HTTP alone costs."""
    root = f"{order['url']}/replicate/v1"

    async def every() -> Report:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
            model = f"{root}/models/{order['model']}/predictions"
            made = (await http.post(model, json={"input": prompt(0)})).json()
            with Usage() as used:
                for number in range(order["creates"]):
                    (await http.post(model, json={"input": prompt(number)})).json()
                for _ in range(order["polls"]):
                    (await http.get(f"{root}/predictions/{made['id']}")).json()
                for _ in range(order["files"]):
                    _ = (await http.get(f"{order['url']}/files/{made['id']}-0.png")).content
        return used.figures

    return asyncio.run(every())


if __name__ == "__main__":
    run(batch, task_runs, task_runs_per_poll, requests)
