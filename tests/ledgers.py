"""Homes for ledgers, and blocks to make them of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import pytest
from prefect.blocks.abstract import ObjectStorageBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableUpdate
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from prefect_cometapi import portal
from prefect_cometapi.ledger import Record
from prefect_cometapi.records import RecordStore, _name, open_ledger
from prefect_cometapi.storage import open_storage

HOMES = ["server", "folder", "remote", "objects"]


class FolderOfObjects(ObjectStorageBlock):
    """An object storage block of a user's own, on a folder; it has no way to delete."""

    _block_type_name = "Folder of objects for tests"
    _block_type_slug = "folder-of-objects"

    root: str

    async def download_object_to_path(self, *_: Any, **__: Any) -> Path:
        raise NotImplementedError

    async def upload_from_file_object(self, *_: Any, **__: Any) -> str:
        raise NotImplementedError

    async def upload_from_folder(self, *_: Any, **__: Any) -> str:
        raise NotImplementedError

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


def use_home(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Save a block of a kind, and set it as the ledger; returns the setting."""
    if kind == "server":
        return "prefect-server"
    folder.mkdir(exist_ok=True)
    name = f"ledger-{uuid4().hex[:12]}"
    block: Any = FolderOfObjects(root=str(folder))
    if kind == "folder":
        block = LocalFileSystem(basepath=str(folder))
    elif kind == "remote":
        block = RemoteFileSystem(basepath=f"memory://{name}")
    block.save(name)
    where = f"block://{block.get_block_type_slug()}/{name}"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_LEDGER", where)
    return where


def write(where: str, key: str, record: Record) -> None:
    """Write a record, as another process would have."""
    ledger: RecordStore = open_ledger(where)

    async def claim_and_store() -> None:
        await ledger.claim(key, record)
        if record.prediction_id or record.outcome:
            await ledger.store(key, record)

    portal.call(claim_and_store)


def tear(where: str, scope: str, key: str) -> None:
    """Leave half of a record."""
    if where == "prefect-server":
        with get_client(sync_client=True) as client:
            client.update_variable(VariableUpdate(name=key, value="{half"))
    else:

        async def write_half() -> None:
            store = await open_storage(where)
            await store.write(_name(scope, key), b'{"scope": "ha')

        portal.call(write_half)


def read(where: str, scope: str, key: str) -> Record | None:
    """Read a record; it has to be there."""
    exists, record = portal.call(open_ledger(where).read, scope, key)
    assert exists
    return record
