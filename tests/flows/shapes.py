"""Flows that wait for predictions, in each shape that user code takes; a program for tests to stop.

python tests/flows/shapes.py <shape> <storage> [<scope>]
python tests/flows/shapes.py serve <shape> <name of the deployment>
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import time
from typing import Any

from prefect import flow, task, unmapped

from prefect_cometapi import (
    CometAPICredentials,
    PredictionJob,
    agenerate,
    cancel_predictions,
    create_prediction,
    generate,
    poll_prediction,
)

MODEL = "black-forest-labs/flux-schnell"
INPUTS = [
    {"prompt": f"Paper boat {number}"} for number in range(int(os.environ.get("SHAPES_INPUTS", 3)))
]
HOOKS: dict[str, Any] = {
    "on_cancellation": [cancel_predictions],
    "on_crashed": [cancel_predictions],
}


def arguments(input: dict[str, Any], storage: str, scope: str | None) -> dict[str, Any]:
    credentials = CometAPICredentials.from_env()
    return {
        "credentials": credentials,
        "model": MODEL,
        "input": input,
        "storage": storage,
        "scope": scope,
    }


@flow
def sync_direct(storage: str, scope: str | None = None) -> None:
    generate(**arguments(INPUTS[0], storage, scope))


@flow
def sync_submit(storage: str, scope: str | None = None) -> None:
    futures = [generate.submit(**arguments(input, storage, scope)) for input in INPUTS]
    for future in futures:
        future.result()


@flow
def sync_submit_async_task(storage: str, scope: str | None = None) -> None:
    futures = [agenerate.submit(**arguments(input, storage, scope)) for input in INPUTS]
    for future in futures:
        future.result()


@flow
def sync_map(storage: str, scope: str | None = None) -> None:
    credentials = CometAPICredentials.from_env()
    made = create_prediction.map(unmapped(credentials), MODEL, INPUTS, scope=scope)
    poll_prediction.map(unmapped(credentials), made).result()


@flow
def sync_create_then_poll(storage: str, scope: str | None = None) -> None:
    credentials = CometAPICredentials.from_env()
    made = create_prediction(credentials, MODEL, INPUTS[0], scope=scope)
    poll_prediction(credentials, made)


def job(storage: str) -> PredictionJob:
    credentials = CometAPICredentials.from_env()
    return PredictionJob(credentials=credentials, model=MODEL, input=INPUTS[0], storage=storage)


@flow
def sync_job(storage: str, scope: str | None = None) -> None:
    job(storage).trigger(scope=scope).wait_for_completion()


@flow
async def async_job(storage: str, scope: str | None = None) -> None:
    run = await job(storage).trigger(scope=scope)
    await run.wait_for_completion()


@flow
def sync_subflow(storage: str, scope: str | None = None) -> None:
    sync_direct(storage, scope)


@task
def step(storage: str, scope: str | None) -> None:
    generate(**arguments(INPUTS[0], storage, scope))


@flow
def sync_task_in_task(storage: str, scope: str | None = None) -> None:
    step(storage, scope)


@flow
async def async_direct(storage: str, scope: str | None = None) -> None:
    await agenerate(**arguments(INPUTS[0], storage, scope))


@flow
async def async_gather(storage: str, scope: str | None = None) -> None:
    await asyncio.gather(*(agenerate(**arguments(input, storage, scope)) for input in INPUTS))


@flow
async def async_map(storage: str, scope: str | None = None) -> None:
    for future in [agenerate.submit(**arguments(input, storage, scope)) for input in INPUTS]:
        future.result()


@flow
async def async_subflow(storage: str, scope: str | None = None) -> None:
    await async_direct(storage, scope)


@flow
async def async_calls_sync(storage: str, scope: str | None = None) -> None:
    generate(**arguments(INPUTS[0], storage, scope))


def no_flow(storage: str, scope: str | None = None) -> None:
    generate(**arguments(INPUTS[0], storage, scope))


# --- for the hook -----------------------------------------------------------------------------


@flow(**HOOKS)
def waits_elsewhere(storage: str, scope: str | None = None) -> None:
    """Nobody waits for the prediction when the run is stopped."""
    create_prediction(CometAPICredentials.from_env(), MODEL, INPUTS[0], scope=scope)
    time.sleep(600)


@flow(**HOOKS)
def saved_block(storage: str, scope: str | None = None, block: str = "") -> None:
    """With credentials that are saved under a name."""
    credentials: Any = CometAPICredentials.load(block)
    generate(credentials, MODEL, INPUTS[0], storage, scope=scope)


def main(words: list[str]) -> None:
    if words[0] == "serve":
        globals()[words[1]].with_options(**HOOKS).serve(words[2])
        return
    shape = globals()[words[0]]
    done = (shape.with_options(**HOOKS) if "SHAPES_HOOKS" in os.environ else shape)(*words[1:])
    if inspect.iscoroutine(done):
        asyncio.run(done)


if __name__ == "__main__":
    main(sys.argv[1:])
