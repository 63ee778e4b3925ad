"""Processes for tests to stop, and a way to Prefect's server that can be blocked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.processes import ROOT

SHAPES = ROOT / "tests" / "flows" / "shapes.py"


class Process:
    """A process that runs, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log
        self.pid = process.pid

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self, within: float) -> int:
        """The exit code; minus the number of the signal that ended it."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within:g} s") from None

    def running(self) -> bool:
        return self._process.poll() is None


@contextmanager
def started(
    *words: str, environment: Mapping[str, str], log: Path, cwd: Path = ROOT
) -> Iterator[Process]:
    """A Python program with what it says in a file, which pytest shows if the test fails."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=dict(environment),
            cwd=cwd,
            stdout=output,
            stderr=output,
            # Also where whoever runs the tests ignores Ctrl-C, as background jobs of a shell do.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            start_new_session=True,
        )
    try:
        yield Process(process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        print(f"--- {' '.join(words)} has ended with {process.returncode}, and said:")
        print(log.read_text("utf-8", "replace"))


def flow_processes(parent: int) -> list[int]:
    """The processes below another one in which Prefect runs flows."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        runs_a_flow = "prefect.engine" in words or any("spawn_main" in word for word in words)
        if int(stat[1]) == parent and stat[0] != "Z" and runs_a_flow:
            found.append(int(folder.name))
    return found


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process that is stopped."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("ShdPnd:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


class Relay:
    """A port that leads to another one, until it is closed or stands still."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Take connections and bytes, and answer nothing."""
        self._open.clear()

    def thaw(self) -> None:
        """Go on."""
        self._open.set()

    def close(self) -> None:
        """Refuse connections, and lose those that there are."""
        self._open.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += near, far
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
