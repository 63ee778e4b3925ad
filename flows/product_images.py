"""A picture for every row of a SQL table that has none, written back row by row.

    python flows/product_images.py                            # products.sqlite, made on first use
    python flows/product_images.py --database shop --at-most 10     # a saved block; ten rows of it

Stop it anywhere and start it again: no row is paid for twice, none is left out. What is on record
under the table and the edition is the memory of that: a row whose picture is set to NULL gets the
same picture again; for new ones, name another edition. With `COMETAPI_KEY` set it uses the real
service, which costs money; without, it starts the simulator, which draws stand-ins for free. See
docs/flows/product-images.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sql
from jinja2 import Environment, meta
from prefect import flow, get_run_logger, runtime, tags
from prefect.exceptions import ParameterTypeError
from prefect_sqlalchemy import SqlAlchemyConnector  # type: ignore[import-untyped]
from pydantic import Field
from sqlalchemy.exc import DBAPIError, NoSuchTableError, OperationalError, SQLAlchemyError

from prefect_cometapi import (
    BatchFailed,
    BatchItem,
    BatchResult,
    CometAPICredentials,
    CometAPIError,
    InvalidInput,
    ItemStatus,
    asset_key,
    cancel_predictions,
    fill_template,
    iter_predictions,
    load_settings,
    simulator,
    start_temporary_server,
)

MODEL = "black-forest-labs/flux-schnell"
DATABASE = Path("products.sqlite")
PROMPT = "Photograph of a {{ name or none }}, {{ description or 'new' }}, on a light background"
#: The columns that are written.
RESULT = ("picture", "sha256", "prediction_id", "error")
#: Of the runs, and of their tasks: what the UI finds them by.
TAGS = ("cometapi", "product-images")
#: Rows that are read at once: a table of any length never sits in memory.
PAGE = 500
#: Rows under way at once, which is also about what can still fail when everything does.
IN_FLIGHT = 200
#: Seconds that a database may be away in the middle, and between two tries of it.
PATIENCE, PAUSE = 120.0, 2.0
#: What the next run takes up again. What failed in another way has its reason in its row instead.
LEFT = (ItemStatus.NOT_SENT, ItemStatus.TIMED_OUT, ItemStatus.NOT_SAVED, ItemStatus.IN_DOUBT)


@flow(
    name="product-images",
    flow_run_name="{table}, edition {edition}",
    retries=2,  # they go on where the first try was
    retry_delay_seconds=60,
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
def product_images(
    database: str | None = None,
    table: str = "products",
    key: str = "id",
    prompt: Annotated[str, Field(max_length=2_000, pattern=r"\S")] = PROMPT,
    storage: str = "pictures",
    edition: Annotated[str, Field(max_length=60, pattern=r"\S")] = "1",
    model: str = MODEL,
    limit: str | None = None,
    at_most: Annotated[int, Field(ge=1)] | None = None,
    retry_failed: bool = False,
    provenance: bool = False,
    dry_run: bool = False,
    simulate: bool = False,
) -> BatchResult | None:
    """Make a picture for every row that has none, and write it back as soon as it is saved.

    Args:
        database: Name of a saved SQLAlchemy Connector block. By default the file
            `products.sqlite`, which is made with examples where it is not there.
        table: The table, or schema.table.
        key: The column that tells its rows apart; what is paid for is known by it.
        prompt: A template in Jinja2, with the names of columns. A row that lacks what it needs is
            refused by itself, with the reason in its column `error`.
        storage: A folder, or a saved block as block://type-slug/name; records live there, too.
        edition: Another one pays for new pictures of the rows that have none at that time.
        model: The model, as owner/name.
        limit: Name of a global concurrency limit of Prefect that others who use this key share.
        at_most: Only so many rows, to try it out.
        retry_failed: Make again, at a new price, the rows that have an error.
        provenance: Write beside each picture where it came from.
        dry_run: Only say what would be made, and what it is estimated to cost.
        simulate: Use the simulator instead of the real service, for free stand-ins.

    Returns:
        What became of the rows; None where each has a picture, or an error.

    Raises:
        CometAPIError: The table can not be used, or rows are left over for another run.
    """
    if simulate and database is not None:  # rows with a picture are never looked at again
        raise InvalidInput(f"simulate would write stand-ins into {table} of {database}.")
    if database is None and not simulate and runtime.deployment.id:
        raise InvalidInput(
            f"A deployed run needs a `database`: {DATABASE} is a new one on each machine that has "
            "none, or in each clone, and all of its rows would be paid for. Nothing was sent."
        )
    retry_failed = retry_failed and runtime.flow_run.run_count == 1  # what a retry finds is its own
    with (
        tags(*TAGS),
        open_products(database, table, key, prompt, storage) as products,
        service(simulate) as credentials,
    ):
        if next(products.rows(retry_failed), None) is None:
            get_run_logger().info("Each row of %s has a picture, or an error.", table)
            return None
        items = iter_predictions(
            credentials,
            model,
            fill_template(prompt, islice(products.rows(retry_failed), at_most), key=key),
            storage,
            prefix="products",
            provenance=provenance,
            sources=[products.asset],
            scope=products.scope(edition),
            in_flight=IN_FLIGHT,
            retry_failed=retry_failed,
            stop_after_failures=0.5,  # something is wrong with all of them, then
            dry_run=dry_run,
            limit=limit,
        )
        try:
            with closing(items):
                while True:
                    item = next(items)
                    if not dry_run:
                        products.write(item)
        except StopIteration as end:
            result: BatchResult = end.value
        if not dry_run and (products.unwritten or result.count(*LEFT)):
            raise BatchFailed(
                f"Of {table}: {result.summary}; {products.unwritten:,} rows lack their result, "
                "which is on record. Run it again: nothing is paid for twice. A person has to "
                "decide about those in doubt: `python -m prefect_cometapi ledger list --in-doubt "
                f"--scope {result.scope!r}`, then adopt, resubmit or abandon.",
                result=result,
            )
        return result


@dataclass
class Products:
    """The table. No transaction is open between two calls, so that nobody waits for this flow."""

    engine: sql.Engine
    table: sql.Table
    id: sql.Column[Any]
    #: The columns that a prompt is made of.
    source: set[str]
    #: What tells the table from all others, as the key of an asset.
    asset: str
    #: The ids of the rows under way, as the database has them.
    ids: dict[str, Any] = field(default_factory=dict)
    #: How many rows could not be given their result.
    unwritten: int = 0
    #: Set once the database was away for too long.
    away: DBAPIError | None = None

    def scope(self, edition: str) -> str:
        """The name under which its rows are paid once: the same in every run, of no other table."""
        mark = hashlib.sha256(f"{self.asset} {self.id.name}".encode()).hexdigest()[:12]
        return f"{self.table.name[:80]}, edition {edition}, {mark}"

    def rows(self, failed_too: bool) -> Iterator[Mapping[str, Any]]:
        """The rows without a picture, by id, also those that are added behind meanwhile."""
        columns = [self.table.c[name] for name in {self.id.name, *self.source}]
        query = sql.select(*columns).where(self.table.c.picture.is_(None))
        if not failed_too:
            query = query.where(self.table.c.error.is_(None))
        page = query = query.order_by(self.id).limit(PAGE)
        # A page starts behind the last row, not at a number: rows get their pictures meanwhile.
        while rows := self.patiently(page):
            for row in rows:
                self.ids[str(row[self.id.name])] = row[self.id.name]
                yield row
            page = query.where(self.id > rows[-1][self.id.name])

    def write(self, item: BatchItem) -> None:
        """Write what became of a row; where that fails, the others go on, and the next run does it.

        An item is on record before it gets here, so the next run finds it, and pays nothing.
        """
        id = self.ids.pop(str(item.key), None)
        if item.status in LEFT:
            return
        # Without a picture and a reason, it would be read again in each run.
        why = item.error or ("" if item.files else "It succeeded, and made no output.")
        why = why[: getattr(self.table.c.error.type, "length", None)]
        values: dict[str, Any] = {"prediction_id": item.prediction_id, "error": why or None}
        if item.files:
            values |= {"picture": item.files[0].location, "sha256": item.files[0].sha256}
        # Or written already, and only the answer to that was lost.
        ours = self.table.c.prediction_id == item.prediction_id if item.files else sql.false()
        there = sql.or_(self.table.c.picture.is_(None), ours)
        try:
            written = self.patiently(self.table.update().where(self.id == id, there).values(values))
        except DBAPIError as error:
            self.unwritten += 1
            text = "The result of %s is on record, and not in its row: the next run writes it. %s"
            if self.away is None or self.unwritten == 1:  # the others would say the same
                get_run_logger().error(text, item.what, said(error))
            return
        if not written:
            text = "%s is gone, or has a picture of another origin. Prediction %s is not used."
            get_run_logger().warning(text, item.what, item.prediction_id)

    def patiently(self, statement: sql.Executable) -> Any:
        """The rows, or how many were written, in a transaction; again while the database is away.

        Raises:
            DBAPIError: It was away for too long, now or before, or refuses.
        """
        if self.away is not None:
            raise self.away
        until, tries = time.monotonic() + PATIENCE, 0
        while True:
            try:
                with self.engine.begin() as now:
                    done = now.execute(statement)
                    return done.mappings().all() if done.returns_rows else done.rowcount
            except DBAPIError as error:
                if not is_away(error):
                    raise
                if time.monotonic() >= until:
                    self.away = error
                    raise
                if (tries := tries + 1) == 1:
                    text = "Trying the database for %g s. %s"
                    get_run_logger().warning(text, PATIENCE, said(error))
                time.sleep(PAUSE)


@contextmanager
def open_products(
    database: str | None, table: str, key: str, prompt: str, storage: str
) -> Iterator[Products]:
    """The table, by the name of its database's block.

    Raises:
        CometAPIError: The database, or the table, can not be used. Nothing was sent.
    """
    block, (schema, _, name) = (database or "").rpartition("/")[2], table.rpartition(".")
    fill_template(prompt, ())  # says what is wrong with it
    jinja = Environment()  # noqa: S701 - nothing is rendered with it
    source = meta.find_undeclared_variables(jinja.parse(prompt)) - jinja.globals.keys()
    with ExitStack() as stack:
        try:
            if database is None and not DATABASE.exists():
                with closing(sqlite3.connect(DATABASE)) as new:
                    new.executescript(Path(__file__).with_name("products.sql").read_text("utf-8"))
            # Not by its URL: parameters are shown to everybody, and that may hold a password.
            known = {"connection_info": f"sqlite:///{DATABASE}"}
            connector = SqlAlchemyConnector.load(block) if block else SqlAlchemyConnector(**known)
            # A connection that was lost while nobody used it is replaced.
            engine = stack.enter_context(connector).get_engine(pool_pre_ping=True)
            found = sql.Table(name, sql.MetaData(), schema=schema or None, autoload_with=engine)
            objection = objections(engine, found, key, source, storage)
            address = address_of(engine, found, block)
        except (SQLAlchemyError, sqlite3.Error, ImportError, ValueError) as error:
            why = "it is not there." if isinstance(error, NoSuchTableError) else said(error)
            where = f"The table {table} of {database or DATABASE}"
            raise CometAPIError(f"{where} can not be used: {why} Nothing was sent.") from None
        if objection:
            raise InvalidInput(f"{found} {objection}. Nothing was sent.")
        yield Products(engine, found, found.c[key], source, address)


def objections(
    engine: sql.Engine, table: sql.Table, key: str, source: set[str], storage: str
) -> str:
    """Why the table can not be worked on; empty where it can. Errors of the database are raised."""
    columns = table.c.keys()
    if missing := sorted({key, *source} - {*columns}):
        has = ", ".join(columns)
        return f"lacks the column {' and '.join(missing)} for key or prompt; it has {has}"
    if missing := [name for name in RESULT if name not in columns]:
        add = " ".join(f"ALTER TABLE {table} ADD COLUMN {name} TEXT;" for name in missing)
        return f"lacks columns for the results: {add}"
    # A location is this, `products`, and a name that is made of the prediction's id.
    folder = storage if "://" in storage else str(Path(storage).absolute())
    for name, need in (("picture", len(folder) + 60), ("sha256", 64), ("prediction_id", 36)):
        if (room := getattr(table.c[name].type, "length", None)) and room < need:
            return f"has room for {room} characters in {name}, and {need} are needed: make it TEXT"
    counts = sql.func.count(), sql.func.count(sql.distinct(table.c[key]))
    with engine.begin() as now:
        rows, different = now.execute(sql.select(*counts).select_from(table)).one()
        # Of no row: whether it may be written to at all.
        now.execute(table.update().where(sql.false()).values(dict.fromkeys(RESULT)))
    if rows == different:
        return ""
    some = f"{rows - different:,} of {rows:,} rows with no {key}, or with that of another row"
    return f"has {some}, with which they would share a picture"


def address_of(engine: sql.Engine, table: sql.Table, block: str) -> str:
    """What tells the table from all others, as the key of an asset: no user, no password."""
    url, kind = engine.url, engine.dialect.name
    schema = table.schema or sql.inspect(engine).default_schema_name
    place = f"{url.host or block}{f':{url.port}' if url.port else ''}/{url.database}"
    if kind == "sqlite":
        place = Path(url.database or block).absolute().as_posix()
    return asset_key(f"{kind}://{place}/{schema}.{table.name}")


def said(error: Exception) -> str:
    """What the database says, in a line: its first, because others may repeat what was put in."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


