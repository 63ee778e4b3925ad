"""Credentials for the simulator."""

from __future__ import annotations

import pytest

from prefect_cometapi import CometAPICredentials
from prefect_cometapi.simulator import Simulator


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()
