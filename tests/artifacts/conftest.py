"""Quick time-outs, credentials for the simulator, and what a flow run has shown."""

from __future__ import annotations

import pytest

from prefect_cometapi import CometAPICredentials, journal
from prefect_cometapi.simulator import Simulator
from tests.servers import configure


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)
    monkeypatch.setattr(journal, "LINGER", 0.02)


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()
