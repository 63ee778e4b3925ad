"""A simulator of the service, and no patience."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_cometapi import simulator
from prefect_cometapi.simulator import Simulator
from tests.servers import KEY, configure


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(
        monkeypatch,
        connect_timeout=2,
        create_timeout=2,
        query_timeout=2,
        reconnect_timeout=1.5,
        submit_timeout=8,
    )


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator.run(run_time=0.02, retry_after=0.3, api_key=KEY) as running:
        yield running
