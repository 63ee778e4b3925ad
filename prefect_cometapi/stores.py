"""Places for files behind one interface: a folder, a file system block, an object storage block."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from prefect.blocks.abstract import ObjectStorageBlock
from prefect.blocks.core import Block
from prefect.filesystems import WritableFileSystem

from prefect_cometapi import asset_keys, block_calls
from prefect_cometapi.bounded_reads import Bounded, TooLarge, check_size
from prefect_cometapi.errors import StorageError

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

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells this storage from others, in any process; holds no credential."""

    async def holds(self, name: str, size: int) -> bool:
        """False where a file of that name and size is certainly not there."""
        return True

    async def beginning_with(self, stem: str) -> list[str]:
        """The names of the files there that begin so; none where that is not known."""
        return []

    @abstractmethod
    async def read(self, name: str, most: int | None = None) -> bytes | None:
        """A small file's content; None only where there is certainly no such file.

        Args:
            name: The file's.
            most: Of a larger one, in bytes, no more than about that is read; where the storage
                tells sizes, nothing.

        Raises:
            StorageError: It could not be read, or that it is absent is not certain.
            TooLarge: It has more than `most` bytes.
        """

    @abstractmethod
    async def read_all(self, folder: str) -> dict[str, bytes]:
        """The content of every file in and below a folder, by the last part of its name.

        Raises:
            StorageError: They could not be read, or the storage has no way to list files.
        """

    async def write(self, name: str, content: bytes) -> str:
        """Write a small file; returns its location.

        Raises:
            StorageError: It was not taken.
        """
        with self.staging(name) as path:
            await asyncio.to_thread(path.write_bytes, content)
            return await self.put(path, name)

    async def remove(self, name: str) -> None:
        """Delete a file, where it is.

        Raises:
            StorageError: It could not be deleted, or the storage has no way to.
        """
        raise StorageError(
            f"The {self} has no way to delete {name}. Delete it with the storage's own tools, or "
            "give the folder a lifecycle rule."
        )

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
def _refusing(place: object, what: str = "written to") -> Iterator[None]:
    """Tell a disk's errors as `StorageError`."""
    try:
        yield
    except TimeoutError:  # an OSError too, but not one of the disk
        raise
    except OSError as error:
        raise StorageError(f"The {place} can not be {what}: {error.strerror or error}.") from error


