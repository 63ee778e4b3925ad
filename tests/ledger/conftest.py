"""A home for records, and a scope of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_cometapi import CometAPICredentials
from prefect_cometapi.simulator import Simulator
from tests.homes import Home
from tests.servers import configure


@pytest.fixture(params=["server"])
def home(
    request: pytest.FixtureRequest,
    prefect_server: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """The server, unless a test asks for others of `HOMES`."""
    return Home.of(request.param, tmp_path / "ledger", monkeypatch)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)


@pytest.fixture
def scope(request: pytest.FixtureRequest, cometapi_simulator: Simulator, home: Home) -> str:
    return f"{request.node.name}-{cometapi_simulator.url}"[-150:]


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()
