"""Run times of a model that outlive the process: a Variable on Prefect's server for each model.

A wrong or missing one costs polls, never a prediction, so nothing here fails or takes long.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate

from prefect_cometapi.prefect_api import ask

#: What marks these Variables; not the ledger's own tag, which marks records.
TAG = "cometapi-pace"
#: Seconds that reading may take: the first poll of most models comes a second after the create.
READ_TIMEOUT = 2.0
#: Seconds that writing may take, in line with the ledger's own writes.
WRITE_TIMEOUT = 10.0
#: What a server may hold that is believed, in seconds: no prediction takes longer than a day.
_LONGEST = 86_400.0


def name_of(api_root: str, model: str) -> str:
    """The Variable's name: readable, and different for different models and services."""
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in model.lower())
    digest = hashlib.sha256(f"{api_root}\n{model}".encode()).hexdigest()[:12]
    return f"{TAG}-{plain[:60]}-{digest}"


def as_json(api_root: str, model: str, run_times: Sequence[float]) -> dict[str, Any]:
    """The Variable's value: seconds to three digits, which is all that run times repeat."""
    rounded = [float(f"{each:.3g}") for each in run_times]
    return {"api_root": api_root, "model": model, "run_times": rounded}


def from_json(value: object) -> list[float]:
    """The run times in a Variable's value; none where it is anything else."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return []
    times = found.get("run_times") if isinstance(found, Mapping) else None
    if not isinstance(times, list) or not all(map(_believed, times)):
        return []
    return [float(each) for each in times]


def _believed(seconds: object) -> bool:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return number and math.isfinite(seconds) and 0 <= seconds <= _LONGEST  # type: ignore[arg-type, operator]


async def recall(api_root: str, model: str) -> list[float] | None:
    """The run times that are known from before; None where that could not be found out."""
    name = name_of(api_root, model)
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            # Not in line: a read is no trouble to SQLite, and soon of no use any more.
            found = await ask(lambda client: client.read_variable_by_name(name), queue=False)
    except Exception as error:
        _tell(f"The run times of {model} could not be read", error)
        return None
    return from_json(found.value) if found else []


async def remember(api_root: str, model: str, run_times: Sequence[float]) -> None:
    """Write down the run times."""
    new: dict[str, Any] = {
        "name": name_of(api_root, model),
        "value": as_json(api_root, model, run_times),
        "tags": [TAG],
    }

    async def write(client: PrefectClient) -> None:
        try:
            await client.update_variable(VariableUpdate(**new))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            await client.create_variable(VariableCreate(**new))

    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await ask(write)
    except Exception as error:
        _tell(f"The run times of {model} could not be written down", error)


def _tell(what: str, error: Exception) -> None:
    getLogger("prefect_cometapi").debug(
        "%s; the next run takes a few polls more. %s: %s", what, type(error).__name__, error
    )
