"""What Prefect's server was told: the events of a flow run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
from prefect.settings import PREFECT_API_URL

MARK = "test.mark"
SECONDS = 60.0


def mark() -> None:
    """End the events of the flow run at work here: what comes after it is not waited for."""
    from prefect.events import emit_event

    emit_event(MARK, {"prefect.resource.id": "a.test"})


def in_a_flow(work: Callable[[], object]) -> str:
    """Run something in a flow run, and mark the end of its events; returns the run's id."""
    from prefect import flow, runtime

    @flow
    def some_flow() -> str:
        try:
            work()
        finally:
            mark()
        return str(runtime.flow_run.id)

    found: str = some_flow()
    return found


def events_of(flow_run_id: object, prefix: str = "cometapi.") -> list[dict[str, Any]]:
    """The events of a flow run with names that begin so, once its mark has arrived."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = read_events([prefix, MARK], f"prefect.flow-run.{flow_run_id}")
        if [event for event in found if event["event"] == MARK]:
            return [event for event in found if event["event"] != MARK]
        assert time.monotonic() < deadline, "Prefect's server was told nothing"
        time.sleep(0.1)


def read_events(prefixes: list[str], resource: str) -> list[dict[str, Any]]:
    """The events that a resource is involved in, the oldest first."""
    about = {"event": {"prefix": prefixes}, "any_resource": {"id": [resource]}, "order": "ASC"}
    answer = httpx.post(
        f"{PREFECT_API_URL.value()}/events/filter", json={"filter": about, "limit": 50}
    )
    page = answer.raise_for_status().json()
    events: list[dict[str, Any]] = page["events"]
    while page["next_page"]:
        page = httpx.get(page["next_page"]).raise_for_status().json()
        events += page["events"]
    return events


def related(event: dict[str, Any], role: str) -> list[str]:
    """The ids of what an event is related to in a role."""
    return [
        each["prefect.resource.id"]
        for each in event["related"]
        if each["prefect.resource.role"] == role
    ]
