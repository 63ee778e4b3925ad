"""Reading again what a batch has kept beside its records."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_cometapi import portal
from prefect_cometapi.batch_models import BatchItem, BatchResult
from prefect_cometapi.batch_records import default_ledger
from prefect_cometapi.errors import StorageError
from prefect_cometapi.journal import summary_name
from prefect_cometapi.settings import load_settings
from prefect_cometapi.storage import Storage, open_storage


def read_manifest(
    storage: Storage | None, manifest: str, *, ledger: Storage | None = None
) -> Iterator[BatchItem]:
    """The items of a batch, from its manifest, which is where its records are.

    Args:
        storage: The storage of the batch.
        manifest: The manifest's name; `BatchResult.manifest`.
        ledger: The ledger of the batch, where it was given one.

    Raises:
        StorageError: It could not be read, or is not there.
    """
    content = portal.call(_read_file, storage, manifest, ledger)
    for line in content.decode().split("\n"):
        if line:
            yield BatchItem.model_validate_json(line)


def read_summary(
    storage: Storage | None, manifest: str, *, ledger: Storage | None = None
) -> BatchResult:
    """What became of a batch, without its items: from the file beside its manifest.

    Args:
        storage: The storage of the batch; see `read_manifest`, also for the rest.
        manifest: The manifest's name.
        ledger: The ledger of the batch.

    Raises:
        StorageError: It could not be read, or is not there.
    """
    content = portal.call(_read_file, storage, summary_name(manifest), ledger)
    return BatchResult.model_validate_json(content)


async def _read_file(storage: Storage | None, name: str, ledger: Storage | None) -> bytes:
    """A file that a batch keeps beside its records."""
    place = default_ledger(storage, load_settings()) if ledger is None else ledger
    store = await open_storage(place)
    content = await store.read(name)
    if content is None:
        raise StorageError(f"There is no file {name} in the {store}.")
    return content
