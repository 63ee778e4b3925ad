"""What an eviction does, rehearsed: nothing is canceled, and the run goes on where it was."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tests.deployments.conftest import Project, Run
from tests.processes import wait_until
from tests.stopping import started

#: Seconds within which a pod has to be gone; Kubernetes' own default.
GRACE = 30.0


def waiting(project: Project, run: Run) -> None:
    """Wait until all its predictions are made, and polled."""
    try:
        wait_until(lambda: project.service.counts.polls >= 12, "the predictions", 240)
    except AssertionError:
        print("\n".join(run.log()))
        raise
    assert project.service.counts.creates == 12


@pytest.mark.long
@pytest.mark.cometapi_simulator(run_time=25.0)
def test_a_pod_that_is_evicted_is_rescheduled_and_pays_nothing_twice(
    project: Project, tmp_path: Path
) -> None:
    """The pod's own command, with what the Kubernetes worker puts into its environment."""
    service = project.service
    project.deploy()
    run = project.run("table/weekly", simulate=False)
    pending = {"type": "PENDING", "name": "Pending"}  # as the worker does, which starts the pod
    project.api.post(f"flow_runs/{run.id}/set_state", json={"state": pending})
    pod = tmp_path / "pod"
    pod.mkdir()
    environment = project.environment | {
        "PREFECT__FLOW_RUN_ID": run.id,
        "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule",
    }
    words = ("-m", "prefect", "flow-run", "execute")
    with started(*words, environment=environment, log=tmp_path / "pod.log", cwd=pod) as process:
        waiting(project, run)
        before = time.monotonic()
        process.send(signal.SIGTERM)  # to the first process of the container, as the kubelet does
        assert process.ended(GRACE) == 0
        print(f"The pod was gone after {time.monotonic() - before:.1f} s.")
    assert "successfully rescheduled" in process.said
    assert run.state == "AwaitingRetry"
    assert service.counts.cancels == 0
    assert {each.status for each in service.predictions.values()} <= {"starting", "processing"}
    with project.worker():  # the next pod, which may be anywhere
        assert run.end() == "COMPLETED", run.log()
    print(run.states())
    assert service.counts.creates == service.counts.charged == 12
    assert len(list(project.folder.glob("pictures/products/*.webp"))) == 12


@pytest.mark.long
@pytest.mark.cometapi_simulator(run_time=25.0)
def test_a_process_that_is_terminated_is_crashed_and_a_new_run_goes_on(project: Project) -> None:
    """On a process worker nobody reschedules: a new run of the same scope does."""
    service = project.service
    project.deploy()
    parameters = {"simulate": False, "scope": f"evicted {uuid4().hex}"}
    with project.worker() as worker:
        run = project.run("table/weekly", **parameters)
        waiting(project, run)
        (process,) = [each for each in below(worker.pid) if os.getpgid(each) != worker.pid][:1]
        before = time.monotonic()
        os.killpg(os.getpgid(process), signal.SIGTERM)
        assert run.end() == "CRASHED"
        print(f"It was called Crashed after {time.monotonic() - before:.1f} s.", run.states())
        assert service.counts.cancels == 0
        again = project.run("table/weekly", **parameters)
        assert again.end() == "COMPLETED", again.log()
    assert service.counts.creates == service.counts.charged == 12
    assert service.counts.cancels == 0
    assert len(list(project.folder.glob("pictures/products/*.webp"))) == 12


def below(parent: int) -> list[int]:
    """All processes below one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == parent:
            found += [int(folder.name), *below(int(folder.name))]
    return found
