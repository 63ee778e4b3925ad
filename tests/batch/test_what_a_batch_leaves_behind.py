"""The manifest is the permanent record of a batch, its result is small, and its log is readable."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.filesystems import RemoteFileSystem
from prefect.settings import PREFECT_HOME, temporary_settings

from prefect_cometapi import (
    BatchResult,
    InvalidInput,
    ItemStatus,
    StorageError,
    batch,
    batch_artifacts,
    read_manifest,
    run_log,
    run_predictions,
)
from prefect_cometapi.stores import Folder
from tests.batches import TEXT, Batches, boats, statuses
from tests.storages import FolderOfObjects


def test_without_a_storage_the_outputs_come_back(batches: Batches, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}):
        result = batches.run(boats(3), storage=None)
        assert statuses(result) == [ItemStatus.SUCCEEDED] * 3
        assert all("boat" in str(item.output) or item.output for item in result.items)
        assert not batches.folder.exists()
        # The records are where Prefect keeps its own.
        assert list((tmp_path / "home" / "cometapi-batches").iterdir())
        assert list(read_manifest(tmp_path / "home", str(result.manifest))) == result.items
        assert batches.run(boats(3), storage=None).created == 0


def test_a_storage_has_to_be_named(batches: Batches) -> None:
    call: Any = run_predictions.fn
    with pytest.raises(TypeError, match="storage"):
        call(batches.credentials, TEXT, boats(1), scope=batches.scope)


@pytest.mark.parametrize("kind", ["folder", "files", "objects"])
def test_the_manifest_holds_all_items_in_their_order(kind: str, batches: Batches) -> None:
    storage: Any = batches.folder
    if kind == "files":
        storage = RemoteFileSystem(basepath=f"memory://{batches.folder.parent.name}")
    elif kind == "objects":
        storage = FolderOfObjects(root=str(batches.folder))
    batches.service.script("prediction", ["ok", "failed"])
    result = batches.fail([*boats(7), 5], storage=storage).result
    assert result.manifest
    assert list(read_manifest(storage, result.manifest)) == result.items
    assert [item.number for item in result.items] == list(range(8))
    assert {item.labels is not None for item in result.items} == {True}


def test_a_manifest_that_is_not_there(batches: Batches) -> None:
    with pytest.raises(StorageError, match="There is no file nowhere"):
        list(read_manifest(batches.folder, "nowhere.jsonl"))


def test_many_items_are_in_the_manifest_alone(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ITEMS_IN_RESULT", 10)
    assert len(batches.run(boats(10)).items) == 10
    result = batches.run(boats(11))
    assert result.items == []
    assert len(result.model_dump_json()) < 1000
    assert result.summary == "11 saved"
    items = list(read_manifest(batches.folder, str(result.manifest)))
    assert [item.number for item in items] == list(range(11))


def test_a_manifest_that_can_not_be_written_costs_nothing_but_itself(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Folder.put

    async def refusing(self: Folder, file: Path, name: str) -> str:
        if "/manifest-" in name:
            raise StorageError("The disk is full.")
        return await put(self, file, name)

    monkeypatch.setattr(Folder, "put", refusing)
    result = batches.run(boats(2))
    assert (result.summary, result.manifest) == ("2 saved", None)
    assert len(result.items) == 2


# --- log and artifact -------------------------------------------------------------------------


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def said(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    records = [each for each in log.records if "cometapi" in each.name]
    return [each.getMessage() for each in records if each.levelno >= level]


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=2.5)
def test_it_tells_how_far_it_is_at_a_sensible_pace(
    batches: Batches, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_log, "LINE_MIN", 1.0)
    batches.run(boats(12))
    progress = [line for line in said(log) if "of 12 items have ended" in line]
    assert progress
    assert "under way" in progress[0]
    summary = [line for line in said(log) if line.startswith("12 saved, of 12 items in ")]
    assert len(summary) == 1
    assert "12 created now, 0 paid for before" in summary[0]
    # Not a line for each item.
    assert len(said(log)) < 12


def test_a_quick_one_is_told_of_in_two_lines(
    batches: Batches, log: pytest.LogCaptureFixture
) -> None:
    batches.run(boats(20))
    assert len(said(log)) == 2


def test_of_many_warnings_the_first_are_told_and_the_rest_counted(
    batches: Batches, log: pytest.LogCaptureFixture
) -> None:
    batches.service.set_fault("query.502", 0.6)
    batches.run(boats(20))
    warned = said(log, logging.WARNING)
    assert 2 <= len(warned) <= run_log.TROUBLES + 1
    assert "more warnings like these" in warned[-1]


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=3.0)
def test_progress_is_shown_in_the_ui_until_all_is_done(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_artifacts, "PROGRESS_EVERY", 1.0)
    runs = []

    @flow
    def gallery() -> BatchResult:
        from prefect import runtime

        runs.append(str(runtime.flow_run.id))
        return run_predictions(
            batches.credentials, TEXT, boats(8), batches.folder, scope=batches.scope
        )

    assert gallery().summary == "8 saved"
    with get_client(sync_client=True) as client:
        found = client.request(
            "POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": runs}}}
        ).json()
    (artifact,) = [each for each in found if each["type"] == "progress"]
    assert float(json.loads(str(artifact["data"]))) == 100
    assert "8 of 8 items have ended" in artifact["description"]


def test_a_quick_batch_shows_no_progress(batches: Batches) -> None:
    runs = []

    @flow
    def gallery() -> None:
        from prefect import runtime

        runs.append(str(runtime.flow_run.id))
        run_predictions(batches.credentials, TEXT, boats(2), batches.folder)

    gallery()
    with get_client(sync_client=True) as client:
        filter = {"artifacts": {"flow_run_id": {"any_": runs}}}
        found = client.request("POST", "/artifacts/filter", json=filter).json()
    assert {each["type"] for each in found if each["key"]} == {"markdown"}


# --- a deployed run ---------------------------------------------------------------------------


@pytest.fixture
def _deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")


@pytest.mark.usefixtures("_deployed")
def test_a_deployed_run_with_records_on_a_local_disk_is_warned(
    batches: Batches, log: pytest.LogCaptureFixture
) -> None:
    batches.run(boats(5))
    (warning,) = said(log, logging.WARNING)
    assert "keeps its records in a folder of this machine" in warning
    assert "local_ledger=True" in warning


@pytest.mark.usefixtures("_deployed")
def test_many_items_are_refused_there(batches: Batches) -> None:
    with pytest.raises(InvalidInput, match="local_ledger=True") as refused:
        batches.run(boats(100))
    assert "Nothing was sent." in str(refused.value)
    assert batches.service.counts.creates == 0


@pytest.mark.usefixtures("_deployed")
@pytest.mark.cometapi_simulator(run_time=0.01)
def test_of_a_size_that_nobody_knows_no_more_are_made_there(batches: Batches) -> None:
    error = batches.fail(iter(boats(120)))
    assert batches.service.counts.creates == 100
    assert error.result.count(ItemStatus.SAVED) == 100
    assert "local_ledger=True" in error.result.stopped
    assert "max_predictions" not in error.result.stopped


@pytest.mark.usefixtures("_deployed")
@pytest.mark.cometapi_simulator(run_time=0.01)
def test_unless_the_caller_says_that_the_disk_stays(
    batches: Batches, log: pytest.LogCaptureFixture
) -> None:
    assert batches.run(boats(100), local_ledger=True).summary == "100 saved"
    assert not said(log, logging.WARNING)


@pytest.mark.usefixtures("_deployed")
@pytest.mark.cometapi_simulator(run_time=0.01)
def test_or_keeps_them_on_a_block(batches: Batches) -> None:
    ledger = RemoteFileSystem(basepath=f"memory://{batches.folder.parent.name}-ledger")
    assert batches.run(boats(100), ledger=ledger).summary == "100 saved"
