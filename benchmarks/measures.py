"""What `performance.py` measures: each function runs clients in turn and returns rows of the table.

Everything that is compared runs in the same call, one after the other, against a stand-in of its
own each, with the same seed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.prefect_server import ROOT, clean_environment, prefect_server
from benchmarks.stand_in import Options, stand_in

#: The worker that stands for this package in the measures of many predictions.
OURS = "ours"
MODEL = "stand-in/median-{:g}"
#: A share of the polls hangs for so many seconds, where that is measured.
HANGS = {"delay": 0.15, "hang_share": 0.01, "hang": 60.0}
#: `replicate` waits for ever for a connection of its pool, instead of the 10 s after which a large
#: part of 1,000 predictions would fail.
PATIENT = {"patient": True}


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured.

    Attributes:
        repeats: How often; the medians count.
        flights: Predictions in flight, the largest first.
        seconds: Their median run time.
        long: Predictions in flight, and median run time in seconds, of the long measure.
        tasks: Predictions of the measure with task runs.
        files: Files, and bytes of each.
        small: Predictions one after the other.
    """

    repeats: int = 3
    flights: tuple[int, ...] = (1000, 100, 10)
    seconds: float = 8.0
    long: tuple[int, float] = (10_000, 300.0)
    tasks: int = 1000
    files: tuple[int, int] = (16, 64 * 1024 * 1024)
    small: int = 200


