"""Of two runs at once the second is canceled, or waits, as declared; Cancel ends the spending."""

from __future__ import annotations

import pytest

from tests.deployments.conftest import Project
from tests.processes import wait_until


@pytest.mark.long
@pytest.mark.cometapi_simulator(run_time=1000.0)
def test_the_second_waits_or_does_not_start(project: Project) -> None:
    service = project.service
    project.deploy()
    with project.worker():
        # CANCEL_NEW: what takes too long is not joined by another one.
        night = project.run("quickstart/nightly", simulate=False)
        wait_until(lambda: service.counts.creates == 16, "the predictions of the night")
        assert project.run("quickstart/nightly", simulate=False).end() == "CANCELLED"
        assert service.counts.creates == 16
        # The rehearsal of a cancel: the service is asked to cancel all that is running.
        night.cancel()
        assert night.end() == "CANCELLED"
        assert service.counts.cancels == 16
        assert {each.status for each in service.predictions.values()} == {"canceled"}
        # ENQUEUE: the second one waits until the first has ended.
        first = project.run("table/weekly", simulate=False)
        wait_until(lambda: service.counts.creates == 16 + 12, "the predictions of the table")
        second = project.run("table/weekly", simulate=False)
        second.wait_for("AwaitingConcurrencySlot")
        assert service.counts.creates == 16 + 12
        first.cancel()
        assert first.end() == "CANCELLED"
        wait_until(lambda: service.counts.creates == 16 + 12 + 12, "the second run")
        assert service.counts.cancels == 16 + 12
        second.cancel()
        assert second.end() == "CANCELLED"
        assert service.counts.cancels == service.counts.creates
