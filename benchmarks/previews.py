"""What artifacts cost: beside the same work with the setting `artifacts` off.

    python benchmarks/previews.py

Takes some five minutes. See `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx

from benchmarks.prefect_server import ROOT, clean_environment, prefect_server
from benchmarks.stand_in import Options, stand_in
from benchmarks.tables import markdown
from benchmarks.usage import Usage

MODEL = "black-forest-labs/flux-schnell"
#: Sides of the pictures that are made, in pixels.
SIDE = 1024
#: Items of the batch; predictions one by one, and at once.
BATCH, ONE_BY_ONE, AT_ONCE = 1_000, 30, 60
REPEATS = 3
#: What is to be reached: seconds that a batch is longer.
MOST = 1.0


def photo() -> bytes:
    """A picture as detailed as a photograph is, as WebP."""
    import io

    from PIL import Image

    random = Random("previews")  # noqa: S311
    picture: Any = None
    for side in (4, 16, 64, 256, SIDE):
        grain = Image.frombytes("RGB", (side, side), random.randbytes(side * side * 3))
        layer = grain.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture = layer if picture is None else Image.blend(picture, layer, 0.22)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


# --- in a process of its own ------------------------------------------------------------------


def work(order: dict[str, Any]) -> dict[str, Any]:
    """Make what the order asks for, in a flow; how long it took."""
    from prefect import flow, runtime
    from pydantic import SecretStr

    from prefect_cometapi import CometAPICredentials, agenerate, arun_predictions

    credentials = CometAPICredentials(api_key=SecretStr("a-key"), base_url=order["url"])
    runs: list[str] = []

    @flow(name="previews")
    async def making(number: int, folder: str) -> float:
        runs.append(str(runtime.flow_run.id))
        inputs = [{"prompt": f"Boat {n} of {folder}"} for n in range(number)]
        began = time.monotonic()
        if order["kind"] == "batch":
            result = await arun_predictions(credentials, MODEL, inputs, folder)
            last = max(item.ended_at for item in result.items if item.ended_at)
            return (datetime.now(UTC) - last).total_seconds()
        if order["kind"] == "at once":
            await asyncio.gather(*(agenerate(credentials, MODEL, i, folder) for i in inputs))
        else:
            for each in inputs:
                await agenerate(credentials, MODEL, each, folder)
        return (time.monotonic() - began) / number

    asyncio.run(making(2, order["folder"] + "/warm-up"))
    with Usage() as used:
        took = asyncio.run(making(order["number"], order["folder"] + "/measured"))
    return {**used.figures, "took": took, "run": runs[-1]}


# --- from outside -----------------------------------------------------------------------------


def sent(port: int, run: str) -> list[int]:
    """The sizes of the artifacts of a flow run, in bytes."""
    filter = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200}
    url = f"http://127.0.0.1:{port}/api/artifacts/filter"
    found = httpx.post(url, json=filter, timeout=60).json()
    return [len(json.dumps(each["data"])) for each in found if each["key"]]


def measure(folder: Path, scale: float) -> Iterator[dict[str, Any]]:
    """Each kind of work with artifacts and without, in turn."""
    file = folder / "photo.webp"
    file.write_bytes(photo())
    kinds = {"batch": (BATCH, 2.0), "one by one": (ONE_BY_ONE, 0.05), "at once": (AT_ONCE, 0.5)}
    with prefect_server(folder) as port:
        for kind, (number, seconds) in kinds.items():
            number = max(4, int(number * scale))
            for repeat in range(REPEATS):
                for shown in (True, False):
                    with stand_in(Options(median=seconds, file=str(file))) as service:
                        order = {
                            "kind": kind,
                            "number": number,
                            "url": service.url,
                            "folder": str(folder / f"{kind} {repeat} {shown}".replace(" ", "-")),
                        }
                        used = _in_a_process(order, folder, port, shown=shown)
                    sizes = sent(port, used.pop("run"))
                    yield {"kind": kind, "number": number, "shown": shown, **used, "bytes": sizes}


def _in_a_process(order: dict[str, Any], folder: Path, port: int, *, shown: bool) -> dict[str, Any]:
    environment = clean_environment(
        folder / "home",
        PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
        PREFECT_INTEGRATIONS_COMETAPI_ARTIFACTS=str(shown),
        PREFECT_LOGGING_LEVEL="ERROR",
    )
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(Path(__file__)), "--work", json.dumps(order)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: list[dict[str, Any]]) -> tuple[str, float]:
    """What it costs, and by how many seconds a batch is longer."""
    names = {
        "batch": "a batch of {:,}: from the last item to the end",
        "one by one": "a prediction, one by one ({:,} of them)",
        "at once": "a prediction, {:,} at once",
    }
    rows, longer = [], 0.0
    for kind, name in names.items():
        mine = [each for each in found if each["kind"] == kind]
        number = mine[0]["number"]
        took, cpu = ({}, {})
        for shown in (True, False):
            took[shown] = median(each["took"] for each in mine if each["shown"] is shown)
            cpu[shown] = median(each["cpu"] for each in mine if each["shown"] is shown)
        sizes = [size for each in mine if each["shown"] for size in each["bytes"]]
        if kind == "batch":
            longer, per, size = took[True] - took[False], 1, sum(sizes) / REPEATS
        else:
            per, size = number, sum(sizes) / len(sizes)
        rows.append(
            [
                name.format(number),
                f"{1000 * took[True]:,.0f}",
                f"{1000 * took[False]:,.0f}",
                f"{1000 * (took[True] - took[False]):,.0f}",
                f"{1000 * (cpu[True] - cpu[False]) / per:,.0f}",
                f"{size / 1000:,.0f} kB",
            ]
        )
    head = ["", "ms with", "ms without", "more ms", "more CPU, ms", "sent to Prefect"]
    return markdown(head, rows), longer


def main() -> int:
    """Measure, print a table; 1 where a batch is longer than it may be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", type=Path, help="where to write everything that was measured")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(json.loads(options.work))))
        return 0
    with tempfile.TemporaryDirectory(prefix="previews-") as folder:
        found = list(measure(Path(folder), 0.1 if options.short else 1.0))
    shown, longer = table(found)
    print(shown)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if longer > MOST:
        print(f"A batch is {longer:.2f} s longer; {MOST:g} s are what it may be.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    sys.exit(main())