FULL = Sizes()
SHORT = Sizes(
    repeats=1, flights=(300, 100, 10), long=(1000, 30.0), tasks=100, files=(16, 2**24), small=50
)
#: For a test: that it runs, not what it measures.
TINY = Sizes(1, (20, 5), 0.5, (20, 1.0), 4, (4, 2**20), 5)


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        ours: With this package.
        beside: What it is compared with.
        than: What that is.
        reach: The ratio, or the value where there is nothing beside, that is to be reached.
        unit: Of the values.
    """

    name: str
    ours: float
    reach: float
    beside: float | None = None
    than: str = ""
    unit: str = ""
    least: bool = False

    @property
    def ratio(self) -> float:
        """Ours by what is beside it."""
        return self.ours if self.beside is None else self.ours / max(self.beside, 1e-9)

    @property
    def reached(self) -> bool:
        """Whether it is what it was to be."""
        return self.ratio >= self.reach if self.least else self.ratio <= self.reach


@dataclass
class Bench:
    """Where and how much is measured, and all that was."""

    folder: Path
    sizes: Sizes
    prefect_port: int
    raw: dict[str, Any] = field(default_factory=dict)

    def work(
        self, name: str, order: dict[str, Any], module: str = "workers", prefect_port: int = 0
    ) -> dict[str, Any]:
        """Let a worker do something, in a process of its own."""
        port = prefect_port or self.prefect_port
        home, scope = self.folder / f"home-{name}", uuid.uuid4().hex
        folder = self.folder / scope
        folder.mkdir()
        environment = clean_environment(
            home,
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_LOGGING_TO_API_ENABLED="false",
            PREFECT_LOGGING_LEVEL="WARNING",
            PYTHONPATH=str(ROOT),
        )
        told = json.dumps({"scope": scope, "folder": str(folder), **order})
        with (self.folder / f"{name}.log").open("a") as log:
            done = subprocess.run(  # noqa: S603 - our own script
                [sys.executable, "-m", f"benchmarks.{module}", name, told],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{name} failed; see {log.name}.")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def flight(
        self, name: str, many: int, seconds: float, order: dict[str, Any], **options: float
    ) -> dict[str, Any]:
        """So many predictions at once, with one client; what it used, and how late it noticed."""
        with stand_in(Options(**options)) as service:  # type: ignore[arg-type]
            asked = {"url": service.url, "model": MODEL.format(seconds), "many": many, **order}
            used = self.work(name, {"timeout": 20 * seconds + 600, **asked})
            stats = service.stats()
        known = stats.pop("predictions")
        delays = sorted(
            at - known[key]["completed"] for key, at in used.pop("noticed").items() if key in known
        )
        runs = [each["completed"] - each["created"] for each in known.values()]
        return {
            **used,
            **stats,
            "errors": len(used["errors"]),
            "error": next(iter(used["errors"]), ""),
            "p50": delays[len(delays) // 2],
            "p95": delays[min(len(delays) - 1, int(0.95 * len(delays)))],
            "latest": delays[-1],
            "longest": max(runs),
            "mean run": sum(runs) / len(runs),
            "server": stats["cpu"],
            "cpu": used["cpu"],
        }

    def keep(self, name: str, found: list[dict[str, Any]]) -> dict[str, float]:
        """Keep what was measured, and return the medians."""
        self.raw[name] = found
        numbers = (key for key, value in found[0].items() if isinstance(value, int | float))
        return {key: median(each[key] for each in found) for key in numbers}


def flights(bench: Bench) -> list[Row]:
    """So many in flight, beside `replicate` with asyncio and with threads."""
    rows = []
    for many in bench.sizes.flights:
        clients: dict[str, tuple[str, dict[str, Any]]] = {
            "ours": (OURS, {}),
            "ours, run times known": (OURS, {"learned": earlier_runs(bench.sizes.seconds)}),
            "replicate": ("replicate_async", PATIENT),
            "replicate as it comes": ("replicate_async", {}),
            "replicate, threads": ("replicate_threads", PATIENT),
        }
        if many < 1000:
            del clients["replicate as it comes"]  # there it is the same
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in clients}
        for repeat in range(bench.sizes.repeats):
            for name, (worker, order) in clients.items():
                seconds = bench.sizes.seconds
                found[name].append(bench.flight(worker, many, seconds, order, seed=repeat + 1))
        by_name = {
            name: bench.keep(f"{many} in flight, {name}", each) for name, each in found.items()
        }
        own, first = by_name["ours"], by_name["replicate"]
        known = by_name["ours, run times known"]
        threads = by_name["replicate, threads"]
        reach, soon = (1 / 6, 1 / 25) if many >= 1000 else (1.0, 1.0)
        label, than, other = f"{many:,} in flight", "replicate, async_wait", "replicate, threads"
        again = f"{label}, run times known"
        rows += [
            Row(f"{label}: CPU", own["cpu"], reach, first["cpu"], than, "s"),
            Row(f"{label}: p95 delay", own["p95"], soon, first["p95"], than, "s"),
            Row(f"{label}: CPU", own["cpu"], 1.0, threads["cpu"], other, "s"),
            Row(f"{label}: p95 delay", own["p95"], 1.0, threads["p95"], other, "s"),
            Row(f"{label}: connections", own["connections"], 20),
            Row(f"{again}: CPU", known["cpu"], reach, first["cpu"], than, "s"),
            Row(f"{again}: p95 delay", known["p95"], soon, first["p95"], than, "s"),
        ]
    return rows


def hanging(bench: Bench) -> list[Row]:
    """A slow network, and polls that hang."""
    many, found = bench.sizes.flights[0], dict[str, list[dict[str, Any]]]()
    kinds: dict[str, dict[str, float]] = {"without": {}, "delay": {"delay": 0.15}, "both": HANGS}
    for repeat in range(bench.sizes.repeats):
        for kind, options in kinds.items():
            got = bench.flight(OURS, many, bench.sizes.seconds, {}, seed=repeat + 1, **options)
            found.setdefault(kind, []).append(got)
    by_kind = {kind: bench.keep(f"hanging polls, {kind}", each) for kind, each in found.items()}
    name = f"{many:,} in flight, 150 ms delay, 1 % of polls hang: p95 delay"
    own = by_kind["both"]["p95"]
    return [
        Row(name, own, 2.0, by_kind["without"]["p95"], "ours, without either", "s"),
        Row(name, own, 2.0, by_kind["delay"]["p95"], "ours, 150 ms delay only", "s"),
    ]


def earlier_runs(seconds: float) -> list[float]:
    """Run times that earlier runs have left, where the median is so many seconds."""
    draw = Random("an earlier run")  # noqa: S311
    return [seconds * draw.lognormvariate(0.0, Options.sigma) for _ in range(50)]


def long_runs(bench: Bench) -> list[Row]:
    """Very many in flight that run for minutes, of a model whose run times are known."""
    many, seconds = bench.sizes.long
    counts = {"all": many, "a tenth": max(1, many // 10)}

    def run(name: str) -> dict[str, Any]:
        return bench.flight(OURS, counts[name], seconds, {"learned": earlier_runs(seconds)})

    with ThreadPoolExecutor() as pool:  # side by side, because each takes as long as its longest
        found = dict(zip(counts, pool.map(run, counts), strict=True))
    own, few = (bench.keep(f"long runs, {name}", [each]) for name, each in found.items())
    label = f"{many:,} in flight, {seconds:g} s each"
    cpu = f"a prediction at {counts['a tenth']:,}"
    kib = own["memory"] / many / 1024
    each, beside = own["cpu"] / many * 1000, few["cpu"] / counts["a tenth"] * 1000
    return [
        Row(f"{label}: wall", own["wall"], 1.15, own["longest"], "the longest prediction", "s"),
        Row(f"{label}: memory a prediction", kib, 16.0, unit="KiB"),
        Row(f"{label}: CPU a prediction", each, 1.15, beside, cpu, "ms"),
        Row(f"{label}: median delay", own["p50"], 0.1, own["mean run"], "the mean run time", "s"),
    ]


def task_runs(bench: Bench) -> list[Row]:
    """CPU beyond the HTTP requests: one batch, three task runs each, a task run for each poll."""
    many, beyond = bench.sizes.tasks, list[float]()
    for name in ("batch", "task_runs", "task_runs_per_poll"):  # once: each is a thousand of them
        # A server each: one that was left with thousands of task runs is busy for minutes.
        folder = bench.folder / f"server-{name}"
        folder.mkdir()
        with stand_in() as service, prefect_server(folder) as port:
            model = MODEL.format(bench.sizes.seconds)
            order = {"url": service.url, "model": model, "many": many}
            used = bench.work(name, order, "workers_tasks", prefect_port=port)
            counted = {
                key: value
                for key, value in service.stats().items()
                if key in ("creates", "polls", "files", "connections")
            }
            http = bench.work("requests", {**order, **counted}, "workers_tasks")
        got = {**used, **counted, "http": http["cpu"], "beyond": used["cpu"] - http["cpu"]}
        beyond.append(bench.keep(f"task runs, {name}", [got])["beyond"])
    own, three, polls = beyond
    label = f"CPU beyond HTTP, a batch of {many:,}"
    return [
        Row(label, own, 1 / 3, three, f"{many:,} times create, poll and save as task runs", "s"),
        Row(label, own, 1 / 10, polls, "a task run for each poll", "s"),
    ]


def files(bench: Bench) -> list[Row]:
    """Large files: memory and throughput."""
    many, size = bench.sizes.files
    found: dict[str, list[dict[str, Any]]] = {"files_ours": [], "files_httpx": []}
    for _ in range(bench.sizes.repeats):
        for name, each in found.items():
            with stand_in(Options(median=0.01, file_bytes=size)) as service:
                order = {"url": service.url, "model": MODEL.format(0.01), "many": many}
                used = bench.work(name, order)
                each.append({**used, "throughput": used["bytes"] / used["wall"] / 2**20})
    own, whole = (bench.keep(name, each) for name, each in found.items())
    label, than = f"{many} files of {size / 2**20:g} MiB", "httpx, each read whole"
    mib = 2**20
    return [
        Row(
            f"{label}: peak memory", own["memory"] / mib, 1 / 30, whole["memory"] / mib, than, "MiB"
        ),
        Row(
            f"{label}: throughput",
            *(own["throughput"], 0.9, whole["throughput"], than, "MiB/s"),
            least=True,
        ),
    ]


def small(bench: Bench) -> list[Row]:
    """One small prediction after the other, beside httpx by hand."""
    found: dict[str, list[dict[str, Any]]] = {"small_ours": [], "small_httpx": []}
    for repeat in range(bench.sizes.repeats * 2 + 1):
        for name, each in found.items():
            with stand_in(Options(seed=repeat + 1)) as service:
                order = {"url": service.url, "model": MODEL.format(0.05), "pause": 0.02}
                each.append(bench.work(name, {**order, "many": bench.sizes.small}))
    own, by_hand = (bench.keep(name, each) for name, each in found.items())
    many = bench.sizes.small
    return [
        Row(
            "one small prediction: wall",
            *(own["wall"] / many * 1000, 1.1, by_hand["wall"] / many * 1000, "httpx by hand", "ms"),
        ),
        Row(
            "one small prediction: CPU",
            *(own["cpu"] / many * 1000, 1.1, by_hand["cpu"] / many * 1000, "httpx by hand", "ms"),
        ),
    ]


_IMPORT = """
import sys, time
from prefect import flow, task
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""
_IMPORTS = {
    "import prefect_cometapi": "import prefect_cometapi",
    "all its names": "from prefect_cometapi import *",
    "prefect-aws": "import prefect_aws",
    "prefect-databricks": "import prefect_databricks",
}


