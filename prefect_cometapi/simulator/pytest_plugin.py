"""The pytest fixture `cometapi_simulator`: a fresh simulator for each test, and the way to it set.

@pytest.mark.cometapi_simulator(faults={"query.502": 0.2})
def test_my_flow(cometapi_simulator):
my_flow()
assert cometapi_simulator.counts.charged == 1
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prefect_cometapi.simulator.server import Simulator

_MARKER = "cometapi_simulator"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    text = "cometapi_simulator(**options): options of prefect_cometapi.simulator.run()"
    config.addinivalue_line("markers", f"{text} for the fixture cometapi_simulator")


@pytest.fixture
def cometapi_simulator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator["Simulator"]:
    """A quick simulator, with `COMETAPI_BASE_URL` and `COMETAPI_KEY` pointing to it."""
    from prefect_cometapi.simulator.server import run

    marker = request.node.get_closest_marker(_MARKER)
    options = {"run_time": 0.05, **(marker.kwargs if marker else {})}
    with run(**options) as simulator:
        monkeypatch.setenv("COMETAPI_BASE_URL", simulator.url)
        monkeypatch.setenv("COMETAPI_KEY", simulator.api_key)
        yield simulator
