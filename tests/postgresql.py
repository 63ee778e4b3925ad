"""A throw-away PostgreSQL server, from the programs of Debian's package or any that are found."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


class PostgreSQL:
    """A server of its own, on loopback, where everybody is let in as the user `prefect`.

    Attributes:
        port: Where it listens; the same when it is started again.
    """

    def __init__(self, programs: Path, folder: Path, options: dict[str, Any]) -> None:
        self.port = free_port()
        self._programs, self._folder, self._options = programs, folder, options
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, driver: str = "psycopg") -> str:
        """Its URL for SQLAlchemy."""
        return f"postgresql+{driver}://prefect@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        data = self._folder / "data"
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        words = [word for setting in settings for word in ("-c", setting)]
        self._process = launched(
            [self._programs / "postgres", "-D", data, "-p", str(self.port), *words],
            lambda: "ready" in (data / "postmaster.pid").read_text().splitlines()[-1],
            self._folder / "postgres.log",
            **self._options,
        )

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None


@contextmanager
def throw_away_server() -> Iterator[PostgreSQL]:
    """A server that runs until the end of the block; the test is skipped where there is none."""
    initdb = _program("initdb")
    if initdb is None:
        pytest.skip("there is no PostgreSQL on this machine: apt-get install postgresql")
    # Not in $TMPDIR, which nobody but root may be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="prefect-cometapi-postgres-", dir="/tmp"))
    options: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "nobody")
        group = pwd.getpwnam("nobody").pw_gid
        options |= {"user": "nobody", "group": group, "extra_groups": []}
    words = ("-U", "prefect", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
    try:
        subprocess.run(
            [initdb, "-D", folder / "data", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
            **options,
        )
        server = PostgreSQL(initdb.parent, folder, options)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    # Through links, because the programs look for each other beside themselves.
    return Path(found).resolve() if found else debian[-1] if debian else None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def launched(
    command: list[object], ready: Callable[[], object], log: Path, **options: Any
) -> subprocess.Popen[bytes]:
    """A process, from when it is ready; what raises an OSError or an IndexError is not yet."""
    with log.open("w") as out:
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=out, **options)
    deadline = time.monotonic() + 120
    try:
        while True:
            with suppress(OSError, IndexError):
                if ready():
                    return process
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    except BaseException:
        process.kill()
        process.wait(30)
        raise
