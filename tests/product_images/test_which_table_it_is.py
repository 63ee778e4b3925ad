"""What is paid for is known by the table itself, whoever works on it under whichever name; and the
pictures say which table they are from."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sql
from prefect.settings import PREFECT_API_URL

from flows.product_images import address_of, open_products, product_images
from prefect_cometapi import InvalidInput
from tests.processes import wait_until
from tests.product_images.shop import Shop


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://db.example/shop", "postgresql://db.example/shop/public.products"),
        ("postgresql+psycopg://me:secret@db.example:6543/shop?sslmode=require", None),
        ("postgresql+psycopg://you@db.example:6543/shop", None),
        ("postgresql+psycopg:///shop", "postgresql://the-block/shop/public.products"),
        ("sqlite:////data/shop.sqlite", "sqlite:///data/shop.sqlite/public.products"),
    ],
)
def test_an_address_has_no_user_and_no_password(url: str, address: str | None) -> None:
    engine = sql.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    table = sql.Table("products", sql.MetaData(), schema="public")
    wanted = address or "postgresql://db.example:6543/shop/public.products"
    assert address_of(engine, table, "the-block") == wanted


def test_its_schema_may_be_named_or_not(shop: Shop) -> None:
    schema = "main" if shop.engine.dialect.name == "sqlite" else "public"
    for table in ("products", f"{schema}.products"):
        with open_products(shop.block, table, "id", "{{ name }}", "pictures") as products:
            assert products.asset.endswith(f"/{schema}.products")


def test_another_name_of_the_block_is_the_same_table(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(1)
    shop.run()
    url = str(shop.engine.url)
    other = Shop(url, f"{shop.block}-too", shop.folder, shop.service)  # which empties the table
    other.add(1)
    other.run()
    assert len(other.ids) == shop.service.counts.charged == 1


def test_another_database_behind_the_name_is_another_table(
    sqlite_shop: Shop, tmp_path: Path
) -> None:
    shop = sqlite_shop
    shop.add(1)
    shop.run()
    other = Shop(f"sqlite:///{tmp_path / 'other'}", shop.block, shop.folder, shop.service)
    other.add(1)
    other.run()
    assert len({*shop.ids, *other.ids}) == shop.service.counts.charged == 2


def test_another_column_as_the_key_is_another_table(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.sql("ALTER TABLE products ADD COLUMN sku INTEGER")
    shop.add(1, 2)
    shop.sql("UPDATE products SET sku = 3 - id")  # row 1 is row 2 by its other key
    shop.run(at_most=1)
    shop.run(key="sku")
    assert len(set(shop.ids)) == len(shop.ids) == shop.service.counts.charged == 2


def test_pictures_say_where_they_are_from(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(1, 2)
    shop.run(provenance=True)
    shop.check_pictures()
    for picture in (row[0] for row in shop.sql("SELECT picture FROM products")):
        beside = json.loads(Path(f"{picture}.provenance.json").read_text("utf-8"))
        assert beside["origin"]["template"]
        assert beside["key"] in ("1", "2")
    with open_products(shop.block, "products", "id", "{{ name }}", "pictures") as products:
        asset = products.asset
    words = {"filter": {"event": {"prefix": ["prefect.asset."]}, "any_resource": {"id": [asset]}}}

    def told() -> bool:
        answer = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json=words)
        return any("materialization" in each["event"] for each in answer.json()["events"])

    wait_until(told, f"the pictures are linked to {asset}")


def test_a_deployed_run_makes_no_table_of_its_own(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    with pytest.raises(InvalidInput, match="A deployed run needs a `database`"):
        product_images.with_options(retries=0)()
    assert not Path("products.sqlite").exists()
    assert not sqlite_shop.service.requests
