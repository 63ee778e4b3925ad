"""A gallery shows 24 files and counts the rest; it is no larger than 256 kB, whatever it shows."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_cometapi.gallery_page import FILES_MOST, LAYOUTS, PAGE_MOST, Entry, gallery, kept_side
from prefect_cometapi.models import SavedFile
from tests.artifacts.pages import Page
from tests.artifacts.pictures import noise, plain

MODEL = "black-forest-labs/flux-schnell"


def file(location: str, media_type: str = "image/webp", size: int = 34_000) -> SavedFile:
    return SavedFile(
        location=location,
        name=location.rpartition("/")[2],
        output="output",
        media_type=media_type,
        size=size,
        sha256="",
    )


def entries(number: int, **values: Any) -> list[Entry]:
    return [
        Entry(
            **{
                "file": file(f"/data/pictures/{n}.webp"),
                "model": MODEL,
                "prompt": f"Boat {n}",
                "run_time": 3.14,
                **values,
            }
        )
        for n in range(number)
    ]


def test_it_is_no_larger_than_it_may_be_with_pictures_that_no_codec_makes_small() -> None:
    side = kept_side(FILES_MOST)
    page = gallery(
        entries(FILES_MOST, prompt='"' * 120, name="&" * 200),
        [noise(side, side)] * FILES_MOST,
        more=976,
    )
    assert len(page.encode()) <= PAGE_MOST
    assert len(Page(page).images) == FILES_MOST


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 9, 10, 23, 24])
def test_pictures_stand_in_rows_and_files_in_a_list(number: int) -> None:
    page = Page(gallery(entries(number), [plain(300, 200)] * number))
    columns = next(columns for most, columns, _, _ in LAYOUTS if number <= most)
    cards, files = page.rows[: -(-number // columns)], page.rows[-(-number // columns) :]
    assert {len(row) for row in cards} == {columns}
    assert [cell.strip() for row in cards for cell in row if cell] == [
        f"{n + 1} Boat {n}" for n in range(number)
    ]
    assert files[0] == ["", "prompt", "ran", "file", "size"]
    assert files[1:] == [
        [str(n + 1), f"Boat {n}", "3.1 s", f"{n}.webp", "34 kB"] for n in range(number)
    ]
    assert "By black-forest-labs/flux-schnell. In /data/pictures/." in page.said
    sides = {int(each["width"]) for each in page.images}
    assert sides == {next(side for most, _, side, _ in LAYOUTS if number <= most)}
    assert all(abs(int(i["height"]) - int(i["width"]) * 2 / 3) <= 0.5 for i in page.images)


def test_the_rest_is_counted() -> None:
    page = Page(gallery(entries(24), [None] * 24, more=976))
    assert "The first 24 of 1,000 files." in page.said
    assert "The first" not in Page(gallery(entries(24), [None] * 24)).said


def test_what_is_no_picture_is_a_row() -> None:
    shown = [Entry(file("/d/a.mp4", "video/mp4"), MODEL), Entry(file("/d/b.webp"), MODEL)]
    page = Page(gallery(shown, [None, plain()]))
    assert len(page.images) == 1
    assert [cell.strip() for row in page.rows[:-3] for cell in row] == ["2"]
    assert [row[:2] for row in page.rows[-2:]] == [["1", "a.mp4"], ["2", "b.webp"]]


def test_models_are_told_apart_where_there_are_several() -> None:
    several = [*entries(1), *entries(1, model="other/model")]
    page = Page(gallery(several, [None, None]))
    assert page.rows[0] == ["", "prompt", "model", "ran", "file", "size"]
    assert [row[2] for row in page.rows[1:]] == [MODEL, "other/model"]
    assert "By" not in page.said


def test_columns_with_nothing_in_them_are_left_out() -> None:
    page = Page(gallery(entries(2, prompt="", run_time=None), [None, None]))
    assert page.rows[0] == ["", "file", "size"]
    named = Page(gallery(entries(1, name="row-7"), [None]))
    assert named.rows[0] == ["", "key", "prompt", "ran", "file", "size"]


@pytest.mark.parametrize(
    ("locations", "folder", "shown"),
    [
        (["/d/x/a.png", "/d/x/b.png"], "/d/x/", ["a.png", "b.png"]),
        (["/d/x/a.png", "/d/y/b.png"], "/d/", ["x/a.png", "y/b.png"]),
        (["/d/same.png"], "/d/", ["same.png"]),
        (["a.png", "b.png"], "", ["a.png", "b.png"]),
        (["s3://u:secret@bucket/x/a.png"], "s3://bucket/x/", ["a.png"]),
        (["https://h.example/x/a.png", "https://h.example/x/b.png"], "", ["a.png", "b.png"]),
    ],
)
def test_the_folder_that_files_share_is_told_once(
    locations: list[str], folder: str, shown: list[str]
) -> None:
    page = Page(gallery([Entry(file(each), MODEL) for each in locations], [None] * len(locations)))
    assert (f"In {folder}." in page.said) if folder else ("In " not in page.said)
    assert [row[1] for row in page.rows[1:]] == shown
    assert "secret" not in page.said


def test_notes_stand_below() -> None:
    assert gallery(entries(1), [None], notes=["See <code>there</code>."]).endswith(
        "\n\n<p>See <code>there</code>.</p>\n"
    )
