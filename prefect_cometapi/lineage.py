"""What was saved, as assets of Prefect: which folder, from which model, from which tables.

The folder or the prefix that outputs go to is the asset; what it is made from are the models, the
tables and files that the caller names, and the assets of the tasks whose results came in. Told
when the work is over, in events that Prefect's own `@materialize` sends as well. Nothing here
fails the work.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from prefect.assets import Asset
from prefect.blocks.core import Block
from prefect.context import AssetContext, FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.filesystems import LocalFileSystem
from pydantic import ValidationError

from prefect_cometapi import asset_keys
from prefect_cometapi.batch_models import BatchResult
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.stores import FileSystem, Folder, ObjectStore, Store
from prefect_cometapi.tally import BatchObserver, BatchOptions, Tally

#: Tables and files that the inputs came from, by their keys as assets.
Sources = Sequence[str | Asset]
#: What became of a folder: written to, not written to although that was wanted, or only looked at.
Became = Literal["materialization.succeeded", "materialization.failed", "referenced"]

#: Which fields of a block say where it stores: its scheme, its bucket and the folder in it. By the
#: names that prefect-aws, prefect-gcp and prefect-azure give their blocks.
_BUCKETS = {
    "s3-bucket": ("s3", "bucket_name", "bucket_folder"),
    "gcs-bucket": ("gs", "bucket", "bucket_folder"),
    "azure-blob-storage-container": ("az", "container_name", "base_folder"),
}
#: So many models of a batch, and names of files, are told one by one: an event is small.
MANY = 20
#: Seconds that telling may take at the end of a batch; it is a queue in memory.
TELL_TIMEOUT = 5.0


def check_sources(sources: Sources) -> tuple[Asset, ...]:
    """The tables and files that inputs came from, as assets.

    Raises:
        InvalidInput: One is no key of an asset, or holds a credential. Nothing was sent.
    """
    if isinstance(sources, str | Asset) or not isinstance(sources, Iterable):
        raise InvalidInput(
            "sources are a list of tables or files, such as "
            '["postgresql://host/shop/products"]. Nothing was sent.'
        )
    assets = tuple(map(_as_asset, sources))
    if len(assets) > asset_keys.MANY_SOURCES:
        raise InvalidInput(
            f"{len(assets)} sources are named; up to {asset_keys.MANY_SOURCES} are told to "
            "Prefect. Nothing was sent."
        )
    return assets


def _as_asset(source: object) -> Asset:
    key = source.key if isinstance(source, Asset) else source
    if not isinstance(key, str):
        raise InvalidInput(
            f"A source is a {type(key).__name__}; it is the key of an asset, such as "
            '"postgresql://host/shop/products". Nothing was sent.'
        )
    asset_keys.check_source(key)
    try:
        return source if isinstance(source, Asset) else Asset(key=key)
    except ValidationError as error:
        why = "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
        raise InvalidInput(
            f"The source {re.split('[?#]', key)[0]!r:.120} is no key of an asset: {why}. "
            "Nothing was sent."
        ) from None


def place_of(store: Store, prefix: str = "") -> str:
    """The key of the folder or prefix that outputs go to."""
    if isinstance(store, Folder):
        return asset_keys.of_folder(store.root.as_posix(), prefix)
    if isinstance(store, ObjectStore | FileSystem):
        return _place_of_block(store.block, store.identity, prefix)
    return asset_keys.of_block("storage", store.identity, prefix)


def _place_of_block(block: Block, identity: str, prefix: str) -> str:
    for kind in type(block).__mro__:
        slug = kind.get_block_type_slug() if issubclass(kind, Block) else None
        scheme, bucket, folder = _BUCKETS.get(slug or "", ("", "", ""))
        if scheme and (name := getattr(block, bucket, None)):
            return asset_keys.of_bucket(scheme, name, getattr(block, folder, None) or "", prefix)
    base = getattr(block, "basepath", None)
    if base is not None and "://" in str(base):
        if key := asset_keys.of_url(str(base), prefix):
            return key
    elif base is not None and isinstance(block, LocalFileSystem):
        return asset_keys.of_folder(Path(base).expanduser().absolute().as_posix(), prefix)
    return asset_keys.of_block(
        type(block).get_block_type_slug(), block._block_document_name or identity, prefix
    )


class Told:
    """Tells Prefect what became of a folder.

    Args:
        sources: What the inputs came from.
        wanted: The setting `assets`.

    Raises:
        InvalidInput: A source is not usable.
    """

    def __init__(self, sources: Sources = (), wanted: bool = True) -> None:
        self.sources, self.wanted = check_sources(sources), wanted

    def tell(
        self, place: str, became: Became, models: Iterable[str], metadata: dict[str, Any]
    ) -> None:
        """Send the events, where this is part of a run."""
        if not self.wanted or not (FlowRunContext.get() or TaskRunContext.get()):
            return
        with suppress(Exception):  # the work is done, and counts for more
            _send(place, became, self._made_from(models), metadata)

    async def tell_soon(
        self, place: str, became: Became, models: Iterable[str], metadata: dict[str, Any]
    ) -> None:
        """The same from the background loop, which it does not hold up."""
        with suppress(Exception):
            async with asyncio.timeout(TELL_TIMEOUT):
                await asyncio.to_thread(self.tell, place, became, models, metadata)

    def _made_from(self, models: Iterable[str]) -> list[Asset]:
        """What the folder is made from, each once."""
        assets = [Asset(key=asset_keys.of_model(model)) for model in list(models)[:MANY]]
        assets += self.sources
        if context := AssetContext.get():  # of the task run: what its own inputs were made as
            assets += sorted(
                context.upstream_assets | context.direct_asset_dependencies,
                key=lambda asset: asset.key,
            )[:MANY]
        return list({asset.key: asset for asset in assets}.values())


def _send(place: str, became: Became, made_from: list[Asset], metadata: dict[str, Any]) -> None:
    asset = Asset(key=place)
    resource = AssetContext.asset_as_resource(asset)
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow and task:  # so that what is made from this task's result is linked to the folder
        made = flow.task_run_assets.get(task.task_run.id, set()).difference(made_from)
        flow.task_run_assets[task.task_run.id] = {*made, asset}
    if became == "referenced":
        emit_event("prefect.asset.referenced", resource, related=[], payload=metadata)
        return
    for each in made_from:
        emit_event("prefect.asset.referenced", AssetContext.asset_as_resource(each), related=[])
    related = [AssetContext.asset_as_related(each) for each in made_from]
    related.append(AssetContext.related_materialized_by("prefect-cometapi"))
    emit_event(f"prefect.asset.{became}", resource, related=related, payload=metadata)


def tried_again() -> bool:
    """Whether Prefect is about to try this task again: then it has not failed yet."""
    context = TaskRunContext.get()
    if context is None or context.task.retry_condition_fn is not None:
        return False
    return context.task_run.run_count <= context.task.retries


class FolderAsset(Observer):
    """Tells what became of the folder of one prediction, when all is over.

    Args:
        sources: What the input came from.
        wanted: The setting `assets`.
        prediction: What is known of it.

    Raises:
        InvalidInput: A source is not usable.
    """

    def __init__(
        self, sources: Sources = (), wanted: bool = True, prediction: Prediction | None = None
    ) -> None:
        self._told = Told(sources, wanted)
        self._place: str | None = None
        self._prediction = prediction
        self._files: list[SavedFile] = []
        self._new = False

    def goes_to(self, store: Store, prefix: str) -> None:
        """That is where its outputs go."""
        with suppress(Exception):  # blocks of users' own may be of any kind
            self._place = place_of(store, prefix)

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        self._prediction = prediction

    def found(self, prediction: Prediction) -> None:
        """It had been created before."""
        self._prediction = prediction

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        self._prediction, self._files, self._new = prediction, files, True

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved by an earlier attempt."""
        self._prediction, self._files = prediction, files

    async def over(self, error: BaseException | None) -> None:
        """Nothing more happens."""
        if self._place is None:
            return
        failed = isinstance(error, Exception) and not self._files
        if failed and tried_again():
            return
        became: Became | None = None
        if self._new and self._files:
            became = "materialization.succeeded"
        elif failed:
            became = "materialization.failed"
        elif self._files:
            became = "referenced"
        if became is not None:
            known = self._prediction
            models = [known.model] if known and known.model else []
            await self._told.tell_soon(self._place, became, models, self._metadata(error))

    def _metadata(self, error: BaseException | None) -> dict[str, Any]:
        known = self._prediction
        return {
            "model": known.model if known else None,
            "prediction_id": known.id if known else None,
            "run_time": known.run_time if known else None,
            "scope": known.scope if known else None,
            "files": len(self._files),
            "bytes": sum(file.size for file in self._files),
            "names": [file.name for file in self._files[:MANY]],
            **({"error": type(error).__name__} if error else {}),
        }


