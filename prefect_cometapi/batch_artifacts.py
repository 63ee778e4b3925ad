"""What Prefect's UI shows of a batch: how far it is, what became of it, the pictures it made."""

from __future__ import annotations

import asyncio
import bisect
import time
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    MarkdownArtifact,
    ProgressArtifact,
    aupdate_progress_artifact,
)

from prefect_cometapi import artifacts, gallery_page, previews, summary_page, thumbnails
from prefect_cometapi.artifact_keys import Kind
from prefect_cometapi.artifacts import Keys
from prefect_cometapi.batch_models import BatchItem, BatchResult
from prefect_cometapi.gallery_page import FILES_MOST
from prefect_cometapi.observer import Observer
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.stores import Store
from prefect_cometapi.tally import BatchObserver, BatchOptions, Tally, done_share, progress_line

#: Seconds between two updates of the progress: each costs Prefect's server a write.
PROGRESS_EVERY = 10.0
#: Seconds that the summary of an interrupted batch may take: its process is about to be killed.
INTERRUPTED_TIMEOUT = 3.0


class _Place(Observer):
    """Where the outputs go, once it is known."""

    store: Store | None = None

    def goes_to(self, store: Store, prefix: str) -> None:
        """That is where its outputs go."""
        self.store = store


class BatchArtifacts(BatchObserver):
    """Shows a batch in Prefect's UI, while it runs and for good.

    Args:
        settings: Whether, and how much of it.
    """

    def __init__(self, settings: CometAPISettings) -> None:
        self.each = self._place = _Place()
        self._settings = settings
        self._wanted = settings.artifacts and artifacts.in_run()
        self._pictures = settings.thumbnails and thumbnails.can_be_made()
        self._keys = Keys("", "")
        self._ledger, self._gallery, self._side = "", True, 0
        self._progress: UUID | None = None
        self._next_update = 0.0
        #: Those with pictures first, then by their number; only as many as are shown.
        self._saved: list[tuple[bool, int, BatchItem]] = []
        self._files = 0
        #: Pictures that are read while the batch goes on, by the names of their files.
        self._reading: dict[str, asyncio.Task[Any]] = {}

    def began(self, tally: Tally, options: BatchOptions, ledger: str) -> None:
        """It is about to look at the first input."""
        self._keys = Keys(options.model, options.scope, planned=options.dry_run)
        self._ledger = ledger
        self._gallery = not options.dry_run
        self._side = gallery_page.kept_side(min(FILES_MOST, tally.expected or FILES_MOST))
        # What is over sooner needs no artifact of its progress.
        self._next_update = tally.started + PROGRESS_EVERY / 2

    async def tick(self, tally: Tally) -> None:
        """A second has passed: perhaps it is time for an update."""
        if self._wanted and time.monotonic() >= self._next_update:
            self._next_update = time.monotonic() + PROGRESS_EVERY
            await artifacts.quietly(lambda: self._show_progress(tally), what="The progress")

    async def finished(self, result: BatchResult, tally: Tally) -> None:
        """It is over."""
        if self._progress is not None:
            await artifacts.quietly(lambda: self._show_progress(tally), what="The progress")

    def ended(self, item: BatchItem) -> None:
        """That is what became of an item: what it made may be shown at the end."""
        self._files += len(item.files)
        if not (self._wanted and self._gallery and item.files):
            return
        pictures = [file for file in item.files if previews.is_picture(file)]
        bisect.insort(self._saved, (not pictures, item.number, item), key=lambda each: each[:2])
        del self._saved[FILES_MOST:]
        store = self._place.store
        # Those that are shown for certain; so nobody waits for them at the end.
        if store is not None and self._pictures and item.number < FILES_MOST:
            for file in pictures[: FILES_MOST - len(self._reading)]:
                reading = previews.small(store, file, self._side)
                self._reading[file.name] = asyncio.create_task(reading)

    async def closed(
        self,
        store: Store | None,
        options: BatchOptions,
        tally: Tally,
        result: BatchResult | None,
        *,
        fine: bool,
    ) -> None:
        """Nothing more happens."""
        try:
            if not self._wanted:
                return
            interrupted = result is None
            told = result or tally.result(options, ledger=self._ledger)
            await artifacts.quietly(
                lambda: self._show_summary(told, tally, store, interrupted),
                INTERRUPTED_TIMEOUT if interrupted else artifacts.SEND_TIMEOUT,
                "The summary",
            )
            if not interrupted and store is not None and self._saved:
                seconds = previews.PAGE_TIMEOUT + artifacts.SEND_TIMEOUT
                await artifacts.quietly(lambda: self._show_gallery(store), seconds, "The gallery")
        finally:
            for task in self._reading.values():
                task.cancel()

    async def _show_progress(self, tally: Tally) -> None:
        text, share = progress_line(tally, time.monotonic()), 100 * done_share(tally)
        if self._progress is None:
            key = await self._keys.of(Kind.PROGRESS)
            artifact = ProgressArtifact(key=key, progress=share, description=text)
            self._progress = await artifacts.send(artifact)
        else:
            await aupdate_progress_artifact(self._progress, share, description=text)

    async def _show_summary(
        self, result: BatchResult, tally: Tally, store: Store | None, interrupted: bool
    ) -> None:
        page = summary_page.summary(
            result,
            tally.created,
            self._settings.prices,
            place=str(store or ""),
            left_running=tally.left_running if interrupted else None,
        )
        kind = Kind.PLAN if result.dry_run else Kind.SUMMARY
        line = summary_page.headline(result, interrupted=interrupted)
        key = await self._keys.of(kind)
        await artifacts.send(MarkdownArtifact(key=key, markdown=page, description=line))

    async def _show_gallery(self, store: Store) -> None:
        entries = [e for _, _, item in self._saved for e in previews.entries_of_item(item)]
        key = await self._keys.of(Kind.GALLERY)
        artifact = await previews.gallery_of(
            store, entries, self._files, self._settings, key, reading=self._reading
        )
        await artifacts.send(artifact)
