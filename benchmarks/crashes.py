"""Kill runs with SIGKILL wherever it can hurt, retry them, and count what was paid and lost.

    python benchmarks/crashes.py

takes half an hour; `--short` kills once at each boundary. Nothing is spent: the service is the
simulator. See `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.boundaries import AT_RANDOM, NAMES
from benchmarks.crash_case import run_case
from benchmarks.crash_plan import Plan, plans, short_plans
from benchmarks.prefect_server import prefect_server
from benchmarks.tables import markdown

_SUMS = (
    "kills",
    "predictions",
    "creates",
    "charged",
    "finished",
    "in doubt",
    "adopted",
    "resubmitted",
    "finished then",
    "expired",
    "lost",
    "half files",
    "hidden leftovers",
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows summed up for each boundary and disk."""
    head = ["killed", "disk", "runs", *_SUMS]
    body: list[list[object]] = []
    for name in NAMES:
        for disk in ("kept", "lost"):
            some = [row for row in rows if (row["boundary"], row["disk"]) == (name, disk)]
            if some:
                body.append([name, disk, *_summed(some)])
    return markdown(head, [*body, ["**all**", "", *_summed(rows)]])


def _summed(rows: Sequence[dict[str, Any]]) -> list[object]:
    return [len(rows), *(sum(row[name] for row in rows) for name in _SUMS)]


def spread(rows: Sequence[dict[str, Any]]) -> str:
    """What the runs were like, and what they ran on."""
    words = {"ledger": "Records on", "shape": "Shapes", "again": "Then"}
    parts = [
        f"{words[name]}: {', '.join(f'{some} {each}' for each, some in counted.most_common())}."
        for name in words
        for counted in [Counter(row[name] for row in rows)]
    ]
    waited, late = (sum(row[name] for row in rows) for name in ("wait", "late"))
    parts.append(f"{waited} waited out a fresh intent, {late} came two hours late.")
    parts.append(f"Prefect {version('prefect')}, Python {platform.python_version()}, SQLite.")
    return "\n".join(parts)


async def _run(todo: list[Plan], jobs: int, folder: Path) -> list[dict[str, Any]]:
    turn = asyncio.Semaphore(jobs)
    with prefect_server(folder) as port:

        async def one(plan: Plan) -> dict[str, Any]:
            async with turn:
                row = await run_case(plan, folder / f"seed-{plan.seed:03}", port)
            print(
                f"seed {plan.seed:3}  {plan.boundary:33} disk {plan.disk}  {plan.ledger:6} "
                f"{plan.shape:9} {plan.again:7}  finished {row['finished']}/{plan.predictions}, in "
                f"doubt {row['in doubt']}, {row['seconds']:5.1f} s  {'; '.join(row['broken'])}",
                flush=True,
            )
            return row

        return await asyncio.gather(*map(one, todo))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--seeds", type=int, default=100, help="how many runs (%(default)s)")
    add("--short", action="store_true", help="each boundary once")
    add("--only", type=int, nargs="*", help="these seeds")
    add("--jobs", type=int, default=2, help="runs at once (%(default)s)")
    add("--json", type=Path, help="write every run there")
    add("--markdown", type=Path, help="write the table there")
    add("--keep", type=Path, help="keep logs and files in this folder")
    options = parser.parse_args(arguments)
    todo = short_plans() if options.short else plans(options.seeds)
    if options.only:
        todo = [plan for plan in todo if plan.seed in options.only]
    # So that ending this program ends the server that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="cometapi-crashes-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = asyncio.run(_run(todo, options.jobs, folder))
    text = f"{table(rows)}\n\n{spread(rows)}\n"
    print(f"\n{text}")
    if options.json:
        options.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    if options.markdown:
        options.markdown.write_text(f"# {len(rows)} runs killed and retried\n\n{text}")
    broken = [f"seed {row['seed']}: {text}" for row in rows for text in row["broken"]]
    unstruck = [row["seed"] for row in rows if not row["kills"] and row["boundary"] != AT_RANDOM]
    broken += [f"seed {seed}: its boundary never came, nothing was killed" for seed in unstruck]
    print("\n".join(broken) if broken else "Every promise was kept.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
