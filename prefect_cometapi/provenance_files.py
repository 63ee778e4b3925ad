"""The provenance of saved files, written beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from prefect import runtime

from prefect_cometapi.errors import StorageError
from prefect_cometapi.ledger import Record
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.prefect_api import deployment_id
from prefect_cometapi.provenance import Circumstances, SavedBy, name_of, provenance_of
from prefect_cometapi.stores import Store


async def circumstances_here() -> Circumstances:
    """Whose run this is, as its provenance tells it. Never raises: the files come first."""
    run, task = runtime.flow_run.id, runtime.task_run.id
    saved_by = SavedBy(
        flow_run_id=run and str(run),
        task_run_id=task and str(task),
        deployment_id=await deployment_id(),
    )
    return Circumstances(saved_by, package_version=version("prefect-cometapi"))


async def write_beside(
    store: Store,
    files: Sequence[SavedFile],
    prediction: Prediction,
    record: Record | None,
    circumstances: Circumstances,
    *,
    kept: bool = False,
) -> None:
    """Write the provenance of each file beside it.

    Args:
        store: Where the files are.
        files: The files, saved.
        prediction: Their prediction.
        record: Its record, where there is one.
        circumstances: What the caller knows.
        kept: An earlier run had saved the files: what it wrote says more, and stays.

    Raises:
        StorageError: The storage did not take it, or could not say whether it is there.
    """

    async def write(file: SavedFile) -> None:
        name = name_of(file.name)
        if kept and await store.read(name) is not None:
            return
        told = provenance_of(
            file, prediction, record, circumstances, written_at=datetime.now(UTC), kept=kept
        )
        await store.write(name, f"{told.model_dump_json(indent=2)}\n".encode())

    # All of them, before the first that failed is told: each has to be written some time.
    results = await asyncio.gather(*map(write, files), return_exceptions=True)
    for result in results:
        if isinstance(result, StorageError):
            raise StorageError(
                f"The {len(files)} files of prediction {prediction.id} are saved, and the "
                f"provenance beside them is not, or not all of it: {result} Save it again with "
                "provenance=True, which is free and writes what is missing."
            ) from result
        if isinstance(result, BaseException):
            raise result
