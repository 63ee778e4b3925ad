"""Every row without a picture gets one, with its hash and its prediction, and is paid for once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.product_images.shop import Shop, at_each_row

COUNT = 30


def test_all_rows_and_each_once(shop: Shop) -> None:
    shop.add(*range(COUNT))
    result = shop.run()
    assert result
    assert result.summary == f"{COUNT} saved"
    assert len(shop.ids) == COUNT
    shop.check_pictures()
    assert shop.service.counts.charged == COUNT
    assert shop.run() is None
    assert shop.service.counts.creates == COUNT


def test_pages_while_rows_are_written_and_added(shop: Shop, tuned: Callable[..., None]) -> None:
    shop.add(*range(10, 20))

    def adding(row: Mapping[str, object]) -> None:
        if row["id"] == 14:  # nothing is open by now that this would have to wait for
            shop.add(5, 25)

    tuned(PAGE=3, IN_FLIGHT=2)
    with at_each_row(adding):
        shop.run()
    assert len(shop.ids) == 11  # what is added in front of what was read waits for the next run
    assert shop.sql("SELECT id FROM products WHERE picture IS NULL") == [(5,)]
    shop.run()
    assert len(shop.ids) == shop.service.counts.charged == 12
    shop.check_pictures()


def test_another_key_of_another_schema(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.sql("CREATE SCHEMA IF NOT EXISTS other")
    shop.sql("DROP TABLE IF EXISTS other.things")
    shop.sql(
        "CREATE TABLE other.things (sku uuid PRIMARY KEY, name text, description text, "
        "picture text, sha256 text, prediction_id text, error varchar(20))"
    )
    for name in ("A boat", "A lamp", ""):
        shop.sql("INSERT INTO other.things VALUES (gen_random_uuid(), :name)", name=name)
    shop.run(table="other.things", key="sku")
    rows = shop.sql('SELECT picture, error FROM other.things ORDER BY name COLLATE "C"')
    assert rows[0][0] is None
    assert len(rows[0][1]) == 20
    assert all(Path(row[0]).is_file() and row[1] is None for row in rows[1:])


def test_the_same_picture_again_and_a_new_one_by_another_edition(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(1, 2)
    shop.run()
    first = shop.ids
    shop.sql("UPDATE products SET picture = NULL WHERE id = 2")
    shop.run()
    assert shop.ids == first
    assert shop.service.counts.charged == 2
    shop.sql("UPDATE products SET picture = NULL WHERE id = 2")
    shop.run(edition="2")
    assert shop.ids[0] == first[0]
    assert shop.ids[1] != first[1]
    assert shop.service.counts.charged == 3


def test_a_picture_that_somebody_gave_it_meanwhile_stays(
    sqlite_shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = sqlite_shop
    shop.add(1, 2, 3)

    def meddling(row: Mapping[str, object]) -> None:
        if row["id"] == 2:  # all of them have been read by now
            shop.sql("UPDATE products SET picture = 'mine' WHERE id = 2")
            shop.sql("DELETE FROM products WHERE id = 3")

    with at_each_row(meddling):
        shop.run()
    assert shop.sql("SELECT picture FROM products WHERE id = 2") == [("mine",)]
    assert caplog.text.count("is gone, or has a picture of another origin") == 2


def test_a_dry_run_writes_nothing_and_a_few_rows_are_a_few(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(*range(8))
    shop.sql("UPDATE products SET name = NULL WHERE id = 5")
    result = shop.run(dry_run=True)
    assert result
    assert result.summary == "1 refused, 7 would be sent"
    assert not shop.errors
    assert shop.service.counts.creates == 0
    shop.run(at_most=3)
    assert len(shop.ids) == shop.service.counts.creates == 3
