"""The README is the front page: short, its two commands where they are looked for, its links good.

What it shows is run with the pages, in `tests/docs`.
"""

from __future__ import annotations

import re

import pytest

from tests.processes import ROOT

TEXT = (ROOT / "README.md").read_text("utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.encode()) < 16_000, "the pages in docs/ have room for more"


@pytest.mark.parametrize("name", ["main job", "tests"])
def test_the_two_commands_are_where_they_are_looked_for(name: str) -> None:
    pattern = rf"<!-- command: {name} -->\n```bash\n([^\n]+)\n```"
    assert len(re.findall(pattern, TEXT)) == 1


def test_links_to_files_lead_somewhere() -> None:
    targets = [
        target
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT)
        if not target.startswith("https://")
    ]
    assert len(targets) > 20
    for target in targets:
        assert (ROOT / target).exists(), target
