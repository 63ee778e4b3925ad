"""The homes of the ledger's records, what is in them, and how it comes to be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableUpdate
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    LedgerReport,
    Prediction,
    SubmissionInDoubt,
    lifecycle,
    portal,
)
from prefect_cometapi.collection import collect
from prefect_cometapi.ledger import Record, record_key
from prefect_cometapi.orders import Order
from prefect_cometapi.records import RecordStore, ServerRecords, _name, open_ledger
from prefect_cometapi.simulator import Simulator
from prefect_cometapi.storage import open_storage
from prefect_cometapi.submission import submit
from tests.servers import BOAT, MODEL, SETTING
from tests.storages import FolderOfObjects

LEDGER = SETTING + "LEDGER"
ON_THE_SERVER = "prefect-server"
HOMES = ["server", "folder", "remote", "objects"]


def create(scope: str, **options: Any) -> Prediction:
    """Create a prediction and go away, as a run that is killed does."""
    input = options.pop("input", BOAT)
    client = CometAPICredentials.from_env().get_client()
    return portal.call(submit, client, Order(MODEL, input, scope=scope, **options))


def make(scope: str, storage: Path) -> Generation:
    """Create a prediction, or find it; wait for it, and save what it made."""
    client = CometAPICredentials.from_env().get_client()
    return portal.call(lifecycle.generate, client, Order(MODEL, BOAT, scope=scope), storage)


def in_doubt(service: Simulator, scope: str, sample: int = 0) -> str:
    """Have a create's answer lost; returns the key of the record."""
    service.script("create", ["lost"])
    with pytest.raises(SubmissionInDoubt) as raised:
        create(scope, sample=sample)
    assert raised.value.record_key
    return raised.value.record_key


def collected(storage: Path, *args: Any, **options: Any) -> LedgerReport:
    client = CometAPICredentials.from_env().get_client()
    return portal.call(collect, client, storage, *args, **options)


def did(report: LedgerReport) -> list[str]:
    return [result.did for result in report.results]


def key_of(number: int) -> str:
    """A key that no record has, unless it is written."""
    return record_key("any", "any", MODEL, {}, number)


class Home:
    """A home of records, and what is in it."""

    def __init__(self, where: str, folder: Path) -> None:
        self.where, self.folder = where, folder

    @classmethod
    def of(cls, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        """One of `HOMES`, set as the ledger; all but the server are saved blocks."""
        if kind == "server":
            return cls(ON_THE_SERVER, folder)
        folder.mkdir(exist_ok=True)
        name = f"ledger-{uuid4().hex[:12]}"
        block: Any = FolderOfObjects(root=str(folder))
        if kind == "folder":
            block = LocalFileSystem(basepath=str(folder))
        elif kind == "remote":
            block = RemoteFileSystem(basepath=f"memory://{name}")
        block.save(name)
        where = f"block://{block.get_block_type_slug()}/{name}"
        monkeypatch.setenv(LEDGER, where)
        return cls(where, folder)

    @classmethod
    def in_a_folder(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        return cls.of("folder", folder, monkeypatch)

    @property
    def in_files(self) -> bool:
        return self.where != ON_THE_SERVER

    def records(self, scope: str) -> dict[str, Record | None]:
        return portal.call(open_ledger(self.where).records, scope)

    def read(self, scope: str, key: str) -> Record:
        """A record that has to be there, and whole."""
        _, record = portal.call(open_ledger(self.where).read, scope, key)
        assert record is not None
        return record

    def write(self, key: str, record: Record) -> None:
        """Write a record, as another process would have."""
        ledger: RecordStore = open_ledger(self.where)

        # An intent is a claim, which is on the server in each case.
        intent = not (record.prediction_id or record.outcome)
        portal.call((ServerRecords() if intent else ledger).store, key, record)

    def raw(self, key: str) -> str:
        """What is stored under a key, as it is."""
        if self.in_files:
            return next(self.folder.rglob(f"{key}.json")).read_text("utf-8")
        with get_client(sync_client=True) as client:
            variable = client.read_variable_by_name(key)
        assert variable is not None
        return variable.model_dump_json()

    def spoil(self, key: str, content: object) -> None:
        """Store something else in the place of a record."""
        if self.in_files:
            file = next(self.folder.rglob(f"{key}.json"))
            file.write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
            return
        with get_client(sync_client=True) as client:
            value = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
            client.update_variable(VariableUpdate(name=key, value=value))

    def tear(self, scope: str, key: str) -> None:
        """Leave half of a record."""
        if not self.in_files:
            return self.spoil(key, "{half")

        async def write_half() -> None:  # through the block: not all of them are folders
            store = await open_storage(self.where)
            await store.write(_name(scope, key), b'{"scope": "ha')

        return portal.call(write_half)
