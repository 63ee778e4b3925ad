"""The site, as it is built: whole, searchable, and without anything from elsewhere.

In `SITE` where it is built already; else it is built here, which needs the extra `docs`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.processes import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if built := os.environ.get("SITE"):
        yield Path(built)
        return
    pytest.importorskip("mkdocs", reason='the site needs the extra: pip install -e ".[docs]"')
    pytest.importorskip("mkdocstrings", reason="the same")
    folder = tmp_path_factory.mktemp("site")
    words = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    yield folder


def html(site: Path) -> dict[str, str]:
    return {str(path.relative_to(site)): path.read_text("utf-8") for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for name, text in html(site).items():
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text)
        elsewhere = [tag for tag in tags if re.search(r'(?:src|href)="?(?:https?:)?//', tag)]
        assert elsewhere == [], name
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text("utf-8"))


def test_the_search_knows_names_and_words(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    where = {each["location"]: f"{each['title']} {each['text']}" for each in index["docs"]}
    for word in (
        "run_predictions",
        "SubmissionInDoubt",
        "firewall",
        "delivery_hosts",
        "--in-doubt",
    ):
        assert any(word in text for text in where.values()), word
    assert not any(location.startswith("source/") for location in where)


def test_what_is_for_the_tests_is_not_for_readers(site: Path) -> None:
    for name, text in html(site).items():
        assert not re.search(r"<!-- (not run|then|fails|terminal|table)", text), name


def test_links_to_files_of_the_repository_lead_to_pages(site: Path) -> None:
    assert "cancel_predictions" in (site / "source/flows/table.py/index.html").read_text("utf-8")
    page = site / "kubernetes"
    links = re.findall(r'href="(\.\./source/[^"#]*)', (page / "index.html").read_text("utf-8"))
    assert len(links) >= 5
    for link in links:
        assert (page / link / "index.html").is_file(), link


def test_every_link_leads_to_a_page_and_to_a_place_on_it(site: Path) -> None:
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    places = {path: set(re.findall(r'\bid="?([^\s">]+)', text)) for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        if path.name == "404.html":  # it is served from anywhere, so its links are absolute
            continue
        for link in re.findall(r'<a\b[^>]*?\shref="?([^\s">]*)', text):
            to = urlsplit(unescape(link))
            if to.scheme or to.netloc:
                continue
            target = Path(os.path.normpath(path.parent / unquote(to.path))) if to.path else path
            target = target / "index.html" if target.is_dir() else target
            if target not in pages or (to.fragment and unquote(to.fragment) not in places[target]):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert len(pages) > 40


def test_code_can_be_copied(site: Path) -> None:
    assert "content.code.copy" in (site / "index.html").read_text("utf-8")
