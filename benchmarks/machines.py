"""One table by one process, by several of a machine, and by two workers: what each costs.

    python benchmarks/machines.py [--rows 1000] [--json FILE]

The service is the stand-in, the bucket a moto server, Prefect a server with SQLite behind a proxy
that counts. Shown, not judged: all of them share one machine here. See `README.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.prefect_server import ROOT, clean_environment, prefect_server
from benchmarks.proxy import Message, Watcher, proxy
from benchmarks.stand_in import Options, StandIn, stand_in
from benchmarks.tables import markdown

BUCKET = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing", "region_name": "eu"}
#: Creates a second, together: so many that they are not what is measured.
RATE = 1000
#: How a table is made: what `--on` says, and the number of shards.
FORMS = {
    "one process": ("threads", 1),
    "two processes of a machine": ("processes", 2),
    "Dask, two processes": ("dask", 2),
    "two workers, a run for each shard": ("shard/machines", 2),
}

#: What a team sets up once: a bucket, one rate, a work pool, and the flow in it.
SET_UP = """
import asyncio, json, sys
import boto3  # type: ignore[import-untyped]
from prefect import flow, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.workers.process import ProcessWorker
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

root, endpoint, keys, name, at_once, rate = map(json.loads, sys.argv[1:])
boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(
    Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu"}
)
parameters = AwsClientParameters(endpoint_url=endpoint)
bucket = S3Bucket(
    bucket_name=name, credentials=AwsCredentials(aws_client_parameters=parameters, **keys)
)
bucket.save(name)
with get_client(sync_client=True) as client:
    client.create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate(name=name, limit=at_once, slot_decay_per_second=rate)
    )
    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(
        WorkPoolCreate(name=name, type="process", base_job_template=template)
    )
shard = flow.from_source(source=root, entrypoint="flows/many_machines.py:shard")
shard.deploy(name=name, work_pool_name=name, build=False, push=False, print_next_steps=False)
"""


class Counting(Watcher):
    """Counts what is asked of Prefect's server."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def request(self, request: Message) -> Message:
        """Let it pass."""
        self.seen[f"{request.method} {request.path.split('/')[2]}"] += 1
        return request


@contextmanager
def counted(port: int) -> Iterator[tuple[str, Counting]]:
    """A way to Prefect's server on which requests are counted."""
    ready, over = threading.Event(), asyncio.Event()
    watcher, found = Counting(), list[Any]()

    async def serve() -> None:
        async with proxy(port, watcher) as own:
            found.extend([own, asyncio.get_running_loop()])
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(30)
    try:
        yield f"http://127.0.0.1:{found[0]}/api", watcher
    finally:
        found[1].call_soon_threadsafe(over.set)
        thread.join(30)


@contextmanager
def process(log: Path, *words: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these words; at the end of the block it is asked to end."""
    with log.open("ab") as out:
        running = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *map(str, words)], stdout=out, stderr=out, **options
        )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(60)


@contextmanager
def bucket_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """An S3 server; yields its address, and its log with one request a line."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    log, url = folder / "s3.log", f"http://127.0.0.1:{port}"
    with process(log, "-c", "from moto.server import main; main()", f"-p{port}"):
        for _ in range(600):
            try:
                httpx.get(url, timeout=5, trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url, log


def cpu_of_children() -> float:
    """Seconds of CPU of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    form: str,
    rows: int,
    folder: Path,
    env: dict[str, str],
    service: StandIn,
    s3_log: Path,
    server: Counting,
) -> dict[str, Any]:
    """Make the table once, in one form."""
    on, shards = FORMS[form]
    service.reset()
    server.seen.clear()
    before, cpu = len(s3_log.read_bytes().splitlines()), cpu_of_children()
    words = ["--table", folder / "table.csv", "--scope", form, "--model", "stand-in/median-8"]
    words += ["--storage", "block://s3-bucket/machines", "--shards", shards, "--on", on]
    words += ["--limit", "machines"]
    with ExitStack() as stack:
        for number in range(2 if on.startswith("shard/") else 0):
            worker = ("-m", "prefect", "worker", "start", "--pool", "machines", "--limit", "1")
            home = {**env, "PREFECT_HOME": str(folder / f"machine-{number}")}
            stack.enter_context(process(folder / "workers.log", *worker, env=home, cwd=folder))
        if on.startswith("shard/"):
            time.sleep(20)  # they are there all the time, elsewhere
        began = time.monotonic()
        with process(
            folder / "flow.log", ROOT / "flows" / "many_machines.py", *words, env=env, cwd=folder
        ) as running:
            code = running.wait(1800)
        wall = time.monotonic() - began
    stats = service.stats()
    made = stats["predictions"].values()
    creates = [each["created"] for each in made]
    return {
        "form": form,
        "exit code": code,
        "wall": wall,
        "making": max(each["noticed"] or 0 for each in made) - min(creates),
        "cpu": cpu_of_children() - cpu,
        "creates": stats["creates"],
        "polls": stats["polls"],
        "s3": len(s3_log.read_bytes().splitlines()) - before,
        "prefect": sum(server.seen.values()),
        "prefect by kind": dict(server.seen.most_common()),
    }


def main() -> int:
    """Measure each form; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--only", choices=FORMS, help="measure this form alone")
    parser.add_argument("--json", type=Path, help="write what was measured")
    options = parser.parse_args()
    dask = importlib.util.find_spec("prefect_dask")
    forms = [form for form in FORMS if dask or "Dask" not in form]
    forms = [form for form in forms if options.only in (None, form)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cometapi-machines-")))
        service = stack.enter_context(stand_in(Options()))
        s3, s3_log = stack.enter_context(bucket_server(folder))
        url, server = stack.enter_context(counted(stack.enter_context(prefect_server(folder))))
        env = clean_environment(
            folder / "home",
            PREFECT_API_URL=url,
            COMETAPI_KEY="sk-of-the-stand-in",
            COMETAPI_BASE_URL=service.url,
            PYTHONPATH=str(ROOT),
            PREFECT_WORKER_QUERY_SECONDS="2",
        )
        lines = [f"row-{number},boat {number}" for number in range(options.rows)]
        (folder / "table.csv").write_text("\n".join(["id,prompt", *lines]), "utf-8")
        set_up = map(json.dumps, (str(ROOT), s3, BUCKET, "machines", RATE, RATE))
        subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-c", SET_UP, *set_up], env=env, check=True, stdout=sys.stderr
        )
        measured = []
        for form in forms:
            measured.append(measure(form, options.rows, folder, env, service, s3_log, server))
            print(json.dumps(measured[-1]), file=sys.stderr)
            if measured[-1]["exit code"]:
                print((folder / "flow.log").read_text()[-3000:], file=sys.stderr)
    rows = [
        (
            each["form"],
            f"{each['wall']:.0f} s",
            f"{each['making']:.1f} s",
            f"{each['cpu']:.0f} s",
            each["creates"],
            each["polls"],
            each["s3"],
            each["prefect"],
        )
        for each in measured
    ]
    head = ("", "wall", "first create to last done", "CPU", "creates", "polls")
    print(markdown((*head, "requests to S3", "to Prefect's server"), rows))
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "measured": measured}, indent=1))
    return int(any(each["exit code"] or each["creates"] != options.rows for each in measured))


if __name__ == "__main__":
    sys.exit(main())
