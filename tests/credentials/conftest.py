"""Credentials that can travel: from the environment, or saved."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_cometapi import CometAPICredentials
from tests.servers import KEY
from tests.travelling import made_in_code


@pytest.fixture
def from_env(monkeypatch: pytest.MonkeyPatch) -> CometAPICredentials:
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    return CometAPICredentials.from_env()


@pytest.fixture
def saved(prefect_server: None) -> CometAPICredentials:
    """Credentials that somebody saved, as they are loaded."""
    made: Any = made_in_code(base_url="https://gate.example")
    made.save("to-travel", overwrite=True)
    loaded: CometAPICredentials = CometAPICredentials.load("to-travel")  # type: ignore[assignment]
    return loaded
