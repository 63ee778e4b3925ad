"""Python programs in processes of their own, which tests race, kill and start anew."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS = 120.0


@contextmanager
def started(
    script: str, *arguments: object, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program; at the end of the block it is killed if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *(json.dumps(argument) for argument in arguments)],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(process: subprocess.Popen[str]) -> list[Any]:
    """Wait for the end; what it printed, each line as JSON."""
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def ran(
    script: str, *arguments: object, env: Mapping[str, str], cwd: Path | None = None
) -> list[Any]:
    """Run a program to its end; what it printed, each line as JSON."""
    with started(script, *arguments, env=env, cwd=cwd) as process:
        return answers(process)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.05)
