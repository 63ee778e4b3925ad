"""Where files are saved, folders and blocks of users' own, and how they get there."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any, BinaryIO

from prefect.blocks.abstract import ObjectStorageBlock
from prefect.filesystems import WritableFileSystem

from prefect_cometapi import portal
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.simulator import Simulator
from prefect_cometapi.storage import Storage, open_storage
from prefect_cometapi.stores import Folder
from tests.servers import BOAT, MODEL, Server, client_for, made_of

# --- blocks of users' own ---------------------------------------------------------------------


class _ObjectStorage(ObjectStorageBlock):
    """What of an object store is of no interest."""

    async def download_object_to_path(self, *_: Any, **__: Any) -> Path:
        raise NotImplementedError

    async def download_object_to_file_object(self, *_: Any, **__: Any) -> BinaryIO:
        raise NotImplementedError

    async def download_folder_to_path(self, *_: Any, **__: Any) -> Path:
        raise NotImplementedError

    async def upload_from_file_object(self, *_: Any, **__: Any) -> str:
        raise NotImplementedError

    async def upload_from_folder(self, *_: Any, **__: Any) -> str:
        raise NotImplementedError


class FolderOfObjects(_ObjectStorage):
    """An object store on a folder; it has no way to delete."""

    _block_type_name = "Folder of objects for tests"
    _block_type_slug = "folder-of-objects"

    root: str

    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        target = Path(self.root, to_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(from_path, target)
        return to_path

    async def download_object_to_file_object(
        self, from_path: str, to_file_object: BinaryIO, **_: Any
    ) -> BinaryIO:
        to_file_object.write(Path(self.root, from_path).read_bytes())
        return to_file_object

    async def download_folder_to_path(
        self, from_folder: str, to_folder: str | Path, **_: Any
    ) -> Path:
        if Path(self.root, from_folder).is_dir():
            shutil.copytree(Path(self.root, from_folder), to_folder, dirs_exist_ok=True)
        return Path(to_folder)


class Objects(_ObjectStorage):
    """An object store in memory."""

    _objects: dict[str, bytes] = {}  # noqa: RUF012 - a pydantic private attribute
    _threads: list[int] = []  # noqa: RUF012

    def _store(self, path: str | Path, name: str) -> str:
        self._threads.append(threading.get_ident())
        self._objects[name] = Path(path).read_bytes()
        return f"bucket/{name}"


class AsyncObjects(Objects):
    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        await asyncio.sleep(0)
        return self._store(from_path, to_path)


class SyncObjects(Objects):
    def upload_from_path(  # type: ignore[override]
        self, from_path: str | Path, to_path: str, **_: Any
    ) -> str:
        return self._store(from_path, to_path)


class Files(WritableFileSystem):
    """A file system in memory."""

    _files: dict[str, bytes] = {}  # noqa: RUF012

    async def read_path(self, path: str) -> bytes:
        return self._files[path]


class AsyncFiles(Files):
    async def write_path(self, path: str, content: bytes) -> None:
        await asyncio.sleep(0)
        self._files[path] = content


class SyncFiles(Files):
    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        self._files[path] = content


class ObjectsAndFiles(SyncObjects, AsyncFiles):
    """What prefect-aws' S3Bucket is."""


class RefusingObjects(Objects):
    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        raise PermissionError("AccessDenied: not your bucket")


class RefusingFiles(Files):
    async def write_path(self, path: str, content: bytes) -> None:
        raise TimeoutError("no answer")


# --- how outputs get there ---------------------------------------------------------------------


async def save(
    server: Server, storage: Storage, *, prefix: str = "", output: object = None
) -> list[SavedFile]:
    """Check a storage, and save an output in it: a file of the server's, if it is no other."""
    made = made_of(output or f"{server.url}/out.png", server.url)

    async def run() -> list[SavedFile]:
        store = await open_storage(storage)
        await store.check()
        return await save_outputs(client_for(server.url), made, store, prefix)

    return await portal.acall(run)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(everything_in(folder))


async def made_by(sim: Simulator, model: str = MODEL, **more: object) -> Prediction:
    """A prediction of the simulator that succeeded."""
    client = client_for(sim.url)
    found = await client.acreate_prediction(model, BOAT | more)
    while not found.finished:
        await asyncio.sleep(0.01)
        found = await client.aget_prediction(found.id)
    assert found.status is PredictionStatus.SUCCEEDED
    return found


async def save_in(made: Prediction, folder: Path, prefix: str = "") -> list[SavedFile]:
    client = client_for(made.api_root)
    client.notify = lambda _: None
    files = await portal.acall(save_outputs, client, made, Folder(folder), prefix)
    for saved in files:  # what is said of a file is true of it
        content = Path(saved.location).read_bytes()
        assert saved.location == str(folder / saved.name)
        assert saved.size == len(content)
        assert saved.sha256 == hashlib.sha256(content).hexdigest()
    return files
