"""`prefect flow-run retry` on another machine goes on with what the first one paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Crashed

from prefect_cometapi.simulator import Simulator
from tests.processes import python, started, wait_until, with_key

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

FLOWS = """
import json, os, sys
from pathlib import Path

from prefect import flow, runtime
from prefect_cometapi import CometAPICredentials, generate

MODEL = "black-forest-labs/flux-schnell"

def note(log, **what):
    with open(log, "a") as file:
        file.write(json.dumps({"run": runtime.flow_run.id, **what}) + "\\n")

@flow
def boat(folder: str, log: str):
    note(log, began=os.getcwd())
    made = generate(CometAPICredentials.from_env(), MODEL, {"prompt": "A boat"}, folder)
    note(log, made=made.prediction.id, files=[file.name for file in made.files])
    if Path(log).with_name("broken").exists():
        raise RuntimeError("what comes after it is broken")

@flow
def gallery(folder: str, log: str):
    note(log, parent=True)
    boat(folder, log)

if __name__ == "__main__":
    globals()[json.loads(sys.argv[1])](*map(json.loads, sys.argv[2:]))
"""


class Elsewhere:
    """A flow's file, its log, and the ways to run it."""

    def __init__(self, folder: Path, environment: dict[str, str], simulator: Simulator) -> None:
        self.folder, self.simulator = folder, simulator
        self.file, self.log = folder / "flows.py", folder / "log"
        self.pictures = folder / "pictures"
        self.environment = with_key(environment, simulator)
        self.file.write_text(FLOWS)
        self.broken = folder / "broken"

    def start(self, name: str) -> Any:
        arguments = (name, str(self.pictures), str(self.log))
        return started(FLOWS, *arguments, env=self.environment)

    def fail(self, name: str) -> None:
        self.broken.touch()
        with self.start(name) as process:
            _, errors = process.communicate(timeout=120)
        assert "what comes after it is broken" in errors
        self.broken.unlink()

    def noted(self, what: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in map(json.loads, lines) if what in line]

    def retry(self, run_id: str, name: str) -> None:
        """`prefect flow-run retry`, on a machine that shares nothing but the server."""
        machine = self.folder / "machine"
        machine.mkdir()
        words = ("-m", "prefect", "flow-run", "retry", run_id)
        environment = {**self.environment, "PREFECT_HOME": str(machine), "HOME": str(machine)}
        entrypoint = f"{self.file}:{name}"
        python(*words, "--entrypoint", entrypoint, env=environment, cwd=machine, seconds=180)


@pytest.fixture
def elsewhere(
    tmp_path: Path, prefect_environment: dict[str, str], cometapi_simulator: Simulator
) -> Elsewhere:
    return Elsewhere(tmp_path, prefect_environment, cometapi_simulator)


@pytest.mark.parametrize("persist", ["", "true"], ids=["default", "persisted"])
def test_a_failed_run_is_retried_on_another_machine(persist: str, elsewhere: Elsewhere) -> None:
    if persist:
        elsewhere.environment["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] = persist
    elsewhere.fail("boat")
    [first] = elsewhere.noted("made")
    elsewhere.retry(first["run"], "boat")
    assert elsewhere.noted("made") == [first, first]
    began = [line["began"] for line in elsewhere.noted("began")]
    assert began[0] != began[1] == str(elsewhere.folder / "machine")
    counts = elsewhere.simulator.counts
    assert (counts.creates, counts.downloads) == (1, 1)


def test_a_parent_is_retried_and_its_subflow_is_another_run(elsewhere: Elsewhere) -> None:
    elsewhere.fail("gallery")
    [parent] = elsewhere.noted("parent")
    elsewhere.retry(parent["run"], "gallery")
    assert elsewhere.noted("parent") == [parent, parent]
    first, second = elsewhere.noted("made")
    assert first["run"] != second["run"]
    assert first["made"] == second["made"]
    counts = elsewhere.simulator.counts
    assert (counts.creates, counts.downloads) == (1, 1)


@pytest.mark.cometapi_simulator(run_time=4.0)
def test_a_killed_run_is_marked_as_crashed_and_retried(elsewhere: Elsewhere) -> None:
    with elsewhere.start("boat") as process:
        wait_until(lambda: elsewhere.simulator.counts.polls, "the first poll")
        process.kill()
        process.wait()
    [first] = elsewhere.noted("began")
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(first["run"], Crashed(), force=True)
    elsewhere.retry(first["run"], "boat")
    [made] = elsewhere.noted("made")
    assert made["run"] == first["run"]
    assert list(elsewhere.simulator.predictions) == [made["made"]]
    assert [file.name for file in elsewhere.pictures.iterdir()] == made["files"]
    counts = elsewhere.simulator.counts
    assert (counts.creates, counts.downloads) == (1, 1)