class BatchFolderAsset(BatchObserver):
    """Tells what became of the folder of a batch, when it is closed.

    Args:
        sources: What the inputs came from.
        wanted: The setting `assets`.

    Raises:
        InvalidInput: A source is not usable.
    """

    def __init__(self, sources: Sources = (), wanted: bool = True) -> None:
        self._told = Told(sources, wanted)

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
        became = became_of(tally)
        if became is None or options.dry_run or store is None:
            return
        if became == "materialization.failed" and not fine and tried_again():
            return
        with suppress(Exception):  # blocks of users' own may be of any kind
            place, metadata = place_of(store, options.prefix), _metadata(options, tally, result)
            await self._told.tell_soon(place, became, _models(options, tally), metadata)


def became_of(tally: Tally) -> Became | None:
    """What became of a batch's folder; None where nothing did."""
    if tally.files:
        return "materialization.succeeded"
    if tally.failed:
        return "materialization.failed"
    return "referenced" if tally.models.total() else None


def _models(options: BatchOptions, tally: Tally) -> list[str]:
    """The models that made what is saved, the most used first; without any, what was asked for."""
    used = [model for model, number in tally.models.most_common() if number]
    return used or [options.model]


def _metadata(options: BatchOptions, tally: Tally, result: BatchResult | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "scope": options.scope,
        "models": dict(tally.models.most_common(MANY)),
        "counts": {str(status): number for status, number in tally.counts.items()},
        "found": tally.found,
        "files": tally.files,
        "bytes": tally.size,
    }
    if result is not None:
        metadata |= {
            "created": result.created,
            "manifest": result.manifest,
            "estimated_cost": result.estimated_cost,
            "seconds": result.seconds,
            "stopped": bool(result.stopped),
        }
    return metadata
