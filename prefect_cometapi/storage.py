"""Where files go: a path, a file system block or an object storage block, as users give it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeAlias

from prefect.blocks.abstract import ObjectStorageBlock
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, WritableFileSystem

from prefect_cometapi.errors import InvalidInput, StorageError
from prefect_cometapi.portal import call, on_background_loop
from prefect_cometapi.stores import FileSystem, Folder, ObjectStore, Store

#: What users may give as storage: a folder, a saved block as `block://type-slug/name`, or a block.
Storage: TypeAlias = str | Path | WritableFileSystem | ObjectStorageBlock

BLOCK_SCHEME = "block://"


async def open_storage(storage: Storage) -> Store:
    """The storage behind the interface that this package uses.

    Args:
        storage: A folder; `block://type-slug/name` for a saved block; or a block.

    Raises:
        InvalidInput: It is none of these.
        StorageError: The saved block could not be loaded.
    """
    if isinstance(storage, str) and storage.startswith(BLOCK_SCHEME):
        storage = await _load_block(storage)
    # An object store may be a file system as well; only the object interface streams.
    if isinstance(storage, ObjectStorageBlock):
        return ObjectStore(storage)
    if type(storage) is LocalFileSystem:
        return Folder(Path(storage.basepath or ".").expanduser().absolute())
    if isinstance(storage, WritableFileSystem):
        return FileSystem(storage)
    if isinstance(storage, str | Path) and str(storage).strip():
        if "://" in str(storage):
            raise InvalidInput(
                f"The storage {str(storage)!r} is a URL. Use a folder, a block such as S3Bucket or "
                "RemoteFileSystem, or a saved one as block://type-slug/name. Nothing was sent."
            )
        try:
            if b"\0" in os.fsencode(storage):
                raise ValueError("it holds a NUL character")
            return Folder(Path(storage).expanduser().absolute())
        except (ValueError, RuntimeError) as error:  # half a surrogate, ~nobody
            raise InvalidInput(
                f"Can not use the folder {str(storage)!r}: {error}. Nothing was sent."
            ) from None
    raise InvalidInput(
        f"Can not store files in {storage!r}: give a folder, a WritableFileSystem or "
        "ObjectStorageBlock, or a saved one as block://type-slug/name. Nothing was sent."
    )


async def _load_block(reference: str) -> Any:
    name = reference.removeprefix(BLOCK_SCHEME)
    if not re.fullmatch(r"[\w-]+/[\w -]+", name):
        raise InvalidInput(
            f"{reference!r} is no saved block; one is written block://type-slug/name, for example "
            "block://s3-bucket/pictures. Nothing was sent."
        )
    loading: Awaitable[Any] = Block.aload(name)
    try:
        return await loading
    except Exception as error:
        raise StorageError(
            f"The storage block {name!r} could not be loaded: {error}. Save it in the Prefect UI "
            "or with .save(), and install the package that it comes from."
        ) from error


def check_prefix(prefix: object) -> str:
    """A prefix for names, such as `2026-11-22/gallery`, without a slash at either end.

    Raises:
        InvalidInput: It would lead out of the storage, or holds what a name can not.
    """
    if not isinstance(prefix, str):
        raise InvalidInput(f"The prefix {prefix!r} is not text. Nothing was sent.")
    parts = prefix.rstrip("/").split("/") if prefix else []
    for part in parts:
        odd = part in ("", ".", "..") or re.search(r"[\x00-\x1f\x7f\\:\ud800-\udfff]", part)
        # File systems count bytes, and the name of a file still has to fit behind it.
        if odd or len(part.encode()) > 200:
            raise InvalidInput(
                f"The prefix {prefix!r} is not a relative path of plain names (no .., no empty "
                "parts, no backslash or colon, at most 200 bytes each). Nothing was sent."
            )
    return "/".join(parts)


@on_background_loop
async def check_writable(storage: Storage, prefix: str = "") -> None:
    """Find out whether files can be written, before anything is spent on making them.

    In a folder nothing is left behind; in a block, a small hidden file.

    Raises:
        InvalidInput: It is no storage, or the prefix leads out of it.
        StorageError: It can not be written to; says why.
    """
    prefix = check_prefix(prefix)
    store = await open_storage(storage)
    try:
        await store.check(prefix)
    except StorageError as error:
        raise StorageError(f"{error} Nothing was sent.") from error.__cause__


@on_background_loop
async def awrite_text(storage: Storage, name: str, text: str) -> str:
    """Write a text file, whole or not at all where the storage can do that.

    Args:
        storage: Where to write it.
        name: Its name below the storage's root, such as `2026-11-22/manifest.jsonl`.
        text: What to write, as UTF-8.

    Returns:
        Its location.

    Raises:
        InvalidInput: It is no storage, or the name leads out of it.
        StorageError: It was not taken.
    """
    store = await open_storage(storage)
    with store.staging(check_prefix(name)) as path:
        await asyncio.to_thread(path.write_text, text, "utf-8")
        return await store.put(path, name)


def write_text(storage: Storage, name: str, text: str) -> str:
    """Sync twin of `awrite_text`."""
    return call(awrite_text, storage, name, text)


#: What `check_writable` is called in public.
acheck_storage = check_writable


def check_storage(storage: Storage, prefix: str = "") -> None:
    """Sync twin of `acheck_storage`."""
    call(check_writable, storage, prefix)
