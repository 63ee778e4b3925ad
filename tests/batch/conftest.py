"""A scope of each test's own, and quick time-outs."""

from __future__ import annotations

import pytest

from prefect_cometapi import journal
from tests.servers import configure


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)
    monkeypatch.setattr(journal, "LINGER", 0.02)