def imports(bench: Bench) -> list[Row]:
    """What an import costs more than `from prefect import flow, task`."""
    folder = bench.folder / "environment-imports"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        wanted = [f"prefect=={version('prefect')}", "prefect-aws", "prefect-databricks", str(ROOT)]
        command = [str(python), "-m", "pip", "-q", "install", *wanted]
        subprocess.run(command, check=True)  # noqa: S603
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _IMPORTS}
    for repeat in range(2 * bench.sizes.repeats + 2):
        for name, line in _IMPORTS.items():
            done = subprocess.run(  # noqa: S603
                [str(python), "-c", _IMPORT.format(line)],
                env=clean_environment(bench.folder / "home-imports"),
                cwd=bench.folder,
                capture_output=True,
                text=True,
                check=True,
            )
            if repeat:  # the first writes the compiled files
                found[name].append({"seconds": float(done.stdout)})
    took = {name: bench.keep(f"import, {name}", each)["seconds"] for name, each in found.items()}
    aws, databricks = took["prefect-aws"], took["prefect-databricks"]
    beside = f"prefect-aws {aws:.2f} s, prefect-databricks {databricks:.2f} s"
    return [
        Row(f"{name}, after `from prefect import flow, task`", took[name], 0.1, None, beside, "s")
        for name in ("import prefect_cometapi", "all its names")
    ]
