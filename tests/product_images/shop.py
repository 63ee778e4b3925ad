"""A shop's table of products, in SQLite or PostgreSQL, and the flow that gives them pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect_sqlalchemy import (  # type: ignore[import-untyped]
    ConnectionComponents,
    SqlAlchemyConnector,
)
from sqlalchemy import create_engine, text

from flows.product_images import Products, product_images
from prefect_cometapi import BatchResult
from prefect_cometapi.simulator import Simulator
from tests.servers import SETTING

#: Makes a small text, so that many cost little.
MODEL = "simulator/text"
COLUMNS = (
    "id INTEGER PRIMARY KEY, name TEXT, description TEXT, "
    "picture TEXT, sha256 TEXT, prediction_id TEXT, error TEXT"
)


class Shop:
    """The table `products`, and what became of its rows."""

    def __init__(self, url: str, block: str, folder: Path, service: Simulator) -> None:
        self.engine, self.block, self.folder, self.service = (
            create_engine(url),
            block,
            folder,
            service,
        )
        if (parts := self.engine.url).host:  # as the page says that it is done
            database = SqlAlchemyConnector(
                connection_info=ConnectionComponents(
                    driver=parts.drivername,
                    username=parts.username,
                    password="any",
                    host=parts.host,
                    port=parts.port,
                    database=parts.database,
                ),
                connect_args={"connect_timeout": 10},
            )
        else:
            database = SqlAlchemyConnector(connection_info=url, connect_args={"timeout": 0.2})
        database.save(block, overwrite=True)
        self.sql("DROP TABLE IF EXISTS products")
        self.sql(f"CREATE TABLE products ({COLUMNS})")

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Do something with the database."""
        with self.engine.begin() as now:
            done = now.execute(text(statement), values)
            return list(done.all()) if done.returns_rows else []

    def add(self, *ids: int) -> None:
        """Put products in."""
        for id in ids:
            self.sql(
                "INSERT INTO products (id, name) VALUES (:id, :name)", id=id, name=f"boat {id}"
            )

    def parameters(self, **more: Any) -> dict[str, Any]:
        """The flow's parameters, as plain data."""
        return {"database": self.block, "storage": str(self.folder), "model": MODEL, **more}

    def words(self, **more: Any) -> tuple[str, str]:
        """The same as a program."""
        return "tests/flows/shop.py", json.dumps(self.parameters(**more))

    def run(self, **more: Any) -> BatchResult | None:
        """Run the flow, once."""
        result: BatchResult | None = product_images.with_options(retries=0)(
            **self.parameters(**more)
        )
        return result

    @property
    def ids(self) -> list[str]:
        """The predictions that rows have their pictures from."""
        rows = self.sql("SELECT prediction_id FROM products WHERE picture IS NOT NULL ORDER BY id")
        return [row[0] for row in rows]

    @property
    def errors(self) -> dict[int, str]:
        """The rows that have an error."""
        return {
            row[0]: row[1]
            for row in self.sql("SELECT id, error FROM products WHERE error IS NOT NULL")
        }

    def check_pictures(self) -> None:
        """Each picture is there, is what its row says, and is no other row's."""
        rows = self.sql(
            "SELECT picture, sha256, prediction_id FROM products WHERE picture IS NOT NULL"
        )
        for picture, sha256, prediction_id in rows:
            assert hashlib.sha256(Path(picture).read_bytes()).hexdigest() == sha256
            assert prediction_id in Path(picture).name
        assert len({row.prediction_id for row in rows}) == len(rows)
        files = [path for path in (self.folder / "products").iterdir() if path.name[0] != "."]
        assert {str(path) for path in files} >= {row.picture for row in rows}


@contextmanager
def at_each_row(do: Callable[[Mapping[str, Any]], object]) -> Iterator[None]:
    """Do something at the moment that a row is read."""
    rows = Products.rows

    def doing(products: Products, failed_too: bool) -> Iterator[Mapping[str, Any]]:
        for row in rows(products, failed_too):
            do(row)
            yield row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Products, "rows", doing)
        yield


def quick(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a program that polls often."""
    return {**environment, SETTING + "POLL_MIN": "0.05"}
