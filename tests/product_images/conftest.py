"""A shop of each test's own, in SQLite or in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from sqlalchemy import create_engine, text

from prefect_cometapi import journal
from prefect_cometapi.simulator import Simulator
from tests.postgresql import PostgreSQL, throw_away_server
from tests.product_images.shop import Shop
from tests.servers import configure


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)
    monkeypatch.setattr(journal, "LINGER", 0.02)
    # Of sync flows, Prefect waits a second for the thread that sends heartbeats.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL server, which may be stopped and started."""
    with throw_away_server() as server:
        yield server


@pytest.fixture
def block(request: pytest.FixtureRequest, cometapi_simulator: Simulator) -> str:
    """A name for the block that no other test uses."""
    port = cometapi_simulator.url.rpartition(":")[2]
    return f"{abs(hash(request.node.name)):x}-{port}"


@pytest.fixture
def sqlite_shop(
    prefect_server: None, block: str, tmp_path: Path, cometapi_simulator: Simulator
) -> Shop:
    """A shop in a file."""
    return Shop(
        f"sqlite:///{tmp_path / 'shop.sqlite'}", block, tmp_path / "out", cometapi_simulator
    )


@pytest.fixture
def postgres_shop(
    prefect_server: None,
    postgres: PostgreSQL,
    block: str,
    tmp_path: Path,
    cometapi_simulator: Simulator,
) -> Iterator[Shop]:
    """A shop on a server, in a database of its own: what is on record goes by its address."""
    server = create_engine(postgres.url(), isolation_level="AUTOCOMMIT")
    with server.connect() as now:
        now.execute(text(f'CREATE DATABASE "{block}"'))
    server.dispose()
    url = f"{postgres.url().rpartition('/')[0]}/{block}"
    shop = Shop(url, block, tmp_path / "out", cometapi_simulator)
    yield shop
    shop.engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest) -> Shop:
    """One of each."""
    found: Shop = request.getfixturevalue(f"{request.param}_shop")
    return found


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives constants of the flow other values."""

    def tune(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setattr(f"flows.product_images.{name}", value)

    return tune
