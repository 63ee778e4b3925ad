"""What tests stand on: no settings of the machine, and a Prefect server where one is asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

# Before Prefect is imported anywhere: it reads these once.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-cometapi-tests-")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
# Some tests call tasks outside of a flow, where Prefect has nowhere to send their logs.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
for name in list(os.environ):
    if name.startswith(("COMETAPI_", "PREFECT_INTEGRATIONS_COMETAPI_", "PREFECT_API_")):
        del os.environ[name]

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the test run's own, shared by all tests that need one."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def prefect_environment(prefect_server: None) -> dict[str, str]:
    """The environment for a process that is to talk to the test run's Prefect server."""
    from prefect.settings import PREFECT_API_URL

    return {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
