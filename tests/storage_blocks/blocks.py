"""Storage blocks of users' own, each on a folder, as different as the interfaces allow."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from prefect.filesystems import LocalFileSystem, WritableFileSystem

from tests.storages import FolderOfObjects


class LocalOfMyOwn(LocalFileSystem):
    """A subclass may do anything with a file, so it is asked to."""

    _block_type_name = "Local file system of my own"
    _block_type_slug = "local-of-my-own"


class SyncObjects(FolderOfObjects):
    """The interface's methods are async; nothing keeps a block from having sync ones."""

    _block_type_name = "Sync objects for tests"
    _block_type_slug = "sync-objects"

    def upload_from_path(  # type: ignore[override]
        self, from_path: str | Path, to_path: str, **_: Any
    ) -> None:
        """Says nothing of where it went."""
        asyncio.run(super().upload_from_path(from_path, to_path))

    def download_object_to_file_object(  # type: ignore[override]
        self, from_path: str, to_file_object: BinaryIO, **_: Any
    ) -> BinaryIO:
        return asyncio.run(super().download_object_to_file_object(from_path, to_file_object))

    def download_folder_to_path(  # type: ignore[override]
        self, from_folder: str, to_folder: str | Path, **_: Any
    ) -> Path:
        return asyncio.run(super().download_folder_to_path(from_folder, to_folder))


class ResourceExistsError(Exception):
    """Named as Azure's."""


class LikeAzure(FolderOfObjects):
    """As AzureBlobStorageContainer: replaces nothing unless told to, and has errors of its own."""

    _block_type_name = "Like Azure for tests"
    _block_type_slug = "like-azure"

    async def upload_from_path(
        self, from_path: str | Path, to_path: str, overwrite: bool = False, **_: Any
    ) -> str:
        if Path(self.root, to_path).exists() and not overwrite:
            raise ResourceExistsError("The specified blob already exists.")
        return await super().upload_from_path(from_path, to_path)

    async def download_object_to_file_object(
        self, from_path: str, to_file_object: BinaryIO, **_: Any
    ) -> BinaryIO:
        try:
            return await super().download_object_to_file_object(from_path, to_file_object)
        except FileNotFoundError as error:
            raise RuntimeError("An error occurred: The specified blob does not exist.") from error


class AsyncFiles(WritableFileSystem):
    """No more than the interface asks for, so that files can not be listed."""

    _block_type_name = "Async files for tests"
    _block_type_slug = "async-files"

    root: str

    async def read_path(self, path: str) -> bytes:
        return Path(self.root, path).read_bytes()

    async def write_path(self, path: str, content: bytes) -> None:
        target = Path(self.root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


class SyncFiles(WritableFileSystem):
    """A file system that can hand over a folder, as WritableDeploymentStorage does."""

    _block_type_name = "Sync files for tests"
    _block_type_slug = "sync-files"

    root: str

    def read_path(self, path: str) -> bytes:  # type: ignore[override]
        return Path(self.root, path).read_bytes()

    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        target = Path(self.root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def get_directory(self, from_path: str, local_path: str) -> None:
        shutil.copytree(Path(self.root, from_path), local_path, dirs_exist_ok=True)
