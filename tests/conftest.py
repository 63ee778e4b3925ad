"""What tests stand on: no settings of the machine, and a Prefect server where one is asked for."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

# Before Prefect is imported anywhere: it reads these once.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-cometapi-tests-")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
# Some tests call tasks outside of a flow, where Prefect has nowhere to send their logs.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
for name in list(os.environ):
    if name.startswith(("COMETAPI_", "PREFECT_INTEGRATIONS_COMETAPI_", "PREFECT_API_")):
        del os.environ[name]

if TYPE_CHECKING:
    from prefect_cometapi.simulator import Simulator
    from tests.batches import Batches
    from tests.homes import Home

import pytest  # noqa: E402
from hypothesis import Phase, settings  # noqa: E402

# Few examples and always the same; more of them, drawn anew: pytest --hypothesis-profile=long
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
settings.register_profile("quick", max_examples=200, deadline=None, derandomize=True, phases=PHASES)
settings.register_profile("long", max_examples=5_000, deadline=None, database=None, phases=PHASES)
settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end, all workers wait for the last file of one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the test run's own, shared by all tests that need one."""
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # see there
            patch.setenv("PYTHONPATH", str(Path(__file__).parent / "calm_server"))
            # In place of five seconds, which each test that reads events would wait for.
            patch.setenv("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL", "0.2")
            stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield


@pytest.fixture
def prefect_environment(prefect_server: None) -> dict[str, str]:
    """The environment for a process that is to talk to the test run's Prefect server."""
    from prefect.settings import PREFECT_API_URL

    return {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}


@pytest.fixture(scope="session")
def postgres_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment for processes that are to talk to a Prefect server on PostgreSQL."""
    from tests.postgresql import free_port, launched, throw_away_server

    with throw_away_server() as postgres:
        url = f"http://127.0.0.1:{(port := free_port())}/api"
        home = tmp_path_factory.mktemp("prefect-on-postgres")
        environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(home)}
        database = {"PREFECT_API_DATABASE_CONNECTION_URL": postgres.url("asyncpg")}
        server = launched(
            [sys.executable, "-m", "prefect", "server", "start", "--port", port],
            lambda: _healthy(url),
            home / "server.log",
            env={**environment, **database},
        )
        try:
            yield environment
        finally:
            server.terminate()
            server.wait(30)


def _healthy(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(params=["server", "files"])
def home(
    request: pytest.FixtureRequest,
    prefect_server: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """Each home of the ledger's records in turn, set as the ledger."""
    from tests.homes import Home

    if request.param == "server":
        return Home("prefect-server", tmp_path)
    return Home.in_a_folder(tmp_path, monkeypatch)


@pytest.fixture
def batches(
    request: pytest.FixtureRequest,
    prefect_server: None,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> Batches:
    """Runs batches of a scope of the test's own."""
    from prefect_cometapi import CometAPICredentials
    from tests.batches import Batches

    scope = f"{request.node.name}-{cometapi_simulator.url}"[-150:]
    credentials = CometAPICredentials.from_env()
    return Batches(cometapi_simulator, credentials, tmp_path / "outputs", scope)
