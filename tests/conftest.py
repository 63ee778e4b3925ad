"""What tests stand on: no settings of the machine, and a Prefect server where one is asked for."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    from tests.homes import Home

import pytest  # noqa: E402
from hypothesis import Phase, settings  # noqa: E402

# Few examples and always the same; more of them, drawn anew: pytest --hypothesis-profile=long
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
settings.register_profile("quick", max_examples=200, deadline=None, derandomize=True, phases=PHASES)
settings.register_profile("long", max_examples=5_000, deadline=None, database=None, phases=PHASES)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of the test run's own, shared by all tests that need one."""
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # see there
            patch.setenv("PYTHONPATH", str(Path(__file__).parent / "calm_server"))
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
    initdb = _postgres_program("initdb")
    if initdb is None:
        pytest.skip("there is no PostgreSQL on this machine: apt-get install postgresql")
    with ExitStack() as stack:
        port = _free_port()
        stack.enter_context(_postgres(initdb, port))
        url = f"http://127.0.0.1:{(api := _free_port())}/api"
        home = tmp_path_factory.mktemp("prefect-on-postgres")
        environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(home)}
        database = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        stack.enter_context(
            _running(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(api)],
                lambda: _healthy(url),
                home / "server.log",
                env={**environment, "PREFECT_API_DATABASE_CONNECTION_URL": database},
            )
        )
        yield environment


def _postgres_program(name: str) -> Path | None:
    found = shutil.which(name)
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    # Through links, because the programs look for each other beside themselves.
    return Path(found).resolve() if found else debian[-1] if debian else None


@contextmanager
def _postgres(initdb: Path, port: int) -> Iterator[None]:
    """A cluster in a folder of its own. PostgreSQL refuses to run as root, so it does not."""
    # Not in $TMPDIR, which nobody but root may be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="prefect-cometapi-postgres-", dir="/tmp"))
    options: dict[str, object] = {"cwd": folder}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        group = pwd.getpwnam("nobody").pw_gid
        options |= {"user": "nobody", "group": group, "extra_groups": []}
    data = folder / "data"
    try:
        subprocess.run(
            [initdb, "-D", data, "-U", "prefect", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
            **options,  # type: ignore[call-overload]
        )
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        with _running(
            [initdb.with_name("postgres"), "-D", data, "-p", str(port)]
            + [word for setting in settings for word in ("-c", setting)],
            lambda: "ready" in (data / "postmaster.pid").read_text().splitlines()[-1],
            folder / "postgres.log",
            **options,
        ):
            yield
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _healthy(url: str) -> bool:
    import httpx

    return httpx.get(f"{url}/health", timeout=5).is_success


@contextmanager
def _running(
    command: list[object], ready: Callable[[], bool], log: Path, **options: object
) -> Iterator[None]:
    """A process that runs until the end of the block, from when it is ready."""
    import httpx

    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, **options)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if ready():
                    break
            except (OSError, IndexError, httpx.HTTPError):
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


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
