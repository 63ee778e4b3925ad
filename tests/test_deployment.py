"""`prefect.yaml` is what Prefect reads, and each of its deployments has all that one needs.

That they run is seen in tests/deployments.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.utilities.importtools import load_script_as_module

from tests.processes import ROOT

CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
EACH = pytest.mark.parametrize("deployment", CONTENT["deployments"], ids=lambda each: each["name"])


def module_of(deployment: dict[str, Any]) -> ModuleType:
    """The file of a deployment, as Prefect loads it."""
    return load_script_as_module(str(ROOT / deployment["entrypoint"].partition(":")[0]))


def test_it_is_valid_for_prefect() -> None:
    models = pytest.importorskip(
        "prefect.cli.deploy._models", reason="this version of Prefect has no model of prefect.yaml"
    )
    models.PrefectYamlModel.model_validate(CONTENT)
    jsonschema.validate(CONTENT, models.PrefectYamlModel.model_json_schema())


@EACH
def test_its_flow_and_its_parameters_exist(deployment: dict[str, Any]) -> None:
    name = deployment["entrypoint"].partition(":")[2]
    known = inspect.signature(getattr(module_of(deployment), name).fn).parameters
    assert set(deployment["parameters"]) <= set(known)


@EACH
def test_it_has_all_that_one_needs(deployment: dict[str, Any]) -> None:
    assert deployment["description"]
    assert deployment["tags"] == list(module_of(deployment).TAGS)  # as of its tasks
    assert deployment["parameters"]["simulate"] is True  # nothing costs money unasked
    assert deployment["work_pool"] == {"name": "cometapi"}
    assert deployment["concurrency_limit"]["limit"] >= 1
    assert deployment["concurrency_limit"]["collision_strategy"] in ("CANCEL_NEW", "ENQUEUE")
    # A shard is started by the flow that has split the table.
    assert deployment.get("schedules") or deployment["entrypoint"].endswith(":shard")
    for schedule in deployment.get("schedules", ()):
        assert schedule["slug"]
        assert "/" in schedule["timezone"]
        assert isinstance(schedule["active"], bool)


def test_each_name_is_there_once() -> None:
    names = [deployment["name"] for deployment in CONTENT["deployments"]]
    assert len(set(names)) == len(names)


def test_every_flow_is_deployed() -> None:
    flows = {path.stem for path in (ROOT / "flows").glob("*.py")}
    deployed = {each["entrypoint"].partition(":")[0] for each in CONTENT["deployments"]}
    assert deployed == {f"flows/{flow}.py" for flow in flows}
