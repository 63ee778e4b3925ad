"""A simulator of the service, and no patience with downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_cometapi import simulator
from prefect_cometapi.simulator import Simulator
from tests.servers import configure


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, download_timeout=4)


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator.run(run_time=0.001, speed=5, output_ttl=10_000, retry_after=0.1) as running:
        yield running
