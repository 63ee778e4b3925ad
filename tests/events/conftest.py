"""Quick time-outs, and the credentials of the simulator."""

from __future__ import annotations

import pytest

from prefect_cometapi import CometAPICredentials
from prefect_cometapi.simulator import Simulator
from tests.servers import configure


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()
