"""Prompts live where they are told to, else with the ledger, else where Prefect keeps results; in a
deployed run, many of them are not left on a disk that goes with the machine.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from prefect import flow
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from prefect_cometapi import InvalidInput, generate_prompts
from prefect_cometapi.batch_rules import LOCAL_MOST
from tests.homes import Home
from tests.prompts.conftest import BRIEF, Writing, prompts_of, said
from tests.storages import FolderOfObjects

#: Too many for a local disk, and as many as the simulator thinks of.
MANY = LOCAL_MOST + 20


def kept_in(folder: Path) -> int:
    return len(list(folder.glob("prompts/*/*.json")))


async def test_by_default_they_are_where_prefect_keeps_results(
    writing: Writing, tmp_path: Path
) -> None:
    @flow
    def gallery() -> list[str]:
        return prompts_of(generate_prompts(writing.credentials, BRIEF, 2))

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "by default"}):
        first, second = [await asyncio.to_thread(gallery) for _ in range(2)]
        await asyncio.to_thread(writing.write, storage=None)
    assert first == second, "the simulator answers equal questions equally"
    assert writing.asked == 3, "separate runs ask for themselves"
    assert kept_in(tmp_path / "by default") == 3

    own = LocalFileSystem(basepath=str(tmp_path / "of the flow"))
    await own.save(f"own-{writing.service.url[-5:]}", overwrite=True)
    await asyncio.to_thread(gallery.with_options(result_storage=own, persist_result=True))
    assert kept_in(tmp_path / "of the flow") == 1


def test_the_block_of_the_ledger_comes_before_that(
    writing: Writing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Home.in_a_folder(tmp_path / "ledger", monkeypatch)

    @flow
    def gallery() -> None:
        generate_prompts(writing.credentials, BRIEF, 2)

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "by default"}):
        gallery()
    assert kept_in(tmp_path / "ledger") == 1
    assert kept_in(tmp_path / "by default") == 0
    writing.write()
    assert (kept_in(tmp_path / "ledger"), kept_in(writing.folder)) == (1, 1), "storage= is first"


# --- deployed runs ----------------------------------------------------------------------------


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")


@pytest.mark.usefixtures("deployed")
def test_a_few_in_a_folder_are_warned_of(writing: Writing, log: pytest.LogCaptureFixture) -> None:
    writing.write()
    writing.write()
    [warning] = said(log, logging.WARNING)
    assert "keeps its prompts in a folder of this machine" in warning
    assert "refused from 100 prompts on" in warning


@pytest.mark.usefixtures("deployed")
def test_many_in_a_folder_are_refused_before_anything_is_sent(writing: Writing) -> None:
    with pytest.raises(InvalidInput, match=r"folder of this machine(.|\n)*Nothing was sent\."):
        writing.write(n=LOCAL_MOST)
    assert writing.asked == 0
    assert writing.files() == []


@pytest.mark.usefixtures("deployed")
def test_a_folder_that_stays_and_a_block_are_fine(
    writing: Writing, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first = writing.write(n=MANY, local_storage=True)
    assert writing.write(n=MANY) == first, "what is there is used"
    writing.write(n=MANY, storage=FolderOfObjects(root=str(tmp_path / "objects")))
    assert "folder of this machine" not in "".join(said(log))


def test_on_a_machine_of_ones_own_nothing_is_said(
    writing: Writing, log: pytest.LogCaptureFixture
) -> None:
    writing.write(n=MANY)
    assert "folder of this machine" not in "".join(said(log))
