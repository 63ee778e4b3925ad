"""Galleries for tests: how they are made, and how they are looked at."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from prefect import State, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from flows.nightly_gallery import nightly_gallery

THEME = "Harbours at dawn"


def own(name: str, folder: Path) -> str:
    """A name that no other test uses: a scope is known to the whole server."""
    return f"{name} {hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


async def night(
    folder: Path, *, retries: int = 0, edition: str = "tonight", **more: Any
) -> State[str]:
    """A run of the flow; a failure is told by its state."""
    flow = nightly_gallery.with_options(retries=retries, retry_delay_seconds=0)
    parameters: Any = {"theme": THEME, "pictures": 3, "storage": str(folder), **more}
    parameters["edition"] = own(edition, folder)
    state: State[str] = await flow(**parameters, return_state=True)
    return state


async def artifacts_of(state: State[str], key: str) -> list[Artifact]:
    """The artifacts of a run that have this key."""
    run = state.state_details.flow_run_id
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run] if run else []))
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=of_run)
    return [each for each in found if each.key == key]


def galleries(folder: Path) -> list[Path]:
    """The folders of the galleries in a storage."""
    return sorted(index.parent for index in folder.glob("gallery/*/index.html"))


def manifest(gallery: Path) -> list[dict[str, Any]]:
    """What a gallery's manifest says."""
    text = (gallery / "manifest.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Page(HTMLParser):
    """A page as a browser understands it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent
        self.tags: set[str] = set()
        self.words = ""
        self.links: list[str] = []
        self.pictures: list[Path] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if tag == "img" and name == "src":
                self.pictures.append(self.folder / unquote(str(value)))
            elif name == "href":
                self.links.append(unquote(str(value)))

    def handle_data(self, data: str) -> None:
        self.words += data
