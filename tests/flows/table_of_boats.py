"""A batch in each shape that user code takes; a program for tests to stop.

python tests/flows/table_of_boats.py <shape> <number of items> <storage> <scope>
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, runtime, task

from prefect_cometapi import (
    CometAPICredentials,
    arun_predictions,
    iter_predictions,
    run_predictions,
)

MODEL = "simulator/text"


def inputs(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"boat {number}"} for number in range(count)]


def tell() -> None:
    print("FLOW RUN", runtime.flow_run.id, flush=True)


def sync_script(count: int, storage: Path, scope: str) -> None:
    credentials = CometAPICredentials.from_env()
    run_predictions(credentials, MODEL, inputs(count), storage, scope=scope)


@flow
def sync_flow(count: int, storage: Path, scope: str) -> None:
    tell()
    sync_script(count, storage, scope)


@flow
async def async_flow(count: int, storage: Path, scope: str) -> None:
    tell()
    credentials = CometAPICredentials.from_env()
    await arun_predictions(credentials, MODEL, inputs(count), storage, scope=scope)


@flow
def item_by_item(count: int, storage: Path, scope: str) -> None:
    credentials = CometAPICredentials.from_env()
    for item in iter_predictions(credentials, MODEL, inputs(count), storage, scope=scope):
        print(item.what)


@flow
def submitted(count: int, storage: Path, scope: str) -> None:
    credentials = CometAPICredentials.from_env()
    run_predictions.submit(credentials, MODEL, inputs(count), storage, scope=scope).result()


def rows(count: int, pause: float) -> Iterator[dict[str, Any]]:
    """Two inputs, and after a while the others."""
    yield {"prompt": "first"}
    time.sleep(0.2)
    yield {"prompt": "second"}
    print("READING", flush=True)
    time.sleep(pause)
    yield from inputs(count)


def slow_inputs(count: int, storage: Path, scope: str) -> None:
    credentials = CometAPICredentials.from_env()
    run_predictions(credentials, MODEL, rows(count, 600), storage, scope=scope)


@task
def step(count: int, storage: Path, scope: str) -> None:
    slow = rows(count, 5)
    credentials = CometAPICredentials.from_env()
    for _ in iter_predictions(credentials, MODEL, slow, storage, scope=scope):
        pass


@flow
def slow_inputs_in_a_thread(count: int, storage: Path, scope: str) -> None:
    step.submit(count, storage, scope).result()


def main(shape: str, count: str, storage: str, scope: str) -> None:
    done = globals()[shape](int(count), Path(storage), scope)
    if inspect.iscoroutine(done):
        asyncio.run(done)


if __name__ == "__main__":
    main(*sys.argv[1:])
