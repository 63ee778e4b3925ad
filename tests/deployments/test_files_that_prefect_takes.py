"""Prefect's server takes the work pool for Kubernetes and the automation, as the page says."""

from __future__ import annotations

import pytest

from tests.deployments.conftest import Project
from tests.processes import ROOT


@pytest.mark.long
def test_the_pool(project: Project) -> None:
    template = str(ROOT / "deploy" / "kubernetes-pool.json")
    words = ("work-pool", "create", "pods", "--type", "kubernetes")
    project.prefect(*words, "--base-job-template", template)
    created = project.api.get("work_pools/pods").raise_for_status().json()
    pod = created["base_job_template"]["job_configuration"]["job_manifest"]["spec"]["template"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == "{{ grace_period_seconds }}"
    project.api.delete("work_pools/pods").raise_for_status()


@pytest.mark.long
def test_the_automation(project: Project) -> None:
    file = str(ROOT / "deploy" / "automations.yaml")
    project.prefect("automation", "create", "--from-file", file)
    found = project.api.post("automations/filter", json={}).json()
    assert "cometapi-runs-that-are-gone" in {each["name"] for each in found}
