"""A page of the pictures that were made: how each came about, and where it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect_cometapi import markup, thumbnails
from prefect_cometapi.ledger import shortened
from prefect_cometapi.models import SavedFile
from prefect_cometapi.thumbnails import Thumbnail

#: So many files are shown, and the rest counted: the lists of Prefect's UI load whole pages.
FILES_MOST = 24
#: Longest page, in bytes, all pictures included.
PAGE_MOST = 256_000
#: By how many there are, up to a number: so many a row, the side that each is shown in, and the one
#: that it is kept in, in pixels.
LAYOUTS = ((1, 1, 480, 640), (4, 2, 300, 448), (9, 3, 200, 320), (FILES_MOST, 4, 144, 256))
#: Longest part of a prompt that stands below a picture.
CAPTION = 60
WITHOUT_PILLOW = (
    "Pictures are shown here where Pillow is installed: "
    '<code>pip install "prefect-cometapi[images]"</code>.'
)


@dataclass(frozen=True)
class Entry:
    """One file, and how it came about.

    Attributes:
        file: The file.
        model: Its model.
        prompt: The beginning of its prompt; empty where it has none, or it is not to be shown.
        run_time: Seconds that the model ran, where they are known.
        name: The caller's own key for it.
    """

    file: SavedFile
    model: str
    prompt: str = ""
    run_time: float | None = None
    name: str = ""


def kept_side(pictures: int) -> int:
    """The side in which each of so many pictures is kept, in pixels."""
    return next(kept for number, _, _, kept in LAYOUTS if pictures <= number)


def gallery(
    entries: Sequence[Entry],
    pictures: Sequence[Any],
    *,
    more: int = 0,
    notes: Sequence[str] = (),
    heading: str = "",
) -> str:
    """The page, of at most `PAGE_MOST` bytes, whatever is in it.

    Args:
        entries: Up to `FILES_MOST` files.
        pictures: What was `thumbnails.shrunk` of each, or None.
        more: How many files there are besides.
        notes: Sentences that stand below, as HTML.
        heading: Stands above.
    """
    top = f"<h2>{markup.text(heading)}</h2>" if heading else ""
    blank = [picture and Thumbnail("", *picture.size) for picture in pictures]
    room = PAGE_MOST - len(_page(top, entries, blank, more, notes).encode())
    return _page(top, entries, thumbnails.within(pictures, room), more, notes)


def _page(
    top: str,
    entries: Sequence[Entry],
    made: Sequence[Thumbnail | None],
    more: int,
    notes: Sequence[str],
) -> str:
    folder = _common_folder(entries)
    models = list(dict.fromkeys(entry.model for entry in entries))
    by = f"By {markup.code(models[0])}." if len(models) == 1 else ""
    where = f"In {markup.code(folder)}." if folder else ""
    there = f"The first {len(entries):,} of {len(entries) + more:,} files." if more else ""
    intro = [part for part in (there, by, where) if part]
    return markup.page(
        top,
        markup.paragraph(*intro) if intro else "",
        _cards(entries, made),
        _list(entries, folder, show_model=len(models) > 1),
        *(markup.paragraph(note) for note in notes),
    )


def _cards(entries: Sequence[Entry], made: Sequence[Thumbnail | None]) -> str:
    shown = [
        (number, entry, thumbnail)
        for number, (entry, thumbnail) in enumerate(zip(entries, made, strict=True), 1)
        if thumbnail is not None
    ]
    if not shown:
        return ""
    columns, side = next((a, b) for number, a, b, _ in LAYOUTS if len(shown) <= number)
    cells = [_card(number, entry, thumbnail, side) for number, entry, thumbnail in shown]
    cells += [""] * (-len(cells) % columns)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return markup.table([], rows, width=f"{100 // columns}%")


def _card(number: int, entry: Entry, thumbnail: Thumbnail, side: int) -> str:
    scale = side / max(thumbnail.width, thumbnail.height)
    width, height = (max(1, round(each * scale)) for each in (thumbnail.width, thumbnail.height))
    said = shortened(entry.prompt or entry.name, CAPTION)
    return (
        f'<img src="{thumbnail.uri}" width="{width}" height="{height}" '
        f'alt="{markup.text(said or entry.file.name)}"><br><b>{number}</b> {markup.text(said)}'
    )


def _list(entries: Sequence[Entry], folder: str, *, show_model: bool) -> str:
    """A row for each file; columns without anything in them are left out."""
    columns = {
        "": [f"<b>{number}</b>" for number in range(1, len(entries) + 1)],
        "key": [markup.text(entry.name) for entry in entries],
        "prompt": [markup.text(entry.prompt) for entry in entries],
        "model": [markup.text(entry.model) if show_model else "" for entry in entries],
        "ran": [markup.seconds(entry.run_time) for entry in entries],
        "file": [_place(entry.file, folder) for entry in entries],
        "size": [markup.size(entry.file.size) for entry in entries],
    }
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    return markup.table([*filled], zip(*filled.values(), strict=True)) if entries else ""


def _place(file: SavedFile, folder: str) -> str:
    if not folder:
        return markup.place(file.location)
    return markup.code(markup.shown_place(file.location).removeprefix(folder))


def _common_folder(entries: Sequence[Entry]) -> str:
    """What the locations have in common, up to a slash; empty for those that are links."""
    locations = [markup.shown_place(entry.file.location) for entry in entries]
    if not locations or any(markup.opens(entry.file.location) for entry in entries):
        return ""
    first, last = min(locations), max(locations)
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[: first.rfind("/", 0, same) + 1]