def is_away(error: DBAPIError) -> bool:
    """Whether the same may work in a while: the database is locked, stopped or out of reach."""
    busy = getattr(error.orig, "sqlite_errorname", "SQLITE_BUSY").startswith("SQLITE_BUSY")
    return busy and (isinstance(error, OperationalError) or error.connection_invalidated)


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
    parser = argparse.ArgumentParser(description="A picture for every row that has none.")
    add = parser.add_argument
    add("--database", help="name of a saved SQLAlchemy Connector block (default: products.sqlite)")
    add("--table", default="products", help="table, or schema.table (default: %(default)s)")
    add("--key", default="id", help="column that tells its rows apart (default: %(default)s)")
    add("--prompt", default=PROMPT, help="template, with the names of columns")
    add("--storage", default="pictures", help="folder, or block://type-slug/name")
    add("--edition", default="1", help="another one pays for new pictures")
    add("--at-most", type=int, help="only so many rows, to try it out")
    add("--retry-failed", action="store_true", help="make rows again that have an error")
    add("--provenance", action="store_true", help="write beside each picture where it came from")
    add("--dry-run", action="store_true", help="only say what would be made")
    options = vars(parser.parse_args())
    try:
        simulate = load_settings().api_key is None and options["database"] is None
        if simulate:
            print("No COMETAPI_KEY is set: the simulator draws stand-ins, for free.")
        start_temporary_server()
        with tags(*TAGS):
            result = product_images.with_options(retries=0)(simulate=simulate, **options)
    except (CometAPIError, ParameterTypeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The next run goes on; what was canceled is made again, at a new price.")
        return 130
    print(result.summary if result else "Nothing to do: each row has a picture, or an error.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
