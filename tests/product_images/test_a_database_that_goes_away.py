"""A database that is away for a while is waited for; what could not be written back is brought by
the next run, at no cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from prefect_cometapi import BatchFailed
from tests.postgresql import PostgreSQL
from tests.product_images.shop import Shop, at_each_row

COUNT = 20


def at_row(number: int, do: Callable[[], object]) -> AbstractContextManager[None]:
    """Do something at the moment that this row is read."""
    return at_each_row(lambda row: do() if row["id"] == number else None)


def lock(shop: Shop) -> Callable[[], None]:
    """Lock a database file for everybody; returns what unlocks it."""
    connection = shop.engine.raw_connection()
    connection.execute("BEGIN EXCLUSIVE")

    def unlock() -> None:
        connection.rollback()
        connection.close()

    return unlock


def for_a_while(away: Callable[[], Callable[[], object]]) -> Callable[[], None]:
    """Until there was time for some tries."""

    def do() -> None:
        timer = threading.Timer(1.5, away())
        timer.daemon = True
        timer.start()

    return do


def test_a_locked_file_is_waited_for(
    sqlite_shop: Shop, tuned: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    shop = sqlite_shop
    shop.add(*range(COUNT))
    tuned(PAUSE=0.1, PAGE=3, IN_FLIGHT=4)
    with at_row(7, for_a_while(lambda: lock(shop))):
        shop.run()
    assert "database is locked" in caplog.text
    assert len(shop.ids) == shop.service.counts.charged == COUNT


def restart(postgres: PostgreSQL) -> Callable[[], Callable[[], object]]:
    def away() -> Callable[[], object]:
        postgres.stop()
        return postgres.start

    return away


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_is_waited_for(
    postgres_shop: Shop,
    postgres: PostgreSQL,
    tuned: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = postgres_shop
    shop.add(*range(COUNT))
    tuned(PAUSE=0.1, PAGE=3, IN_FLIGHT=4)
    with at_row(7, for_a_while(restart(postgres))):
        shop.run()
    assert "Trying the database for" in caplog.text
    shop.engine.dispose()
    assert len(shop.ids) == shop.service.counts.charged == COUNT


def goes_on_at_no_cost(shop: Shop, error: BatchFailed) -> None:
    assert " nothing " in str(error)
    before = shop.service.counts
    paid = before.charged
    assert len(shop.ids) < paid
    result = shop.run()
    assert result
    assert result.found == paid - (COUNT - result.total)
    assert len(shop.ids) == COUNT
    assert shop.service.counts.charged == COUNT
    shop.check_pictures()


def test_a_file_that_stays_locked(
    sqlite_shop: Shop, tuned: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    shop, unlock = sqlite_shop, list[Callable[[], None]]()
    shop.add(*range(COUNT))
    tuned(PAUSE=0.1, PATIENCE=0.5, PAGE=3, IN_FLIGHT=4)
    began = time.monotonic()
    with (
        at_row(10, lambda: unlock.append(lock(shop))),
        pytest.raises(BatchFailed, match="database is locked") as raised,
    ):
        shop.run()
    assert time.monotonic() - began < 60  # not a whole patience for each row
    assert caplog.text.count("is on record, and not in its row: the next run writes it") == 1
    unlock[0]()
    goes_on_at_no_cost(shop, raised.value)


@pytest.mark.slow
def test_a_server_that_stays_away(
    postgres_shop: Shop, postgres: PostgreSQL, tuned: Callable[..., None]
) -> None:
    shop = postgres_shop
    shop.add(*range(COUNT))
    tuned(PAUSE=0.1, PATIENCE=0.5, IN_FLIGHT=4)
    with at_row(10, postgres.stop), pytest.raises(BatchFailed) as raised:
        shop.run()
    postgres.start()
    shop.engine.dispose()
    goes_on_at_no_cost(shop, raised.value)


def test_one_row_that_the_database_refuses(
    postgres_shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = postgres_shop
    shop.add(*range(COUNT))
    shop.sql("ALTER TABLE products ADD CHECK (picture IS NULL OR id <> 7)")
    with pytest.raises(BatchFailed, match="1 rows lack their result") as raised:
        shop.run()
    assert "The result of key '7'" in caplog.text
    assert "products_check" in caplog.text
    assert len(shop.ids) == COUNT - 1
    shop.sql("ALTER TABLE products DROP CONSTRAINT products_check")
    goes_on_at_no_cost(shop, raised.value)
