"""Makes pages of the files that pages link to outside of `docs`, so that links lead somewhere.

The same relative link is then right in the repository and on the site.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

DOCS = Path(__file__).parent
ROOT = DOCS.parent
#: Pages whose text is elsewhere, by their name on the site.
ELSEWHERE = {"changelog.md": ROOT / "CHANGELOG.md"}

_LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
_COMMENT = re.compile(r"^<!--.*?-->\n?", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sql": "sql", ".csv": "text"}


def on_startup(**_: Any) -> None:
    """Let warnings through: with `--quiet`, mkdocs drops them before `--strict` counts them."""
    mkdocs = logging.getLogger("mkdocs")
    mkdocs.setLevel(min(mkdocs.level, logging.WARNING))


def on_files(files: Files, *, config: Any) -> Files:
    """Add the changelog, and each file or folder outside that is linked to."""
    for name, path in ELSEWHERE.items():
        files.append(File.generated(config, name, content=path.read_text("utf-8")))
    waiting = [(page.src_uri, page.content_string) for page in files.documentation_pages()]
    while waiting:
        linked: list[Path] = []
        _with_links(*waiting.pop(), seen=linked.append)
        for path in linked:
            name = _page_of(path)
            if files.get_file_from_path(name) is None:
                page = File.generated(
                    config, name, content=_shown(path), inclusion=InclusionLevel.NOT_IN_NAV
                )
                files.append(page)
                waiting.append((name, page.content_string))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead links to those pages; what comments tell the tests is not for readers."""
    return _with_links(page.file.src_uri, _COMMENT.sub("", markdown))


def _with_links(page: str, text: str, seen: Callable[[Path], object] = lambda path: None) -> str:
    """A page's text with its links to files outside of `docs` led to pages of the site."""
    original = ELSEWHERE.get(page) or DOCS / page
    if page.startswith("source/"):
        original = ROOT / page.removeprefix("source/")

    def led(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(original.parent / match[1]))
        if "://" in match[1] or not target.exists():
            return match[0]
        if target.is_relative_to(DOCS):
            name = target.relative_to(DOCS).as_posix()
        else:
            seen(target)
            name = _page_of(target)
        return os.path.relpath(name, PurePosixPath(page).parent)

    return _LINK.sub(led, text)


def _page_of(path: Path) -> str:
    return f"source/{path.relative_to(ROOT).as_posix()}{'/index' if path.is_dir() else ''}.md"


def _shown(path: Path) -> str:
    """A page that shows a file, or lists a folder."""
    head = "---\nsearch: {exclude: true}\nhide: [navigation, toc]\n---\n"
    title = f"{head}# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if not each.name.startswith((".", "_")))
        return title + "".join(f"- [{name}]({name})\n" for name in names)
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return head + text
    return f"{title}`````{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n`````\n"
