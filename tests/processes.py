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

from prefect_cometapi.simulator import Simulator

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


def python(
    *words: object,
    code: int | None = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run Python with these words to its end, which must have this exit code; None is for any."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


def with_key(environment: Mapping[str, str], service: Simulator) -> dict[str, str]:
    """An environment in which the simulator is the service."""
    return {**environment, "COMETAPI_KEY": service.api_key, "COMETAPI_BASE_URL": service.url}


def wait_until(condition: Callable[[], object], what: str = "it", seconds: float = SECONDS) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.05)
