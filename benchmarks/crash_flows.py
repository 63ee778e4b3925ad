"""What the crash harness runs and kills: ordinary flows, in each shape that users write."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    acreate_prediction,
    agenerate,
    apoll_prediction,
    asave_outputs,
    create_prediction,
    generate,
    poll_prediction,
    save_outputs,
)

MODEL = "black-forest-labs/flux-schnell"
SYNC_SHAPES = ("generate", "steps", "submitted", "subflow")
ASYNC_SHAPES = ("agenerate", "asteps")
#: Names the file in which a process says how each prediction ended for it.
REPORT = "BENCHMARK_REPORT"


def _result(id_: str, files: Any) -> dict[str, Any]:
    return {"id": id_, "files": [file.model_dump(mode="json") for file in files]}


def _error(error: BaseException) -> dict[str, Any]:
    key = getattr(error, "record_key", None)
    return {"error": type(error).__name__, "message": str(error), "record_key": key}


def _tell(report: dict[str, Any], errors: list[BaseException]) -> None:
    """Write the report, and fail the run where something failed."""
    path = Path(os.environ[REPORT])
    path.with_suffix(".new").write_text(json.dumps(report))
    path.with_suffix(".new").replace(path)
    for error in errors:
        raise error


@flow(name="crash-child")
def pictures(prompts: list[str], storage: str, scope: str | None) -> dict[str, Any]:
    """The subflow of a shape."""
    return _one_by_one("generate", prompts, storage, scope)


@flow(name="crash")
def work(shape: str, prompts: list[str], storage: str, scope: str | None = None) -> None:
    """A sync flow."""
    found: dict[str, Any]
    if shape == "subflow":
        found = pictures(prompts, storage, scope)
    else:
        found = _one_by_one(shape, prompts, storage, scope)
    errors = [found[prompt].pop("raise") for prompt in prompts if "raise" in found[prompt]]
    _tell(found, errors)


def _one_by_one(shape: str, prompts: list[str], storage: str, scope: str | None) -> dict[str, Any]:
    credentials = CometAPICredentials.from_env()

    def make(prompt: str) -> dict[str, Any]:
        order = {"prompt": prompt}
        if shape == "submitted":
            made = futures[prompt].result()
        elif shape == "steps":
            prediction = create_prediction(credentials, MODEL, order, scope=scope)
            prediction = poll_prediction(credentials, prediction)
            return _result(prediction.id, save_outputs(credentials, prediction, storage))
        else:
            made = generate(credentials, MODEL, order, storage, scope=scope)
        return _result(made.prediction.id, made.files)

    futures = {}
    if shape == "submitted":
        futures = {
            prompt: generate.submit(credentials, MODEL, {"prompt": prompt}, storage, scope=scope)
            for prompt in prompts
        }
    found: dict[str, Any] = {}
    for prompt in prompts:
        try:
            found[prompt] = make(prompt)
        except Exception as error:
            found[prompt] = {**_error(error), "raise": error}
    return found


@flow(name="crash-async")
async def awork(shape: str, prompts: list[str], storage: str, scope: str | None = None) -> None:
    """An async flow, all predictions side by side."""
    credentials = CometAPICredentials.from_env()

    async def make(prompt: str) -> dict[str, Any]:
        order = {"prompt": prompt}
        if shape == "asteps":
            prediction = await acreate_prediction(credentials, MODEL, order, scope=scope)
            prediction = await apoll_prediction(credentials, prediction)
            return _result(prediction.id, await asave_outputs(credentials, prediction, storage))
        made = await agenerate(credentials, MODEL, order, storage, scope=scope)
        return _result(made.prediction.id, made.files)

    results = await asyncio.gather(*map(make, prompts), return_exceptions=True)
    pairs = list(zip(prompts, results, strict=True))
    report = {
        prompt: _error(result) if isinstance(result, BaseException) else result
        for prompt, result in pairs
    }
    _tell(report, [result for result in results if isinstance(result, BaseException)])
