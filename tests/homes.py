"""The homes of the ledger's records, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableUpdate
from prefect.filesystems import LocalFileSystem

from prefect_cometapi import CometAPICredentials, Prediction, portal
from prefect_cometapi.ledger import Record
from prefect_cometapi.records import open_ledger
from prefect_cometapi.submission import Order, submit
from tests.servers import MODEL

LEDGER = "PREFECT_INTEGRATIONS_COMETAPI_LEDGER"
ON_THE_SERVER = "prefect-server"


def create(scope: str, **options: Any) -> Prediction:
    """Create a prediction, with the credentials of the environment."""
    input = options.pop("input", {"prompt": "A paper boat"})
    client = CometAPICredentials.from_env().get_client()
    return portal.call(submit, client, Order(MODEL, input, scope=scope, **options))


class Home:
    """One of the two homes of records, and what is in it."""

    def __init__(self, where: str, folder: Path) -> None:
        self.where, self.folder = where, folder

    @classmethod
    def in_a_folder(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        """Save a block, and set it as the ledger."""
        name = f"ledger-{uuid4().hex[:12]}"
        LocalFileSystem(basepath=str(folder)).save(name)
        where = f"block://local-file-system/{name}"
        monkeypatch.setenv(LEDGER, where)
        return cls(where, folder)

    @property
    def in_files(self) -> bool:
        return self.where != ON_THE_SERVER

    def records(self, scope: str) -> dict[str, Record | None]:
        return portal.call(open_ledger(self.where).records, scope)

    def raw(self, key: str) -> str:
        """What is stored under a key, as it is."""
        if self.in_files:
            return next(self.folder.rglob(f"{key}.json")).read_text("utf-8")
        with get_client(sync_client=True) as client:
            variable = client.read_variable_by_name(key)
        assert variable is not None
        return variable.model_dump_json()

    def spoil(self, key: str, content: object) -> None:
        if self.in_files:
            file = next(self.folder.rglob(f"{key}.json"))
            file.write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
            return
        with get_client(sync_client=True) as client:
            value = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
            client.update_variable(VariableUpdate(name=key, value=value))
