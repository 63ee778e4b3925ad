"""The tutorial works, from its first command to a gallery that a worker has made."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.pages import snippets
from tests.docs.walking import SECONDS, Walk
from tests.processes import ROOT, wait_until

PAGE = "docs/tutorial.md"


@pytest.mark.long
def test_every_step_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    with ExitStack() as stack:
        walk = Walk(folder, environment, stack)
        for each in snippets():
            if each.page == PAGE:
                print(f"--- {each}")
                walk.step(each)

        def runs() -> list[dict[str, object]]:
            query = {"deployments": {"name": {"any_": ["gallery"]}}, "sort": "START_TIME_DESC"}
            found = walk.api("POST", "flow_runs/filter", query)
            assert isinstance(found, list)
            return [run for run in found if run["state_type"] != "SCHEDULED"]

        wait_until(lambda: [run for run in runs() if run["end_time"]], "the run ends", SECONDS)
        [run] = runs()
        assert run["state_type"] == "COMPLETED"
        assert str(run["name"]).startswith("Harbours at dawn, ")
        galleries = {page.parent for page in folder.glob("pictures/gallery/*/index.html")}
        assert len(galleries) == 1
        # Six by hand, and twelve by the worker: with another number it is another gallery.
        assert len([*galleries.pop().glob("*.webp")]) == 18
