"""One gallery in Prefect of what many predictions have made, for flows of users' own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

from prefect_cometapi import artifacts, portal, previews
from prefect_cometapi.artifact_keys import Kind, base_of, key_of
from prefect_cometapi.batch_models import BatchItem
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.gallery_page import Entry
from prefect_cometapi.models import Generation
from prefect_cometapi.observer import without_input
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.settings import CometAPISettings, load_settings
from prefect_cometapi.storage import Storage, open_storage

#: What a gallery is made of.
Made = Generation | BatchItem


def create_gallery_artifact(
    made: Iterable[Made], storage: Storage, *, key: str | None = None, title: str = ""
) -> UUID | None:
    """Show what many predictions have made as one artifact: up to 24 files, pictures first.

    The pictures are read back from the storage, made small, and put into the artifact itself.
    `run_predictions` shows such a gallery by itself; this is for flows that call `generate` many
    times, or that choose what is shown.

    Args:
        made: What was made, as `generate` returned it, or items of a batch.
        storage: Where the files are.
        key: The artifact's key: lower case letters, digits and dashes. By default it is made of
            the names of the flow and its deployment, so that the UI shows the history of both.
        title: Stands above the pictures, and in the UI's lists.

    Returns:
        The artifact's id; None where there is none, because artifacts are turned off, this is no
        run, nothing was made, or Prefect's server did not take it in time, which fails nothing.

    Raises:
        InvalidInput: The arguments can not be right.
    """
    return portal.call(acreate_gallery_artifact, made, storage, key=key, title=title)


@on_background_loop
async def acreate_gallery_artifact(
    made: Iterable[Made], storage: Storage, *, key: str | None = None, title: str = ""
) -> UUID | None:
    """Async twin of `create_gallery_artifact`."""
    if key is not None and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key):
        raise InvalidInput(
            f"The key of an artifact is {key!r:.80}; it has lower case letters, digits and dashes."
        )
    settings = load_settings()
    entries = [entry for each in made for entry in _entries(each, settings)]
    if not (settings.artifacts and artifacts.in_run() and entries):
        return None
    entries.sort(key=lambda entry: not previews.is_picture(entry.file))

    async def show() -> UUID:
        store = await open_storage(storage)
        name = key or key_of(base_of(await artifacts.whose()), Kind.GALLERY)
        artifact = await previews.gallery_of(
            store, entries, len(entries), settings, name, heading=title
        )
        return await artifacts.send(artifact)

    seconds = previews.PAGE_TIMEOUT + artifacts.SEND_TIMEOUT
    return await artifacts.quietly(show, seconds, "The gallery")


def _entries(made: object, settings: CometAPISettings) -> list[Entry]:
    if isinstance(made, Generation):
        known = made.prediction if settings.prompts else without_input(made.prediction)
        return previews.entries_of(known, made.files)
    if isinstance(made, BatchItem):
        return previews.entries_of_item(made, prompts=settings.prompts)
    raise InvalidInput(
        f"A gallery is made of what generate() returned, or of items of a batch, not of a "
        f"{type(made).__name__}."
    )
