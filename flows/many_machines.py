"""From a table of prompts to pictures, by several processes: on one machine, on Dask, on workers.

    python flows/many_machines.py                         # threads of one process: to try it
    python flows/many_machines.py --on processes          # of this machine
    python flows/many_machines.py --on dask               # needs prefect-dask
    python flows/many_machines.py --on shard/workers      # a flow run for each shard: prefect.yaml

The table is split into shards. Each is a batch of its own, which one process works on at a time; so
a process that dies is replaced by any other, and no row is paid for twice. With `COMETAPI_KEY` set
where the shards are made it uses the real service, which costs money; without, each shard starts
the simulator, which draws stand-ins for free. See docs/more-than-one-machine.md.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger, runtime, tags, task
from prefect.deployments import arun_deployment
from prefect.exceptions import ParameterTypeError
from prefect.futures import wait
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from prefect_cometapi import (
    CometAPICredentials,
    CometAPIError,
    InvalidInput,
    Shard,
    asset_key,
    cancel_predictions,
    fill_template,
    load_settings,
    run_predictions,
    simulator,
    split_scope,
    start_temporary_server,
)

TABLE = Path(__file__).with_name("table.csv")
MODEL = "black-forest-labs/flux-schnell"
#: What a row becomes, by its columns.
TEMPLATE, COLUMNS = "{{ prompt }}", ("id", "prompt")
#: Of the runs, and of their tasks: what the UI finds them by.
TAGS = ("cometapi", "many-machines")


def run_name() -> str:
    """The run's name in the UI, such as "table.csv, 2026-11-22"."""
    given = runtime.flow_run.parameters  # without those that are left at their defaults
    scope = given.get("scope") or f"{runtime.flow_run.scheduled_start_time:%Y-%m-%d}"
    return f"{Path(given.get('table', TABLE)).name}, {scope}"


