"""Pictures that outlive the service's: read back from the storage, made small, shown in Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import Artifact, ImageArtifact, MarkdownArtifact

from prefect_cometapi import artifacts, gallery_page, markup, thumbnails
from prefect_cometapi.artifact_keys import Kind, base_of, key_of
from prefect_cometapi.batch_models import BatchItem
from prefect_cometapi.gallery_page import FILES_MOST, WITHOUT_PILLOW, Entry
from prefect_cometapi.ledger import excerpt_of
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.pictures import DECODABLE
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.stores import Store

#: Largest file that is read back for its picture, in bytes.
FILE_MOST = 32 * 1024 * 1024
#: So many files are read, and pictures decoded, at once in the process; each holds its memory.
ABREAST = 4
#: Seconds that reading one file may take, and all of a page, their wait for a turn included.
READ_TIMEOUT, PAGE_TIMEOUT = 5.0, 10.0
#: Longest image artifact, in characters: a run may have hundreds, and its page loads them all.
IMAGE_MOST = 48_000
#: Its longest side in pixels; Prefect's V2 UI shows it in 664.
IMAGE_SIDE = 640

_turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


def _turn() -> asyncio.Semaphore:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(ABREAST))


def is_picture(file: SavedFile) -> bool:
    """Whether a file is one that can be shown, by what it was recognised as."""
    return file.media_type in DECODABLE and file.size <= FILE_MOST


async def small(store: Store, file: SavedFile, side: int) -> Any:
    """A saved picture, made small; None where it is none, or can not be read in time."""
    if not (is_picture(file) and thumbnails.can_be_made()):
        return None

    async def read() -> Any:
        async with _turn():
            content = await store.read(file.name)
            return content and await asyncio.to_thread(thumbnails.shrunk, content, side)

    return await artifacts.quietly(read, READ_TIMEOUT, "A picture")


def entries_of(prediction: Prediction, files: Sequence[SavedFile]) -> list[Entry]:
    """The files of a prediction, as a gallery shows them."""
    prompt = excerpt_of(prediction.input)
    return [Entry(file, prediction.model, prompt, prediction.run_time) for file in files]


def entries_of_item(item: BatchItem, *, prompts: bool = True) -> list[Entry]:
    """The files of an item of a batch, as a gallery shows them."""
    prompt = item.excerpt if prompts else ""
    return [Entry(each, item.model, prompt, item.run_time, item.key or "") for each in item.files]


async def gallery_of(
    store: Store,
    entries: Sequence[Entry],
    files: int,
    settings: CometAPISettings,
    key: str,
    *,
    reading: Mapping[str, asyncio.Task[Any]] | None = None,
    heading: str = "",
    description: str = "",
) -> MarkdownArtifact:
    """The first of some files as a gallery, with their pictures as far as there is time.

    Args:
        store: Where they are.
        entries: The files.
        files: How many there are in all.
        settings: Whether pictures are wanted.
        key: The artifact's.
        reading: Pictures that are being read already, by the names of their files.
        heading: Stands above.
        description: What the lists of Prefect's UI show, as HTML; by default, how many there are.
    """
    shown, pictures = entries[:FILES_MOST], [None] * len(entries[:FILES_MOST])
    wanted = settings.thumbnails and any(is_picture(entry.file) for entry in shown)
    if wanted and thumbnails.can_be_made():
        side = gallery_page.kept_side(sum(is_picture(entry.file) for entry in shown))
        pictures = await in_time(
            [
                (reading or {}).get(entry.file.name)
                or asyncio.create_task(small(store, entry.file, side))
                for entry in shown
            ]
        )
    notes = [WITHOUT_PILLOW] if wanted and not thumbnails.can_be_made() else []
    page = await asyncio.to_thread(
        gallery_page.gallery,
        shown,
        pictures,
        more=files - len(shown),
        notes=notes,
        heading=heading,
    )
    there = sum(picture is not None for picture in pictures)
    line = f"{there:,} pictures of {files:,} files" if there else f"{files:,} files"
    if there == files:
        line = f"{files:,} picture{'' if files == 1 else 's'}"
    if heading:
        line = markup.paragraph(f"{markup.text(heading)}: {line}")
    return MarkdownArtifact(key=key, markdown=page, description=description or line)


async def in_time(reading: Sequence[asyncio.Task[Any]]) -> list[Any]:
    """What comes of some tasks within `PAGE_TIMEOUT`; None for those that take longer."""
    try:
        if reading:
            await asyncio.wait(reading, timeout=PAGE_TIMEOUT)
        return [task.result() if task.done() else None for task in reading]
    finally:
        for task in reading:
            task.cancel()


class PredictionPreview(Observer):
    """Shows what one prediction made, when all is over.

    Args:
        settings: Whether, and how much of it.
    """

    def __init__(self, settings: CometAPISettings) -> None:
        self._settings = settings
        self._prediction: Prediction | None = None
        self._store: Store | None = None
        self._files: list[SavedFile] = []

    def goes_to(self, store: Store, prefix: str) -> None:
        """That is where its outputs go."""
        self._store = store

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        self._prediction, self._files = prediction, files

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved by an earlier attempt."""
        self._prediction, self._files = prediction, files

    async def over(self, error: BaseException | None) -> None:
        """Nothing more happens."""
        shown = self._settings.artifacts and artifacts.in_run()
        if error is None and shown and self._files and self._store and self._prediction:
            await artifacts.quietly(self._show, PAGE_TIMEOUT + artifacts.SEND_TIMEOUT, "A preview")

    async def _show(self) -> None:
        assert self._store is not None  # noqa: S101 - for the type checker
        assert self._prediction is not None  # noqa: S101 - for the type checker
        entries = entries_of(self._prediction, self._files)
        base = base_of(await artifacts.whose(), self._prediction.model)
        artifact = await _artifact(
            self._store, entries, self._settings, key_of(base, Kind.PREDICTION)
        )
        await artifacts.send(artifact)


async def _artifact(
    store: Store, entries: Sequence[Entry], settings: CometAPISettings, key: str
) -> Artifact:
    """An image where there is one picture, else a gallery."""
    first = entries[0]
    ran = f", ran {markup.seconds(first.run_time)}" if first.run_time is not None else ""
    told = [markup.text(first.prompt)] if first.prompt else []
    told += [f"{markup.text(first.model)}{ran}"]
    told += [markup.place(first.file.location)] if len(entries) == 1 else []
    description = markup.paragraph("<br>".join(told))
    if len(entries) == 1 and settings.thumbnails:
        picture = await small(store, first.file, IMAGE_SIDE)
        [thumbnail] = await asyncio.to_thread(thumbnails.within, [picture], IMAGE_MOST)
        if thumbnail is not None:
            return ImageArtifact(key=key, image_url=thumbnail.uri, description=description)
    return await gallery_of(store, entries, len(entries), settings, key, description=description)
