"""What events cost: CPU and wall time of a batch, and of single predictions, beside none at all.

    python benchmarks/events.py                # 1,000 items, three times each, some minutes
    python benchmarks/events.py --items 100

Each case is a flow run in a process of its own; the simulator and Prefect's server are others. The
figures are of the whole process, to its end: what Prefect's own thread does to send the events is
in them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

if __name__ == "__main__":  # as a script, `benchmarks` is not importable yet
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.prefect_server import ROOT, clean_environment, prefect_server
from prefect_cometapi import simulator

FLOW = """
import sys, tempfile
from contextlib import suppress
from pathlib import Path
from prefect import flow
from prefect_cometapi import BatchFailed, CometAPICredentials, generate, run_predictions

kind, events, items = sys.argv[1], sys.argv[2], int(sys.argv[3])

@flow
def measured(folder):
    credentials = CometAPICredentials.from_env()
    if kind == "single":
        for sample in range(items // 20):
            generate(credentials, "simulator/text", {"prompt": "A boat"}, folder, sample=sample)
        return
    inputs = ({"prompt": f"A paper boat on calm water, number {n}"} for n in range(items))
    with suppress(BatchFailed):
        run_predictions(credentials, "simulator/text", inputs, folder, events=events)

with tempfile.TemporaryDirectory() as folder:
    measured(Path(folder))
"""
#: What is measured: the kind of flow, the keyword `events`, the setting `events`, the faults.
CASES = {
    "batch, off": ("batch", "exceptions", "false", {}),
    "batch, exceptions": ("batch", "exceptions", "true", {}),
    "batch, all": ("batch", "all", "true", {}),
    "failing batch, off": ("batch", "exceptions", "false", {"prediction.failed": 1.0}),
    "failing batch, exceptions": ("batch", "exceptions", "true", {"prediction.failed": 1.0}),
    "single ones, off": ("single", "exceptions", "false", {}),
    "single ones": ("single", "exceptions", "true", {}),
}


def measure(case: str, port: int, items: int) -> tuple[float, float]:
    """Run a case; returns seconds of CPU and of wall time."""
    kind, events, setting, faults = CASES[case]
    with (
        simulator.run(run_time=2.0 if kind == "batch" else 0.1, faults=faults) as service,
        tempfile.TemporaryDirectory() as home,
    ):
        environment = clean_environment(
            Path(home),
            PYTHONPATH=str(ROOT),
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_LOGGING_LEVEL="WARNING",
            COMETAPI_KEY=service.api_key,
            COMETAPI_BASE_URL=service.url,
            PREFECT_INTEGRATIONS_COMETAPI_EVENTS=setting,
        )
        began = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", FLOW, kind, events, str(items)], env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{case} has failed.")
        return usage.ru_utime + usage.ru_stime, time.monotonic() - began


def main() -> None:
    """Measure every case in turn, and print medians."""
    parser = argparse.ArgumentParser(description="What events cost.")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as port:
        for _ in range(options.repeats):
            for case, figures in measured.items():
                figures.append(measure(case, port, options.items))
                print(case, *(f"{figure:.2f}" for figure in figures[-1]), file=sys.stderr)
    rows = {
        case: {"cpu": median(f[0] for f in figures), "wall": median(f[1] for f in figures)}
        for case, figures in measured.items()
    }
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
