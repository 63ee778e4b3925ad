"""Whatever a prompt, a key, a path or the service's words hold: it is shown as it is, and breaks no
table, makes no link, no picture and no HTML.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefect_cometapi import markup
from prefect_cometapi.batch_models import (
    BatchResult,
    FailedItem,
    FailureGroup,
    ItemStatus,
)
from prefect_cometapi.gallery_page import Entry, gallery
from prefect_cometapi.models import SavedFile
from prefect_cometapi.summary_page import summary
from tests.artifacts.pages import NASTY, Page, one_line
from tests.artifacts.pictures import plain


def file(location: str = "/data/a.png") -> SavedFile:
    return SavedFile(
        location=location, name="a.png", output="output", media_type="image/png", size=9, sha256=""
    )


def in_a_gallery(text: str) -> str:
    others = [Entry(file("/data/b.png"), "owner/name", "A boat")] * 2
    entries = [Entry(file(), "owner/name", text, 1.0, text), *others]
    return gallery(entries, [plain(), None, plain()], notes=[])


def as_a_path(text: str) -> str:
    return gallery([Entry(file(f"/data/{text}/a.png"), "owner/name", "boat")], [None])


def as_a_place_of_its_own(text: str) -> str:
    entries = [Entry(file(text), "owner/name", "A boat"), Entry(file(), "owner/name", "A boat")]
    return gallery(entries, [None, None])


def in_a_summary(text: str) -> str:
    item = FailedItem(
        number=3,
        key=text,
        excerpt=text,
        prediction_id=text,
        record_key=text,
        request_id=text,
    )
    groups = [
        FailureGroup(status=status, error_type="OutputError", reason=text, count=4, items=[item])
        for status in (ItemStatus.IN_DOUBT, ItemStatus.FAILED, ItemStatus.NOT_SAVED)
    ]
    result = BatchResult(
        scope=text,
        model="owner/name",
        total=12,
        counts={ItemStatus.IN_DOUBT: 4, ItemStatus.FAILED: 4, ItemStatus.NOT_SAVED: 4},
        created=12,
        reasons=groups,
        ledger=text,
        manifest=text,
        stopped=text,
    )
    return summary(result, {text or "owner/name": 12}, {}, place=text, left_running=3)


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("made", [in_a_gallery, as_a_path, as_a_place_of_its_own, in_a_summary])
def test_it_is_nothing_but_text(text: str, made: Callable[[str], str]) -> None:
    page = Page(made(text))
    assert page.strange == []
    assert page.links == []
    assert all(each["src"].startswith("data:image/webp;base64,") for each in page.images)
    assert len(page.images) == (2 if made is in_a_gallery else 0)
    assert made is as_a_path or len(text) > 1_000 or one_line(text) in page.said
    made(text).encode()  # what no database takes is replaced


@pytest.mark.parametrize("text", NASTY)
def test_no_table_is_broken(text: str) -> None:
    cards, *rows = Page(in_a_gallery(text)).rows
    assert len(cards) == 2
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [row[0] for row in rows] == ["", "1", "2", "3"]


@pytest.mark.parametrize(
    ("location", "link"),
    [
        ("https://files.example/2026/a.webp", True),
        ("http://127.0.0.1:9000/bucket/a.webp", True),
        ("https://files.example/a.webp?X-Amz-Signature=abc", False),
        ("https://user:password@files.example/a.webp", False),
        ("https://files.example/a b.webp", False),
        ("https://files.example/" + "a" * 600, False),
        ("javascript:alert(1)", False),
        ("file:///data/a.webp", False),
        ("s3://bucket/a.webp", False),
        ("s3://user:password@bucket/a.webp", False),
        ("/data/a.webp", False),
        ("C:\\pictures\\a.webp", False),
        ("pictures/a#1?.webp", False),
        ("https://[broken", False),
    ],
)
def test_only_what_a_browser_can_open_is_a_link(location: str, link: bool) -> None:
    page = Page(markup.paragraph(markup.place(location)))
    assert page.links == ([location] if link else [])
    assert "password" not in page.said
    assert "Signature" not in page.said
    if "://" not in location:
        assert page.said == location


def test_what_is_to_be_copied_is_marked() -> None:
    html = markup.prose("Run `ledger list --scope '<a>'`, then <wait>.")
    assert html == (
        "Run <code>ledger list --scope &#x27;&lt;a&gt;&#x27;</code>, then &lt;wait&gt;."
    )