@flow(
    name="many-machines",
    flow_run_name=run_name,
    retries=2,  # they go on where the first try was
    retry_delay_seconds=60,
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
def many_machines(
    table: str = str(TABLE),
    storage: str = "pictures",
    scope: Annotated[str, Field(max_length=150, pattern=r"\S")] | None = None,
    shards: Annotated[int, Field(ge=1, le=1_000)] = 2,
    model: str = MODEL,
    limit: str | None = None,
    deployment: str | None = None,
    simulate: bool = False,
) -> list[str]:
    """Make a picture for every row; returns what became of each shard.

    Args:
        table: A CSV file with the columns `id` and `prompt`, which every machine can read.
        storage: Where every machine can write: block://type-slug/name (on one machine, a folder).
        scope: A name under which each row is paid once, such as a date; by default this run and
            its retries.
        shards: How many processes may work side by side. The first run of a scope decides.
        model: The model, as owner/name.
        limit: A global concurrency limit of Prefect with slot decay: one rate for all.
        deployment: Deployment of the flow `shard`: each is a flow run then, for any worker. By
            default each is a task run of this flow, which goes where its task runner puts it.
        simulate: Use a simulator for each shard instead of the real service, for free stand-ins.

    Raises:
        CometAPIError: The table can not be read, or a shard went wrong; the others are done.
    """
    if next(rows(Path(table)), None) is None:
        raise InvalidInput(f"The table {table} has no rows. Nothing was sent.")
    common: dict[str, Any] = {"table": table, "storage": storage, "model": model}
    common |= {"limit": limit, "simulate": simulate}
    with tags(*TAGS):
        parts = split_scope(scope, shards)
        if deployment:
            ends = [on_a_worker.submit(deployment, part, common) for part in parts]
        else:
            ends = [make.submit(part, **common) for part in parts]
        wait(ends)
    told = [f"{part.scope}: {end.state.message}" for part, end in zip(parts, ends, strict=True)]
    get_run_logger().info("\n".join(told))
    failed = [each for each, end in zip(told, ends, strict=True) if not end.state.is_completed()]
    if failed:
        raise CometAPIError(
            f"{len(failed)} of {len(parts)} shards went wrong. Run it again with the same scope: "
            "nothing is paid for twice.\n" + "\n".join(failed)
        )
    return told


@task(name="Shard", task_run_name="{shard.scope}")
def make(
    shard: Shard, table: str, storage: str, model: str, limit: str | None, simulate: bool
) -> State[Any]:
    """Make what belongs to one shard. The key does not travel: each process has its own."""
    path = Path(table).absolute()
    with service(simulate) as credentials:
        result = run_predictions(
            credentials,
            model,
            shard.pick(fill_template(TEMPLATE, rows(path), key="id")),
            storage,
            sources=[asset_key(f"file://{path.as_posix()}")],
            scope=shard.scope,
            limit=limit,
            stop_after_failures=0.5,  # something is wrong with all of them, then
            allow_failures=0.05,  # a refused prompt is no reason to wake anybody
        )
    return Completed(message=result.summary)


@flow(
    name="shard",
    flow_run_name="{shard.scope}",
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
def shard(
    shard: Shard,
    table: str = str(TABLE),
    storage: str = "pictures",
    model: str = MODEL,
    limit: str | None = None,
    simulate: bool = False,
) -> State[Any]:
    """One shard as a flow run, on whichever worker takes it up.

    Args:
        shard: Which one.
        table: A CSV file with the columns `id` and `prompt`.
        storage: Where pictures and records go, as block://type-slug/name.
        model: The model, as owner/name.
        limit: A global concurrency limit of Prefect with slot decay.
        simulate: Use a simulator instead of the real service, for free stand-ins.
    """
    with tags(*TAGS):
        return own(make(shard, table, storage, model, limit, simulate, return_state=True))


@task(name="Shard on a worker", task_run_name="{shard.scope}", retries=3)
async def on_a_worker(deployment: str, shard: Shard, common: dict[str, Any]) -> State[Any]:
    """Have a worker make a shard, and another one where that one died."""
    parameters = {"shard": shard.model_dump(), **common}
    run = await arun_deployment(deployment, parameters=parameters, flow_run_name=shard.scope)
    if run.state is None or run.state.is_crashed():
        raise RuntimeError("Its process died; the next one goes on with what is paid for.")
    return own(run.state)


def own(state: State[Any]) -> State[Any]:
    """How another run ended, and its words, as a state that a run can end with itself."""
    return State(type=state.type, message=state.message)


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows as they are read; every shard reads them all, which costs little.

    Raises:
        InvalidInput: It is no such table; a row that is not in order is told later, by itself.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            has = reader.fieldnames or ()
            if lacks := [name for name in COLUMNS if name not in has]:
                raise InvalidInput(
                    f"The table {path} lacks the column {' and '.join(lacks)}; it has: "
                    f"{', '.join(has) or 'nothing'}. Nothing was sent for it."
                )
            for row in reader:
                # As after a comma without quotes: half a prompt would be paid for.
                more = any(row.pop(None, ()))
                yield {"id": row["id"], "more cells than columns": ""} if more else row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"The table {path} can not be read as CSV in UTF-8: {why}.") from None


@contextmanager
def service(simulate: bool) -> Iterator[CometAPICredentials]:
    """Credentials for the real service, or for a simulator that runs as long as the shard does."""
    if not simulate:
        yield CometAPICredentials.from_env()
        return
    # Another service each time, with other predictions.
    with simulator.run(seed=time.time_ns() % 1_000_000) as simulated:
        yield CometAPICredentials(api_key=simulated.api_key, base_url=simulated.url)


def task_runner(on: str, processes: int) -> TaskRunner[Any]:
    """What runs the tasks of this flow."""
    if on == "threads":
        return ThreadPoolTaskRunner(max_workers=processes)
    if on == "processes":
        return ProcessPoolTaskRunner(max_workers=processes)
    import dask  # type: ignore[import-not-found,unused-ignore]
    from prefect_dask import DaskTaskRunner  # type: ignore[import-not-found,unused-ignore]

    # In older versions of Python 3.11 (python/cpython#106883) its profiler can block a process that
    # starts many threads, as boto3 does, for ever.
    dask.config.set({"distributed.worker.profile.enabled": False})
    cluster = {"n_workers": processes, "threads_per_worker": 1, "dashboard_address": None}
    runner: TaskRunner[Any] = DaskTaskRunner(cluster_kwargs=cluster)
    return runner


def main() -> int:
    """Run the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a picture for every row, by many processes.")
    add = parser.add_argument
    add("--table", default=str(TABLE), help="CSV file with columns id and prompt")
    add("--storage", default="pictures", help="folder, or block://type-slug/name")
    add("--scope", help="name under which each row is paid once, such as a date")
    add("--shards", type=int, default=2, help="processes side by side")
    add("--model", default=MODEL, help="as owner/name")
    add("--limit", help="global concurrency limit of Prefect: one rate for all")
    add("--on", default="threads", help="threads, processes, dask, or a deployment of `shard`")
    options = vars(parser.parse_args())
    on = options.pop("on")
    if on != "threads" and not PREFECT_API_URL.value():
        print("Several processes need one Prefect server: set PREFECT_API_URL.", file=sys.stderr)
        return 1
    # Who sits in front of it need not wait for a retry: the next run of the scope goes on as well.
    once = many_machines.with_options(retries=0)
    try:
        options["simulate"] = load_settings().api_key is None
        if options["simulate"]:
            print("No COMETAPI_KEY is set: each shard has the simulator draw stand-ins, for free.")
        if on in ("threads", "processes", "dask"):
            once = once.with_options(task_runner=task_runner(on, options["shards"]))
        else:
            options["deployment"] = on
        options["table"] = str(Path(options["table"]).absolute())
        start_temporary_server()
        with tags(*TAGS):
            print("\n".join(once(**options)))
    except (CometAPIError, ParameterTypeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "Interrupted. What is saved stays, and the same --scope goes on with it; what was "
            "canceled is made again then, at a new price."
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
