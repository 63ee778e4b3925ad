"""What the README and the pages show: every fenced block, with what comments beside it tell tests.

Above a block stands `<!-- not run: why -->`, `<!-- fails: Error -->`, of a command that goes on
`<!-- terminal -->`, or `<!-- command: name -->` where a test of its own runs it whole; below a
Python block `<!-- then: code -->`, a call of what it defines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.processes import ROOT

#: Blocks that are not run, by page: how many, so that none is added unseen.
NOT_RUN = {"docs/contributing.md": 1, "docs/tutorial.md": 1}
#: What stands in a page to be read, and is no program.
PROSE = {"", "text"}

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>\w*)(?P<rest>.*)$")
_TITLE = re.compile(r'title="([^"]*)"')
_ABOVE = re.compile(r"^ *<!-- (command|terminal|not run|fails)(?:: (.*?))? -->$")


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes:
        page: The page, from the root of the repository.
        line: The line that its code begins in, from 1.
        language: What the fence says.
        title: The file that it is to be saved as, where it says so.
        code: What is between the fences.
        marks: What stands above it: the mark, and what follows the colon.
        then: What is to be run after it.
    """

    page: str
    line: int
    language: str
    title: str
    code: str
    marks: dict[str, str] = field(default_factory=dict)
    then: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The README and every page, in a steady order."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def snippets(*languages: str) -> list[Snippet]:
    """Every block in one of these languages; without any, all there are."""
    found = [
        each
        for path in pages()
        for each in snippets_of(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    ]
    return [each for each in found if not languages or each.language in languages]


def snippets_of(page: str, text: str) -> list[Snippet]:
    """The blocks of a page's text."""
    found, lines, number = list[Snippet](), text.split("\n"), 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        number += 1
        if opened is None:
            continue
        start, indent = number, len(opened["indent"])
        while lines[number].strip() != opened["fence"]:
            number += 1
        code = "".join(f"{line[indent:]}\n" for line in lines[start:number])
        title = _TITLE.search(opened["rest"])
        found.append(
            Snippet(
                page=page,
                line=start + 1,
                language=opened["language"],
                title=title[1] if title else "",
                code=code,
                marks=_marks(lines[: start - 1]),
                then=_then("\n".join(lines[number + 1 :])),
            )
        )
        number += 1
    return found


def _marks(above: list[str]) -> dict[str, str]:
    marks: dict[str, str] = {}
    while above and (mark := _ABOVE.match(above.pop())):
        marks[mark[1]] = mark[2] or ""
    return marks


def _then(below: str) -> str:
    found = re.match(r" *<!-- then: (.*?)-->", below, re.DOTALL)
    return found[1].strip() + "\n" if found else ""
