"""A Prefect server of its own for a benchmark: a process, a free port, SQLite in a new folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment without this machine's settings of Prefect and of the package."""
    own = ("PREFECT_", "COMETAPI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **more,
    }


@contextmanager
def prefect_server(folder: Path) -> Iterator[int]:
    """Run a server; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (folder / "prefect-server.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env=clean_environment(folder / "prefect-server"),
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 180
            while not _healthy(port):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"The Prefect server did not start; see {log.name}.")
                time.sleep(0.3)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def records_on_server(port: int) -> dict[str, Any]:
    """The ledger's Variables, each as Prefect's API shows it, by name."""
    found: dict[str, Any] = {}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60) as http:
        while True:
            # Pages overlap: others come and go meanwhile.
            page = {"limit": 200, "offset": max(0, len(found) - 50), "sort": "CREATED_DESC"}
            wanted = {"variables": {"tags": {"all_": ["cometapi"]}}, **page}
            rows = http.post("/variables/filter", json=wanted).json()
            found |= {row["name"]: row for row in rows}
            if len(rows) < 200:
                return found


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
