"""Where files go: a path, a file system block or an object storage block behind one interface."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from uuid import uuid4

from prefect.blocks.abstract import ObjectStorageBlock
from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem, WritableFileSystem

from prefect_cometapi.errors import InvalidInput, StorageError
from prefect_cometapi.portal import on_background_loop

#: What users may give as storage: a folder, a saved block as `block://type-slug/name`, or a block.
Storage: TypeAlias = str | Path | WritableFileSystem | ObjectStorageBlock

BLOCK_SCHEME = "block://"

#: Written where an interface offers no other way to find out whether it takes files.
PROBE_NAME = ".prefect-cometapi-can-write-here"


class Store(ABC):
    """One storage, reduced to what saving outputs needs. Names are relative, with `/`."""

    #: True where the whole file has to be held in memory to be written.
    whole_bytes_only = False

    @abstractmethod
    async def check(self, prefix: str = "") -> None:
        """Find out whether files can be written below a prefix.

        Raises:
            StorageError: They can not; says why.
        """

    @abstractmethod
    async def put(self, file: Path, name: str) -> str:
        """Move a finished local file into place under `name`; returns its location.

        Raises:
            StorageError: It was not taken.
        """

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A local path to write a file to, before it is `put` under `name`."""
        with (
            _refusing("temporary folder"),
            tempfile.TemporaryDirectory(prefix="prefect-cometapi-") as folder,
        ):
            yield Path(folder) / PurePosixPath(name).name


def _below(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


@contextmanager
def _refusing(place: object) -> Iterator[None]:
    """Tell a disk's errors as `StorageError`."""
    try:
        yield
    except TimeoutError:  # an OSError too, but not one of the disk
        raise
    except OSError as error:
        raise StorageError(
            f"The {place} can not be written to: {error.strerror or error}."
        ) from error


class Folder(Store):
    """A folder of this machine. Files appear in it whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return f"folder {self.root}"

    async def check(self, prefix: str = "") -> None:
        """Make the folder, and write and delete a file in it."""

        def probe() -> None:
            with self.staging(_below(prefix, PROBE_NAME)) as path:
                path.write_bytes(b"")

        await asyncio.to_thread(probe)

    async def put(self, file: Path, name: str) -> str:
        """Move the file from beside its target into place, in one step."""

        def move() -> None:
            with file.open("rb") as written:
                os.fsync(written.fileno())  # the bytes first, then the name that promises them
            file.replace(self.root / name)

        with _refusing(self):
            await asyncio.to_thread(move)
        return str(self.root / name)

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A hidden path beside the target, so that moving it there is one step."""
        target = self.root / name
        path = target.with_name(f".{target.name[:80]}.{uuid4().hex}.part")
        with _refusing(self):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)


_answered: set[tuple[object, ...]] = set()


class _BlockStore(Store):
    """A storage block, called in a worker thread whether its methods are sync or async."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __str__(self) -> str:
        name = self.block._block_document_name
        return f"{type(self.block).__name__} block{f' {name!r}' if name else ''}"

    async def check(self, prefix: str = "") -> None:
        """Write a small file, once a process: the interface has no other question to ask."""
        question = (id(self.block), self.block.model_dump_json(), prefix)
        if question in _answered:
            return
        with self.staging(PROBE_NAME) as path:
            path.write_text("prefect-cometapi looks here whether it can write.\n")
            await self.put(path, _below(prefix, PROBE_NAME))
        _answered.add(question)

    async def _call(self, method: Callable[..., Any], *args: object) -> Any:
        try:
            result = await asyncio.to_thread(method, *args)
            return await result if inspect.isawaitable(result) else result
        except Exception as error:
            raise StorageError(
                f"The {self} did not take the file: {type(error).__name__}: {error}"
            ) from error


class ObjectStore(_BlockStore):
    """An object storage block (S3, GCS, Azure, …): streams from disk, objects appear whole."""

    block: ObjectStorageBlock

    async def put(self, file: Path, name: str) -> str:
        """Upload the file as one object."""
        return str(await self._call(self.block.upload_from_path, file, name) or name)


class FileSystem(_BlockStore):
    """A Prefect file system block, whose interface takes only whole files in memory."""

    block: WritableFileSystem
    whole_bytes_only = True

    async def put(self, file: Path, name: str) -> str:
        """Read the file and hand it over."""
        await self._call(self.block.write_path, name, await asyncio.to_thread(file.read_bytes))
        base = getattr(self.block, "basepath", None)
        return f"{str(base).rstrip('/')}/{name}" if base else name


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
async def write_text(storage: Storage, name: str, text: str) -> str:
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
