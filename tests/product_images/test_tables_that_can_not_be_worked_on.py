"""A table that can not be worked on is told in a sentence, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prefect_sqlalchemy import SqlAlchemyConnector  # type: ignore[import-untyped]

from flows import product_images
from prefect_cometapi import CometAPIError
from tests.product_images.shop import COLUMNS, Shop

REST = "name TEXT, description TEXT, picture TEXT, sha256 TEXT, prediction_id TEXT, error TEXT"
NO_KEY = f"products (id INTEGER, {REST}); INSERT INTO products "
#: A table, the flow's parameters, and what is said of it.
TABLES: dict[str, tuple[str, dict[str, str], str]] = {
    "no such table": (
        "other (id INTEGER)",
        {},
        "The table products of .* it is not there. Nothing",
    ),
    "no key": (
        f"products (sku TEXT, {REST})",
        {},
        "products lacks the column id for key or prompt; it has sku, name, .*error. Nothing was",
    ),
    "another key": (f"products ({COLUMNS})", {"key": "sku"}, "lacks the column sku"),
    "no source": ("products (id INTEGER, title TEXT)", {}, "lacks the column description and name"),
    "no source of the template": (
        f"products ({COLUMNS})",
        {"prompt": "A {{ colour }} {{ name }}"},
        "lacks the column colour for key or prompt",
    ),
    "no template": (f"products ({COLUMNS})", {"prompt": "A {{ name }"}, "can not be read: line 1"),
    "nowhere to write": (
        "products (id INTEGER, name TEXT, description TEXT, picture TEXT)",
        {},
        "lacks columns for the results: ALTER TABLE products ADD COLUMN sha256 TEXT; ALTER TABLE "
        "products ADD COLUMN prediction_id TEXT; ALTER TABLE products ADD COLUMN error TEXT;",
    ),
    "ids that are missing": (
        NO_KEY + "(id) VALUES (1), (NULL), (NULL)",
        {},
        "has 2 of 3 rows with no id, or with that of another row, with which they would share",
    ),
    "ids that are shared": (
        NO_KEY + "(id) VALUES (1), (1), (2)",
        {},
        "has 1 of 3 rows with no id, or with that of another row, with which they would share",
    ),
}


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("picture VARCHAR(20)", r"has room for 20 characters in picture, and \d+ are needed: make"),
        (
            "sha256 CHAR(40)",
            "has room for 40 characters in sha256, and 64 are needed: make it TEXT",
        ),
        (
            "prediction_id VARCHAR(16)",
            "has room for 16 characters in prediction_id, and 36 are need",
        ),
    ],
)
def test_columns_that_are_too_short_are_found_before_anything_is_paid(
    column: str, said: str, shop: Shop
) -> None:
    shop.sql("DROP TABLE products")
    name = column.split()[0]
    shop.sql(f"CREATE TABLE products ({COLUMNS.replace(f'{name} TEXT', column)})")
    shop.add(1)
    with pytest.raises(CometAPIError, match=said):
        shop.run()
    assert shop.service.counts.creates == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresq://me:secret@host/shop", "Can't load plugin: sqlalchemy.dialects:postgresq"),
        ("mssql+pymssql://me:secret@host/shop", "No module named 'pymssql'"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/shop", "[Cc]onnection refused"),
    ],
)
def test_a_driver_or_a_host_that_is_not_there_is_told_in_a_line(
    url: str, said: str, sqlite_shop: Shop
) -> None:
    SqlAlchemyConnector(connection_info=url).save(sqlite_shop.block, overwrite=True)
    with pytest.raises(CometAPIError, match=rf"can not be used: .*{said}.* Nothing was") as raised:
        sqlite_shop.run()
    assert len(str(raised.value).splitlines()) == 1
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("case", TABLES)
def test_it_says_what_is_wrong(case: str, shop: Shop) -> None:
    table, parameters, said = TABLES[case]
    shop.sql("DROP TABLE products")
    for statement in f"CREATE TABLE {table}".split("; "):
        shop.sql(statement)
    try:
        with pytest.raises(CometAPIError, match=said):
            shop.run(**parameters)
    finally:
        shop.sql("DROP TABLE IF EXISTS other")
    assert shop.service.counts.creates == 0


def test_a_place_where_no_file_can_be_made(
    sqlite_shop: Shop, tmp_path: Path, tuned: Callable[..., None]
) -> None:
    tuned(DATABASE=tmp_path / "nowhere" / "products.sqlite")
    with pytest.raises(CometAPIError, match="can not be used: unable to open database file"):
        sqlite_shop.run(database=None)


def test_one_that_may_only_be_read(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.add(1)
    name = shop.engine.url.database
    shop.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(CometAPIError, match=r"read-only transaction Nothing was sent\."):
        shop.run()
    assert shop.service.counts.creates == 0


def test_a_block_that_there_is_not(sqlite_shop: Shop) -> None:
    with pytest.raises(CometAPIError, match=r"Unable to find block document named nobodys.*sent\."):
        sqlite_shop.run(database="sqlalchemy-connector/nobodys")


def test_a_block_by_its_whole_name_is_the_same(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(1)
    shop.run(database=f"sqlalchemy-connector/{shop.block}")
    shop.sql("UPDATE products SET picture = NULL")
    shop.run()
    assert len(shop.ids) == shop.service.counts.charged == 1


def test_as_a_command_it_ends_with_one_line(
    sqlite_shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["product_images.py", "--table", "prodcuts"])
    assert product_images.main() == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "The table prodcuts of products.sqlite can not be used: it is not there. Nothing was sent."
    )
