"""What `deploy/` has is what Docker, Kubernetes, Prefect and AWS read, as far as files tell."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from pathlib import Path
from typing import Any

import prefect.server.api as server_api
import pytest
from prefect.utilities.templating import apply_values, find_placeholders

from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.stops import AT_STOP, GRACE, LOOK
from tests.processes import ROOT

POOL: dict[str, Any] = json.loads((ROOT / "deploy" / "kubernetes-pool.json").read_text("utf-8"))
VARIABLES: dict[str, Any] = POOL["variables"]["properties"]
POD: dict[str, Any] = POOL["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
DOCKERFILE = re.sub(r"\\\n", "", (ROOT / "deploy" / "Dockerfile").read_text("utf-8"))


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def default(name: str) -> Any:
    return VARIABLES[name]["default"]


# --- the work pool ----------------------------------------------------------------------------


def test_each_variable_is_used_and_each_that_is_used_is_there() -> None:
    used = {found.name for found in find_placeholders(POOL["job_configuration"])}
    assert used == set(VARIABLES)


def test_the_workers_own_fields_are_all_filled() -> None:
    """Against the template that Prefect's server ships with for this type of worker."""
    views = Path(server_api.__file__).parent / "collections_data" / "views"
    shipped = json.loads((views / "aggregate-worker-metadata.json").read_text("utf-8"))
    theirs = shipped["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    fields = set(theirs["job_configuration"]) - {"cluster_config"}  # the worker is in the cluster
    assert fields <= set(POOL["job_configuration"])
    manifest = theirs["job_configuration"]["job_manifest"]
    ours = POOL["job_configuration"]["job_manifest"]
    assert ours["spec"]["backoffLimit"] == manifest["spec"]["backoffLimit"] == 0
    their_pod = manifest["spec"]["template"]["spec"]
    for name in set(their_pod) - {"containers"}:
        assert POD[name] == their_pod[name]
    for name in set(their_pod["containers"][0]) - {"env", "resources"}:
        assert CONTAINER[name] == their_pod["containers"][0][name]


def test_the_worker_makes_a_job_of_it() -> None:
    worker = pytest.importorskip(
        "prefect_kubernetes.worker", reason="needs: pip install prefect-kubernetes"
    )
    values = {name: each["default"] for name, each in VARIABLES.items() if "default" in each}
    made = worker.KubernetesWorkerJobConfiguration.model_validate(
        apply_values(POOL["job_configuration"], values | {"env": {"A": "B"}})
    )
    made._configure_eviction_handling()
    made._populate_env_in_manifest()
    pod = made.job_manifest["spec"]["template"]["spec"]
    environment = {each["name"]: each for each in pod["containers"][0]["env"]}
    assert environment["COMETAPI_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "cometapi"
    assert environment["A"]["value"] == "B"
    behaviour = environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"]
    assert behaviour["value"] == "reschedule"
    assert pod["terminationGracePeriodSeconds"] == default("grace_period_seconds")


def test_the_key_comes_from_a_secret_and_stands_nowhere() -> None:
    environment = {each["name"]: each for each in CONTAINER["env"]}
    assert environment["COMETAPI_KEY"] == {
        "name": "COMETAPI_KEY",
        "valueFrom": {"secretKeyRef": {"name": "{{ key_secret }}", "key": "api-key"}},
    }
    for path in (ROOT / "deploy").iterdir():
        assert not re.search(r"sk-\w|AKIA\w", path.read_text("utf-8")), path


def test_there_is_time_to_stop_and_room_for_files() -> None:
    # SIGTERM is noticed, work in threads may end by itself, and then a cancel is sent.
    assert default("grace_period_seconds") >= LOOK + GRACE + AT_STOP
    settings = CometAPISettings()
    most = settings.max_file_bytes * settings.downloads_in_flight
    assert int(default("temporary_space").removesuffix("Gi")) << 30 > most
    (volume,) = POD["volumes"]
    (mounted,) = CONTAINER["volumeMounts"]
    assert volume["name"] == mounted["name"]
    (temporary,) = (each["value"] for each in CONTAINER["env"] if each["name"] == "TMPDIR")
    assert temporary == mounted["mountPath"]


# --- the image --------------------------------------------------------------------------------


def test_signals_arrive_and_nothing_runs_as_root() -> None:
    for name in ("ENTRYPOINT", "CMD"):
        (words,) = instructions(name)
        assert json.loads(words), "exec form"
    (user,) = instructions("USER")
    assert int(user) == POD["securityContext"]["runAsUser"] > 0
    assert "PYTHONUNBUFFERED=1" in DOCKERFILE


def test_what_is_copied_is_there_and_nothing_else_reaches_docker() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {
        name
        for words in instructions("COPY")
        if "--from" not in words
        for name in (word.removeprefix("./") for word in shlex.split(words)[:-1])
    }
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_what_is_installed_is_pinned() -> None:
    (command,) = (words for words in instructions("RUN") if "pip install" in words)
    assert "-c constraints.txt" in command
    pinned = (ROOT / "constraints.txt").read_text("utf-8").lower()
    for package in ("prefect", "prefect-aws", "prefect-sqlalchemy", "psycopg", "pillow"):
        assert re.search(rf"^{package}==", pinned, re.MULTILINE), package


# --- the bucket -------------------------------------------------------------------------------


def test_the_role_may_do_what_a_batch_does_and_no_more() -> None:
    policy = json.loads((ROOT / "deploy" / "s3-policy.json").read_text("utf-8"))

    def may(action: str, key: str) -> bool:
        return any(
            action in statement["Action"]
            and any(fnmatch.fnmatch(f"arn:aws:s3:::our-bucket/{key}", each) for each in resources)
            for statement in policy["Statement"]
            if isinstance(resources := statement["Resource"], list)
        )

    for key in ("pictures/products/a-0.webp", "records/cometapi-batches/x/journal-000001.jsonl"):
        assert may("s3:PutObject", key)
        assert may("s3:GetObject", key)
        assert not may("s3:DeleteObject", key)
    assert not may("s3:PutObject", "somebody-elses/picture.webp")
