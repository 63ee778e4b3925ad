"""What the fault run does, in a process of its own: very many predictions, some at a time.

python benchmarks/fault_flows.py ORDER.json REPORT.json
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.filesystems import LocalFileSystem

from prefect_cometapi import CometAPICredentials, CometAPIError, agenerate

MODEL = "black-forest-labs/flux-schnell"
LEDGER = "PREFECT_INTEGRATIONS_COMETAPI_LEDGER"
#: The homes of the records: each has its share of the predictions.
HOMES = ("prefect-server", "block://local-file-system/faults")


def prompt(number: int) -> str:
    """What is asked for, each once."""
    return f"Fault run, picture {number}"


def options(number: int) -> dict[str, Any]:
    """What the caller allows: one in five may be tried twice, one in five may be sent again."""
    return {
        "attempts": 2 if number % 5 == 3 else 1,
        "on_in_doubt": "resubmit" if number % 5 == 4 else "raise",
        "on_timeout": "cancel" if number % 2 else "leave",
    }


def pictures(number: int) -> int:
    """How many pictures are asked for: one in four predictions makes two."""
    return 1 if number % 4 else 2


def plain(number: int) -> bool:
    """Whether nothing is to be paid twice in any case."""
    return number % 5 < 3


@flow(name="faults")
async def many(
    numbers: list[int], scope: str, storage: str, at_once: int, timeout: float
) -> dict[int, Any]:
    """Generate all of them; what fails does not stop the rest."""
    credentials, turn = CometAPICredentials.from_env(), asyncio.Semaphore(at_once)

    async def one(number: int) -> dict[str, Any]:
        async with turn:
            try:
                # Without a task run each: Prefect's server with SQLite would be what is measured.
                made = await agenerate.fn(
                    credentials,
                    MODEL,
                    {"prompt": prompt(number), "num_outputs": pictures(number)},
                    storage,
                    scope=scope,
                    timeout=timeout,
                    **options(number),
                )
            except Exception as error:
                ours = isinstance(error, CometAPIError)
                return {"error": type(error).__name__, "ours": ours, "message": str(error)}
            files = [file.model_dump(mode="json") for file in made.files]
            return {"id": made.prediction.id, "files": files}

    return dict(zip(numbers, await asyncio.gather(*map(one, numbers)), strict=True))


async def main(order: dict[str, Any]) -> dict[int, Any]:
    """A flow for each home of the records."""
    await LocalFileSystem(basepath=order["ledger"]).asave("faults", overwrite=True)
    report: dict[int, Any] = {}
    for place, home in enumerate(HOMES):
        os.environ[LEDGER] = home
        numbers = list(range(place, order["predictions"], len(HOMES)))
        report |= await many(
            numbers, f"faults-{place}", order["storage"], order["at once"], order["timeout"]
        )
    return report


if __name__ == "__main__":
    report = asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
    Path(sys.argv[2]).write_text(json.dumps(report))