class Folder(Store):
    """A folder of this machine. Files appear in it whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return f"folder {self.root}"

    @property
    def identity(self) -> str:
        """The path."""
        return str(self.root)

    async def holds(self, name: str, size: int) -> bool:
        """Looks."""
        path = self.root / name
        return await asyncio.to_thread(lambda: path.is_file() and path.stat().st_size == size)

    async def beginning_with(self, stem: str) -> list[str]:
        """Looks."""

        def look() -> list[str]:
            folder = (self.root / stem).parent
            found = sorted(folder.iterdir()) if folder.is_dir() else []
            names = (path.relative_to(self.root).as_posix() for path in found)
            return [name for name in names if name.startswith(stem)]

        with suppress(OSError):
            return await asyncio.to_thread(look)
        return []

    async def read(self, name: str, most: int | None = None) -> bytes | None:
        """Reads the file."""

        def read() -> bytes:
            path = self.root / name
            check_size(name, None if most is None else path.stat().st_size, most)
            return path.read_bytes()

        with _refusing(self, "read"):
            try:
                return await asyncio.to_thread(read)
            except FileNotFoundError:
                return None

    async def read_all(self, folder: str) -> dict[str, bytes]:
        """Reads every file but those that are being written."""

        def read() -> dict[str, bytes]:
            files = (path for path in (self.root / folder).rglob("*") if path.is_file())
            return {path.name: path.read_bytes() for path in files if path.name[0] != "."}

        with _refusing(self, "read"):
            return await asyncio.to_thread(read)

    async def remove(self, name: str) -> None:
        """Deletes the file."""
        with _refusing(self):
            await asyncio.to_thread((self.root / name).unlink, missing_ok=True)

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
        question = (self.block._block_document_id or id(self.block), self.identity, prefix)
        if question in _answered:
            return
        await self._put_probe(_below(prefix, PROBE_NAME))
        _answered.add(question)

    async def _put_probe(self, name: str) -> None:
        await self.write(name, b"prefect-cometapi looks here whether it can write and read.\n")

    @functools.cached_property
    def identity(self) -> str:
        """The kind of block and its fields; of its credentials, which change, only addresses."""
        fields = {
            name: block_calls.identifying(getattr(self.block, name))
            for name in type(self.block).model_fields
        }
        told = f"{type(self.block).__name__} {json.dumps(fields, sort_keys=True)}"
        return hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()[:16]

    @abstractmethod
    def _get(self, name: str, most: int | None = None) -> Any:
        """Ask the block for a file's content; in a worker thread."""

    @abstractmethod
    def _get_folder(self, folder: str, target: str) -> Any:
        """Ask the block to bring a whole folder here; in a worker thread."""

    async def read(self, name: str, most: int | None = None) -> bytes | None:
        """Ask the block, and where it fails, find out whether that means "not there"."""
        try:
            content = bytes(await block_calls.ask(self.block, self._get, name, most))
            check_size(name, len(content), most)
            return content
        except TooLarge:
            raise
        except Exception as error:
            if await self._means_absent(block_calls.looks(error, name)):
                return None
            raise StorageError(
                f"{name} could not be read from the {self}: {type(error).__name__}: {error}"
            ) from error

    async def _means_absent(self, looks: tuple[str, str]) -> bool:
        if (self.identity, looks) in _answered:  # then only whether it can be read at all, now
            try:
                await block_calls.ask(self.block, self._get, PROBE_NAME)
            except Exception:
                return False
            return True
        # Each block fails in its own way. So ask for what can not be there and compare, and look
        # for what must be there before and after, so that an outage is not taken for an absence.
        await self._put_probe(PROBE_NAME)
        nowhere = f"{PROBE_NAME}-{uuid4().hex}"
        try:
            await block_calls.ask(self.block, self._get, PROBE_NAME)
            try:
                await block_calls.ask(self.block, self._get, nowhere)
            except Exception as error:
                found = block_calls.looks(error, nowhere)
                await block_calls.ask(self.block, self._get, PROBE_NAME)
                if found == looks:
                    _answered.add((self.identity, looks))
                return found == looks
        except Exception:
            return False
        return False

    async def read_all(self, folder: str) -> dict[str, bytes]:
        """Bring the folder to a temporary one, and read that."""
        with tempfile.TemporaryDirectory(prefix="prefect-cometapi-") as target:
            try:
                await block_calls.ask(self.block, self._get_folder, folder, target)
            except FileNotFoundError:
                return {}
            except Exception as error:
                raise StorageError(
                    f"The folder {folder} could not be read from the {self}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            return await Folder(Path(target)).read_all(".")

    async def _call(self, method: Callable[..., Any], *args: object) -> Any:
        try:
            return await block_calls.ask(self.block, method, *args)
        except Exception as error:
            raise StorageError(
                f"The {self} did not take the file: {type(error).__name__}: {error}"
            ) from error


class ObjectStore(_BlockStore):
    """An object storage block (S3, GCS, Azure, …): streams from disk, objects appear whole."""

    block: ObjectStorageBlock

    async def put(self, file: Path, name: str) -> str:
        """Upload the file as one object."""
        try:
            location = await self._call(self.block.upload_from_path, file, name)
        except StorageError as error:
            # Azure's, which replaces nothing unless told to.
            if type(error.__cause__).__name__ != "ResourceExistsError":
                raise
            replace = functools.partial(self.block.upload_from_path, overwrite=True)
            location = await self._call(replace, file, name)
        return str(location or name)

    def _get(self, name: str, most: int | None = None) -> Any:
        content = Bounded(name, most)
        with content.told():
            result: Any = self.block.download_object_to_file_object(name, content)
        if not inspect.isawaitable(result):
            return content.getvalue()

        async def awaited() -> bytes:
            with content.told():
                await result
            return content.getvalue()

        return awaited()

    def _get_folder(self, folder: str, target: str) -> Any:
        # The slash keeps what only begins with the folder's name out of an object store's list.
        return self.block.download_folder_to_path(f"{folder}/", target)


class FileSystem(_BlockStore):
    """A Prefect file system block, whose interface takes only whole files in memory."""

    block: WritableFileSystem
    whole_bytes_only = True

    async def put(self, file: Path, name: str) -> str:
        """Read the file and hand it over."""
        write = block_calls.in_its_thread(self.block.write_path)
        await self._call(write, name, await asyncio.to_thread(file.read_bytes))
        base = str(getattr(self.block, "basepath", None) or "").rstrip("/")
        if "@" in base:  # a user and a password, perhaps: the location is told to everybody
            base = asset_keys.of_url(base) or ""
        return f"{base}/{name}" if base else name

    def _get(self, name: str, most: int | None = None) -> Any:
        check_size(name, None if most is None else self._size(name), most)
        return block_calls.in_its_thread(self.block.read_path)(name)

    def _size(self, name: str) -> int | None:
        """The size of a file, where the block has a way to ask: RemoteFileSystem's is fsspec."""
        base = str(getattr(self.block, "basepath", "")).rstrip("/")
        with suppress(Exception):
            return int(self.block.filesystem.size(f"{base}/{name}"))  # type: ignore[attr-defined]
        return None

    def _get_folder(self, folder: str, target: str) -> Any:
        if not hasattr(self.block, "get_directory"):
            raise NotImplementedError("no get_directory(), so files can not be listed")
        return block_calls.in_its_thread(self.block.get_directory)(folder, target)
