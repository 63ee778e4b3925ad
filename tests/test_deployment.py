"""What `prefect.yaml` deploys runs: on a real server, taken up by a real worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from prefect_cometapi.simulator import Simulator
from tests.processes import ROOT, python, wait_until, with_key
from tests.servers import closed_port


def test_it_is_valid_for_prefect() -> None:
    models = pytest.importorskip(
        "prefect.cli.deploy._models", reason="this version of Prefect has no model of prefect.yaml"
    )
    import jsonschema

    content = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    models.PrefectYamlModel.model_validate(content)
    jsonschema.validate(content, models.PrefectYamlModel.model_json_schema())


def test_every_entrypoint_and_parameter_exists() -> None:
    import importlib.util
    import inspect

    content = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    assert content["deployments"]
    for deployment in content["deployments"]:
        path, _, name = deployment["entrypoint"].partition(":")
        spec = importlib.util.spec_from_file_location("deployed", ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        known = inspect.signature(getattr(module, name).fn).parameters
        assert set(deployment["parameters"]) <= set(known)
        assert deployment["schedules"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A `prefect server start` of its own; its value is the environment for its clients."""
    port = closed_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: healthy(environment["PREFECT_API_URL"]), "a server")
            yield environment
        finally:
            process.terminate()
            process.wait(30)


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_deploy_all_and_one_run_by_a_worker(
    server: dict[str, str], tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(ROOT / "flows", project / "flows")
    shutil.copy(ROOT / "prefect.yaml", project)

    def prefect(*arguments: str) -> None:
        environment = with_key(server, cometapi_simulator)
        python("-m", "prefect", *arguments, env=environment, cwd=project, seconds=300)

    prefect("work-pool", "create", "cometapi", "--type", "process")
    prefect("--no-prompt", "deploy", "--all")
    url = server["PREFECT_API_URL"]
    (deployment,) = httpx.post(f"{url}/deployments/filter", json={}).json()
    assert deployment["schedules"][0]["active"]
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    described = deployment["parameter_openapi_schema"]["properties"]
    assert all(described[name]["description"] for name in described)

    prefect("deployment", "run", "quickstart/nightly", "--param", "simulate=false")
    prefect("worker", "start", "--pool", "cometapi", "--run-once", "--limit", "1")

    # The scheduler has planned the coming nights.
    def planned() -> bool:
        runs = httpx.post(f"{url}/flow_runs/filter", json={}).json()
        return any(run["auto_scheduled"] for run in runs)

    wait_until(planned, "the nights are planned")

    def state() -> str:
        (run,) = [
            run
            for run in httpx.post(f"{url}/flow_runs/filter", json={}).json()
            if not run["auto_scheduled"]
        ]
        return str(run["state_type"])

    wait_until(lambda: state() not in ("SCHEDULED", "PENDING", "RUNNING"), "an end", 180)
    assert state() == "COMPLETED"
    assert len(list(project.glob("pictures/*/*/*.webp"))) == 16
    assert cometapi_simulator.counts.charged == 16
