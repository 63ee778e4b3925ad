"""From a table of prompts to a table of pictures: one task run, whatever the number of rows.

    python flows/table.py                        # the rows of flows/table.csv
    python flows/table.py --table mine.csv --scope 2026-11-22

Every row is a prediction with the row's id as its key, so a run that is stopped or killed and
started again with the same scope pays for no row twice. A row that can not be made is told by
itself. With `COMETAPI_KEY` set it uses the real service, which costs money; without, it starts the
simulator, which draws stand-ins for free.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, runtime, tags
from prefect.exceptions import ParameterTypeError
from pydantic import Field

from prefect_cometapi import (
    BatchFailed,
    BatchResult,
    CometAPICredentials,
    CometAPIError,
    InvalidInput,
    asset_key,
    cancel_predictions,
    fill_template,
    folder_of,
    load_settings,
    read_manifest,
    run_predictions,
    simulator,
    start_temporary_server,
    write_text,
)

TABLE = Path(__file__).with_name("table.csv")
MODEL = "black-forest-labs/flux-schnell"
#: What a row becomes, by its columns; `{{ prompt }}, {{ style or 'watercolour' }}` is one as well.
TEMPLATE, COLUMNS = "{{ prompt }}", ("id", "prompt")
#: Of the runs, and of their tasks: what the UI finds them by.
TAGS = ("cometapi", "table")


def run_name() -> str:
    """The run's name in the UI, such as "table.csv, 2026-11-22"."""
    given = runtime.flow_run.parameters  # without those that are left at their defaults
    scope = given.get("scope") or f"{runtime.flow_run.scheduled_start_time:%Y-%m-%d}"
    return f"{Path(given.get('table', TABLE)).name}, {scope}"


@flow(
    name="table",
    flow_run_name=run_name,
    retries=2,  # they go on where the first try was
    retry_delay_seconds=60,
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
def table(
    table: str = str(TABLE),
    storage: str = "pictures",
    scope: Annotated[str, Field(max_length=200, pattern=r"\S")] | None = None,
    model: str = MODEL,
    allow_failures: Annotated[float, Field(ge=0, le=1)] = 0.05,
    limit: str | None = None,
    provenance: bool = False,
    dry_run: bool = False,
    simulate: bool = False,
) -> BatchResult:
    """Make a picture for every row, and write a table of results with where each is.

    Args:
        table: A CSV file with the columns `id` and `prompt`.
        storage: A folder, or a saved block as block://type-slug/name; records live there, too.
        scope: A name under which each row is paid once, such as a date; by default this run and
            its retries.
        model: The model, as owner/name.
        allow_failures: The share of rows that may fail without the run being a failed one: a
            refused prompt is no reason to wake anybody.
        limit: Name of a global concurrency limit of Prefect that others who use this key share.
        provenance: Write beside each picture where it came from.
        dry_run: Only say what would be made.
        simulate: Use the simulator instead of the real service, for free stand-ins.

    Raises:
        CometAPIError: The table can not be used, or more rows failed than may.
    """
    path = Path(table).absolute()
    if next(rows(path), None) is None:
        raise InvalidInput(f"The table {path} has no rows. Nothing was sent.")
    with tags(*TAGS), service(simulate) as credentials:
        try:
            result = run_predictions(
                credentials,
                model,
                fill_template(TEMPLATE, rows(path), key="id"),
                storage,
                prefix="products",
                provenance=provenance,
                sources=[asset_key(f"file://{path.as_posix()}")],
                scope=scope,
                dry_run=dry_run,
                stop_after_failures=0.5,  # something is wrong with all of them, then
                allow_failures=allow_failures,
                limit=limit,
            )
        except BatchFailed as error:  # above all after a bad night one wants to see each row
            write_results(storage, error.result)
            raise
    write_results(storage, result)
    return result


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows as they are read: a table of a million rows never sits in memory.

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


def write_results(storage: str, result: BatchResult) -> None:
    """One line a row: its id, what became of it, and where the picture is."""
    if result.manifest is None:
        return
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "id", "status", "file", "sha256", "prediction", "error"])
    for item in read_manifest(storage, result.manifest):
        picture = item.files[0] if item.files else None
        file = (picture.location, picture.sha256) if picture else ("", "")
        row = (item.labels["row"], item.key, item.status)  # rows count from 0
        writer.writerow([*row, *file, item.prediction_id, item.error])
    # Beside the pictures: the folder that a deployed run works in may be gone with it.
    name = f"products/results-{folder_of(result.scope)}.csv"
    where = write_text(storage, name, text.getvalue())
    get_run_logger().info("What became of each row: %s", where)


@contextmanager
def service(simulate: bool) -> Iterator[CometAPICredentials]:
    """Credentials for the real service, or for a simulator that runs as long as the flow does."""
    if not simulate:
        yield CometAPICredentials.from_env()
        return
    # Another service each time, with other predictions.
    with simulator.run(seed=time.time_ns() % 1_000_000) as simulated:
        yield CometAPICredentials(api_key=simulated.api_key, base_url=simulated.url)


def main() -> int:
    """Run the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a picture for every row of a table.")
    add = parser.add_argument
    add("--table", default=str(TABLE), help="CSV file with columns id and prompt")
    add("--storage", default="pictures", help="folder, or block://type-slug/name")
    add("--scope", help="name under which each row is paid once, such as a date")
    add("--provenance", action="store_true", help="write beside each picture where it came from")
    add("--dry-run", action="store_true", help="only say what would be made")
    options = vars(parser.parse_args())
    # Who sits in front of it need not wait for a retry: the next run of the scope goes on as well.
    once = table.with_options(retries=0)
    try:
        simulate = load_settings().api_key is None
        options = once.validate_parameters({**options, "simulate": simulate})
        if simulate:
            print("No COMETAPI_KEY is set: the simulator draws stand-ins, for free.")
            print("Each run starts its own, so a scope does not carry over from the last one.")
        start_temporary_server()
        with tags(*TAGS):
            print(once(**options).summary)
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
