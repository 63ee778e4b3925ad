"""Pages are written so that the site shows them as the repository does."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.pages import pages
from tests.processes import ROOT

#: What begins a list or a table.
_BEGINS = re.compile(r"^(- |\d+\. |\|)")


def without_blocks(text: str) -> list[str]:
    """The lines of a page, with nothing where code is."""
    shown, fence = [], ""
    for line in text.split("\n"):
        mark = re.match(r" *(```+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence, line = "", ""  # the closing one, too
        shown.append("" if fence else line)
    return shown


def run_in(lines: list[str]) -> list[str]:
    """The lines that begin a list or a table right below a paragraph, which would swallow them."""
    found = []
    for above, line in pairwise(lines):
        begins = _BEGINS.match(line)
        paragraph = above and not above.startswith((" ", "<!--", "#")) and not _BEGINS.match(above)
        if begins and (paragraph or (above.startswith("|") != line.startswith("|") and above)):
            found.append(line)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lists_and_tables_stand_by_themselves(page: Path) -> None:
    assert run_in(without_blocks(page.read_text("utf-8"))) == []


@pytest.mark.parametrize("text", ["Words:\n- one", "Words:\n| a |", "- one\n| a |", "| a |\n- one"])
def test_that_would_be_noticed(text: str) -> None:
    assert run_in(without_blocks(text)) == [text.split("\n")[1]]


@pytest.mark.parametrize(
    "text", ["Words:\n\n- one\n- two", "1. one\n    - two", "```\nx\n- y\n```"]
)
def test_that_is_fine(text: str) -> None:
    assert run_in(without_blocks(text)) == []
