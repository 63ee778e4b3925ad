"""One client at work, in a process of its own, for `performance.py`.

python -m benchmarks.workers NAME ORDER.json prints what it used and noticed, as a line of JSON.
Each imports only what it needs, before its CPU counts.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.usage import Usage

KEY = "sk-stand-in-0123456789"
#: A model that is quick, for what comes before the measurement.
WARM = "stand-in/median-0.01"

Order = dict[str, Any]
Report = dict[str, Any]


def prompt(number: int) -> dict[str, Any]:
    """The input of the nth prediction."""
    return {"prompt": f"A paper boat on calm water, number {number}"}


# --- many in flight ---------------------------------------------------------------------------


def _begin(order: Order) -> None:
    """What came before, to warm up, does not count at the stand-in either."""
    urllib.request.urlopen(f"{order['url']}/reset").close()  # noqa: S310 - our own server


def _replicate(order: Order) -> Any:
    """Its client, as it comes, or so patient that it waits for a connection of its pool."""
    import httpx
    from replicate.client import Client

    patient = httpx.Timeout(30.0, pool=None) if order.get("patient") else None
    return Client(api_token=KEY, base_url=f"{order['url']}/replicate", timeout=patient)


def replicate_async(order: Order) -> Report:
    """`replicate`: create and `async_wait`, all at once."""
    client = _replicate(order)
    noticed, errors = dict[str, float](), list[str]()

    async def one(number: int) -> None:
        try:
            made = await client.predictions.async_create(model=order["model"], input=prompt(number))
            await made.async_wait()
        except Exception as error:
            errors.append(type(error).__name__)
        else:
            noticed[made.id] = time.time()

    async def every() -> None:
        await client.predictions.async_create(model=order["model"], input=prompt(0))
        _begin(order)
        with used:
            await asyncio.gather(*map(one, range(order["many"])))

    used = Usage()
    asyncio.run(every())
    return {**used.figures, "noticed": noticed, "errors": errors}


def replicate_threads(order: Order) -> Report:
    """`replicate`: create and `wait`, a thread each."""
    client = _replicate(order)
    noticed, errors = dict[str, float](), list[str]()

    def one(number: int) -> None:
        try:
            made = client.predictions.create(model=order["model"], input=prompt(number))
            made.wait()
        except Exception as error:
            errors.append(type(error).__name__)
        else:
            noticed[made.id] = time.time()

    client.predictions.create(model=order["model"], input=prompt(0))
    _begin(order)
    with Usage() as used, ThreadPoolExecutor(order["many"]) as pool:
        list(pool.map(one, range(order["many"])))
    return {**used.figures, "noticed": noticed, "errors": errors}


def _learn(order: Order) -> None:
    """Remember run times of the model, as an earlier run would have left them."""
    from pydantic import SecretStr

    from prefect_cometapi import portal, tempo
    from prefect_cometapi.client import CometAPIClient
    from prefect_cometapi.models import Prediction, PredictionStatus
    from prefect_cometapi.settings import load_settings

    async def learn() -> None:
        known = Prediction(
            id="known",
            model=order["model"],
            status=PredictionStatus.STARTING,
            api_root=order["url"],
            submitted_at=datetime.now(UTC),
        )
        client = CometAPIClient(order["url"], SecretStr(KEY), load_settings())
        wait = tempo.waiting(client, known, time.monotonic())
        wait._tempo.run_times.remember(order["learned"])

    if order.get("learned"):
        portal.call(learn)


def ours(order: Order) -> Report:
    """This package: a batch."""
    from pydantic import SecretStr

    from prefect_cometapi import CometAPICredentials, aiter_predictions

    credentials = CometAPICredentials(api_key=SecretStr(KEY), base_url=order["url"])
    noticed, errors = dict[str, float](), list[str]()

    async def every(many: int, scope: str, model: str) -> None:
        inputs = map(prompt, range(many))
        batch = aiter_predictions(
            credentials,
            model,
            inputs,
            None,
            scope=scope,
            ledger=order["folder"],
            in_flight=order["many"],
            prediction_timeout=order.get("timeout", 600.0),
        )
        async for item in batch:
            if item.prediction_id and item.status == "succeeded":
                noticed[item.prediction_id] = time.time()
            else:
                errors.append(f"{item.status}: {item.error}")

    asyncio.run(every(1, f"{order['scope']}-warm", WARM))
    noticed.clear()
    _learn(order)
    _begin(order)
    with Usage() as used:
        asyncio.run(every(order["many"], order["scope"], order["model"]))
    return {**used.figures, "noticed": noticed, "errors": errors}


def ours_alone(order: Order) -> Report:
    """This package without a batch and its ledger: each is created and waited for."""
    from pydantic import SecretStr

    from prefect_cometapi import lifecycle, portal
    from prefect_cometapi.client import CometAPIClient
    from prefect_cometapi.settings import load_settings

    client = CometAPIClient(order["url"], SecretStr(KEY), load_settings())
    client.notify = lambda _: None
    noticed, errors = dict[str, float](), list[str]()

    async def one(number: int) -> None:
        try:
            made = await client.acreate_prediction(order["model"], prompt(number))
            await lifecycle.wait(client, made, timeout=order.get("timeout", 600.0))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        else:
            noticed[made.id] = time.time()

    async def every() -> None:
        await client.acreate_prediction(WARM, prompt(0))
        _learn(order)
        _begin(order)
        with used:
            await asyncio.gather(*map(one, range(order["many"])))

    used = Usage()
    portal.call(every)
    return {**used.figures, "noticed": noticed, "errors": errors}


# --- one small prediction ---------------------------------------------------------------------


def small_ours(order: Order) -> Report:
    """The client: create, poll until it is done, fetch; one after the other."""
    from pydantic import SecretStr

    from prefect_cometapi import portal
    from prefect_cometapi.client import CometAPIClient
    from prefect_cometapi.settings import load_settings

    client = CometAPIClient(order["url"], SecretStr(KEY), load_settings())

    async def one(number: int) -> None:
        made = await client.acreate_prediction(order["model"], prompt(number))
        while not made.finished:
            await asyncio.sleep(order["pause"])
            made = await client.aget_prediction(made.id, model=made.model)
        async with client.download(made.output[0]) as response:
            await response.aread()

    async def several(many: int) -> None:
        for number in range(many):
            await one(number)

    portal.call(several, 3)
    with Usage() as used:
        portal.call(several, order["many"])
    return used.figures


def small_httpx(order: Order) -> Report:
    """The same by hand."""
    import httpx

    root = f"{order['url']}/replicate/v1"

    async def one(http: httpx.AsyncClient, number: int) -> None:
        reply = await http.post(
            f"{root}/models/{order['model']}/predictions", json={"input": prompt(number)}
        )
        made = reply.raise_for_status().json()
        while made["status"] not in ("succeeded", "failed", "canceled", "aborted"):
            await asyncio.sleep(order["pause"])
            reply = await http.get(f"{root}/predictions/{made['id']}")
            made = reply.raise_for_status().json()
        reply = await http.get(made["output"][0])
        reply.raise_for_status().content  # noqa: B018 - as a user would take it

    async def several() -> Report:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
            for number in range(3):
                await one(http, number)
            with Usage() as used:
                for number in range(order["many"]):
                    await one(http, number)
        return used.figures

    return asyncio.run(several())


# --- large files ------------------------------------------------------------------------------


def files_ours(order: Order) -> Report:
    """Save the outputs of so many predictions, all at once."""
    from pydantic import SecretStr

    from prefect_cometapi import lifecycle, portal
    from prefect_cometapi.client import CometAPIClient
    from prefect_cometapi.settings import load_settings

    client = CometAPIClient(order["url"], SecretStr(KEY), load_settings())

    async def made(number: int) -> Any:
        created = await client.acreate_prediction(order["model"], prompt(number))
        return await lifecycle.wait(client, created)

    async def every() -> Report:
        made_all = await asyncio.gather(*map(made, range(order["many"])))
        with Usage() as used:
            saved = await asyncio.gather(
                *(lifecycle.save(client, each, order["folder"]) for each in made_all)
            )
        return {**used.figures, "bytes": sum(file.size for files in saved for file in files)}

    return portal.call(every)


def files_httpx(order: Order) -> Report:
    """The same with httpx, each read whole."""
    import httpx

    root = f"{order['url']}/replicate/v1"
    folder = Path(order["folder"])

    async def made(http: httpx.AsyncClient, number: int) -> str:
        reply = await http.post(
            f"{root}/models/{order['model']}/predictions", json={"input": prompt(number)}
        )
        found = reply.json()
        while found["status"] != "succeeded":
            await asyncio.sleep(0.1)
            found = (await http.get(f"{root}/predictions/{found['id']}")).json()
        return str(found["output"][0])

    async def fetched(http: httpx.AsyncClient, url: str) -> int:
        content = (await http.get(url, timeout=300)).content
        await asyncio.to_thread((folder / url.rpartition("/")[2]).write_bytes, content)
        return len(content)

    async def every() -> Report:
        async with httpx.AsyncClient() as http:
            found = await asyncio.gather(*(made(http, n) for n in range(order["many"])))
            with Usage() as used:
                sizes = await asyncio.gather(*(fetched(http, url) for url in found))
        return {**used.figures, "bytes": sum(sizes)}

    return asyncio.run(every())


def run(*workers: Callable[[Order], Report]) -> None:
    """Let the one that the command line names do what the order there says."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = {worker.__name__: worker for worker in workers}
    print(json.dumps(names[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    run(
        *(replicate_async, replicate_threads, ours, ours_alone),
        *(small_ours, small_httpx, files_ours, files_httpx),
    )
