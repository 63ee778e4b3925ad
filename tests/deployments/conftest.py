"""A project that is deployed to a Prefect server on PostgreSQL, and workers for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.workers.process import ProcessWorker

from prefect_cometapi.simulator import Simulator
from tests.processes import ROOT, python, wait_until, with_key
from tests.stopping import Process, started

#: Seconds that a run may take: a worker needs some for each of three processes.
PATIENCE = 240.0
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
POOL = "cometapi"


class Run:
    """A flow run, as the server sees it."""

    def __init__(self, api: httpx.Client, id: str) -> None:
        self.api, self.id = api, id

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"flow_runs/{self.id}").raise_for_status().json()
        return found

    @property
    def state(self) -> str:
        """The name of its state: of several types some names are of one."""
        return str(self.read()["state"]["name"])

    def wait_for(self, *names: str, seconds: float = PATIENCE) -> str:
        """Wait for a state of one of these names; returns it."""
        try:
            wait_until(lambda: self.state in names, f"{self.id} is {names}", seconds)
        except AssertionError:
            print(self.read()["state"], "\n".join(self.log()))
            raise
        return self.state

    def end(self) -> str:
        """Wait until it has ended; returns the type of its state."""
        wait_until(lambda: self.read()["state_type"] in FINAL, f"the end of {self.id}", PATIENCE)
        return str(self.read()["state_type"])

    def tasks(self) -> list[dict[str, Any]]:
        """Its task runs, without those that stand for runs of other flows."""
        filter = {"flow_runs": {"id": {"any_": [self.id]}}}
        found: list[dict[str, Any]] = self.api.post("task_runs/filter", json=filter).json()
        return [run for run in found if not run["state"]["state_details"]["child_flow_run_id"]]

    def states(self) -> list[str]:
        """The names of all states that it has been in."""
        found = self.api.get("flow_run_states/", params={"flow_run_id": self.id}).json()
        return [each["name"] for each in sorted(found, key=lambda state: state["timestamp"])]

    def log(self) -> list[str]:
        """What Prefect's server has of its log."""
        filter = {"flow_run_id": {"any_": [self.id]}}
        found = self.api.post("logs/filter", json={"logs": filter, "sort": "TIMESTAMP_ASC"}).json()
        return [str(line["message"]) for line in found]

    def cancel(self) -> None:
        """What the UI's Cancel does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.api.post(f"flow_runs/{self.id}/set_state", json={"state": state}).raise_for_status()


@dataclass
class Project:
    """A copy of what a user clones, its server, and the service."""

    folder: Path
    environment: dict[str, str]
    service: Simulator
    api: httpx.Client

    def prefect(self, *words: str, **more: str) -> str:
        """A command of Prefect's, in the project's folder."""
        environment = self.environment | more
        words = ("-m", "prefect", *words)
        return python(*words, env=environment, cwd=self.folder, seconds=300).stdout

    def deploy(self, **environment: str) -> dict[str, dict[str, Any]]:
        """`prefect deploy --all`; what the server then has, by flow and name."""
        self.prefect("--no-prompt", "deploy", "--all", **environment)
        return self.deployed()

    def deployed(self) -> dict[str, dict[str, Any]]:
        """The deployments that the server has, by flow and name."""
        flows = {each["id"]: each["name"] for each in self._all("flows")}
        return {
            f"{flows[each['flow_id']]}/{each['name']}": each for each in self._all("deployments")
        }

    def _all(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.post(f"{kind}/filter", json={}).json()
        return found

    def run(self, deployment: str, **parameters: object) -> Run:
        """A run of it, now, with other parameters."""
        path = f"deployments/{self.deployed()[deployment]['id']}/create_flow_run"
        made = self.api.post(path, json={"parameters": parameters}).raise_for_status()
        return Run(self.api, made.json()["id"])

    def scheduled(self, deployment: str, **parameters: object) -> Run:
        """A run that the server's scheduler makes of one more schedule, which is due soon."""
        # Late enough to be seen by the scheduler, which looks every 5 s; and only once.
        due = datetime.now(UTC) + timedelta(seconds=20)
        schedule = {"interval": 86_400 * 300, "anchor_date": due.isoformat()}
        path = f"deployments/{self.deployed()[deployment]['id']}/schedules"
        new = {"schedule": schedule, "active": True, "parameters": parameters}
        (made,) = self.api.post(path, json=[new]).raise_for_status().json()
        # What has just been changed is scheduled within seconds, the rest within a minute.
        self.api.patch(path.removesuffix("/schedules"), json={"paused": False}).raise_for_status()
        found: list[dict[str, Any]] = []

        def look() -> bool:
            runs = self.api.post("flow_runs/filter", json={"sort": "ID_DESC"}).json()
            found.extend(run for run in runs if (run["created_by"] or {}).get("id") == made["id"])
            return bool(found)

        wait_until(look, f"a run of {deployment}")
        assert found[0]["auto_scheduled"]
        return Run(self.api, found[0]["id"])

    @contextmanager
    def worker(self, folder: Path | None = None, **more: str) -> Iterator[Process]:
        """A process worker; in a folder of its own it is on another machine."""
        words = ("-m", "prefect", "worker", "start", "--pool", POOL)
        environment = self.environment | more
        log = self.folder.parent / f"worker-{time.monotonic_ns()}.log"
        cwd = folder or self.folder
        with started(*words, environment=environment, log=log, cwd=cwd) as process:
            yield process


@pytest.fixture
def project(
    postgres_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> Iterator[Project]:
    """The project in a folder, with a work pool, and nothing deployed."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    environment = with_key(postgres_environment, cometapi_simulator)
    environment |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "PYTHONUNBUFFERED": "1"}
    url = environment["PREFECT_API_URL"]
    with httpx.Client(base_url=f"{url}/", timeout=60) as api:
        project = Project(folder, environment, cometapi_simulator, api)
        api.delete(f"work_pools/{POOL}")
        for deployment in project.deployed().values():
            api.delete(f"deployments/{deployment['id']}")
        template = ProcessWorker.get_default_base_job_template()
        pool = {"name": POOL, "type": "process", "base_job_template": template}
        api.post("work_pools/", json=pool).raise_for_status()
        yield project
