"""What runs have shown in Prefect."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from prefect import flow, runtime
from prefect.client.orchestration import get_client

from tests.artifacts.pages import Page


@dataclass(frozen=True)
class Shown:
    """One artifact."""

    key: str
    type: str
    data: Any
    description: str

    @property
    def page(self) -> Page:
        assert self.type == "markdown"
        return Page(self.data)

    @property
    def kind(self) -> str:
        return self.key.split("-")[1]


def picture(uri: str) -> Image.Image:
    """The picture in a `data:` URI, which needs nothing else to be seen."""
    head, content = uri.split(",")
    assert head == "data:image/webp;base64"
    opened = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    opened.load()
    return opened


def artifacts_of(run_id: str) -> list[Shown]:
    """The artifacts of a flow run, the first of them first."""
    with get_client(sync_client=True) as client:
        found = client.request(
            "POST",
            "/artifacts/filter",
            json={"artifacts": {"flow_run_id": {"any_": [run_id]}}, "sort": "ID_DESC"},
        ).json()
    found.sort(key=lambda each: each["created"])
    # Prefect's own, of results, have no key.
    keyed = [each for each in found if each["key"]]
    return [Shown(a["key"], a["type"], a["data"], a["description"] or "") for a in keyed]


def shown_by(work: Callable[[], object], name: str = "a gallery") -> list[Shown]:
    """What a flow shows that does some work, whatever comes of it."""
    runs: list[str] = []

    @flow(name=name)
    def working() -> None:
        runs.append(str(runtime.flow_run.id))
        work()

    working(return_state=True)
    return artifacts_of(runs[0])


def only(shown: list[Shown], kind: str) -> Shown:
    """The one artifact of a kind."""
    [found] = [each for each in shown if each.kind == kind]
    return found
