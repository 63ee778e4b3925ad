"""What `prefect.yaml` deploys is made by the scheduler, taken up by a worker, and pays once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_sqlalchemy import SqlAlchemyConnector  # type: ignore[import-untyped]

from tests.deployments.conftest import Project
from tests.processes import ROOT, wait_until

CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))


@dataclass(frozen=True)
class Made:
    """What one run of a deployment leaves behind."""

    pictures: int
    #: What it is called in the UI.
    name: str


TODAY = f"{datetime.now(UTC):%Y}-"
#: Each deployment of `prefect.yaml` has to be here, by its name.
EXPECTED = {
    "nightly": Made(16, "2 of each in prompts.txt"),
    "weekly": Made(12, f"table.csv, {TODAY}"),
    "every-quarter-hour": Made(30, "products, edition 1"),
    "gallery": Made(12, f"Harbours at dawn, {TODAY}"),
    "grid": Made(9, "variations of A paper boat on calm water"),
    "sundays": Made(12, f"table.csv, {TODAY}"),  # by two runs of the deployment `workers`
}
NAMES = [deployment["name"] for deployment in CONTENT["deployments"]]
PRODUCTS = "product-images/every-quarter-hour"


def test_each_is_expected() -> None:
    assert sorted([*EXPECTED, "workers"]) == sorted(NAMES)


def save_a_shop(project: Project) -> str:
    """A database behind a block, which a run that is for real needs; returns its name."""
    file = project.folder / "shop.sqlite"
    with closing(sqlite3.connect(file)) as new:
        new.executescript((ROOT / "flows" / "products.sql").read_text("utf-8"))
    with temporary_settings({PREFECT_API_URL: project.environment["PREFECT_API_URL"]}):
        SqlAlchemyConnector(connection_info=f"sqlite:///{file}").save("shop", overwrite=True)
    return "shop"


@pytest.mark.slow
def test_scheduled_runs(project: Project) -> None:
    deployed = project.deploy()
    assert sorted(each["name"] for each in deployed.values()) == sorted(NAMES)
    for name, deployment in deployed.items():
        described = deployment["parameter_openapi_schema"]["properties"]
        assert all(each.get("description") for each in described.values()), name
    del deployed["shard/workers"]
    assert all(deployment["schedules"] for deployment in deployed.values())
    # What the form would not take, the server does not, either.
    gallery = deployed["nightly-gallery/gallery"]["id"]
    wrong = {"parameters": {"theme": "Boats", "pictures": 201}}
    refused = project.api.post(f"deployments/{gallery}/create_flow_run", json=wrong)
    assert refused.status_code == 409
    assert "201 is greater than the maximum of 200" in refused.text
    # The service is a simulator, too, but one that can be asked what it has charged for.
    more: dict[str, dict[str, Any]] = {
        name: {"simulate": False, "storage": name} for name in deployed
    }
    more[PRODUCTS]["database"] = save_a_shop(project)
    runs = {name: project.scheduled(name, **more[name]) for name in deployed}
    with project.worker():
        assert runs[PRODUCTS].end() == "COMPLETED", runs[PRODUCTS].log()
        # As it is declared: with a simulator, and a database, of its own.
        alone = project.run(PRODUCTS, storage="stand-ins")
        for name, run in runs.items():
            assert run.end() == "COMPLETED", run.log()
            expected, seen = EXPECTED[deployed[name]["name"]], run.read()
            assert seen["parameters"] == deployed[name]["parameters"] | more[name]
            assert seen["name"].startswith(expected.name)
            assert {*seen["tags"]} >= {*deployed[name]["tags"]}
            assert all({*task["tags"]} >= {*deployed[name]["tags"]} for task in run.tasks())
            assert len(pictures(project, name)) == expected.pictures
        charged = sum(expected.pictures for expected in EXPECTED.values())
        assert project.service.counts.charged == charged
        assert alone.end() == "COMPLETED", alone.log()
        assert len(pictures(project, "stand-ins")) == 30
    for deployment in deployed.values():
        if any(schedule["active"] for schedule in deployment["schedules"]):
            wait_until(partial(planned, project, deployment["id"]), "the nights are planned")


@pytest.mark.long
def test_as_they_are_declared_they_cost_nothing(project: Project) -> None:
    deployed = project.deploy()
    del deployed["shard/workers"]
    with project.worker():
        for name, run in [(name, project.run(name, storage=name)) for name in deployed]:
            assert run.end() == "COMPLETED", run.log()
            made = pictures(project, name)
            assert len(made) == EXPECTED[deployed[name]["name"]].pictures, made
    assert project.service.counts.charged == 0


def pictures(project: Project, folder: str) -> list[Path]:
    files = (project.folder / folder).rglob("*")
    return [file for file in files if file.suffix in (".webp", ".png", ".jpg")]


def planned(project: Project, deployment: str) -> bool:
    filter = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    runs = project.api.post("flow_runs/filter", json={"flow_runs": filter}).json()
    return any(run["auto_scheduled"] for run in runs)
