"""Artifacts never fail the work, and never hold it up for long: not with a Prefect server that is
silent or refuses them, a storage that is slow or gone, or pictures that nobody can read.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    artifacts,
    generate,
    previews,
    run_predictions,
)
from tests.artifacts.shown import only, shown_by
from tests.servers import BOAT, MODEL
from tests.storages import FolderOfObjects

pytestmark = pytest.mark.usefixtures("prefect_server")


def boats(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Boat {n}"} for n in range(number)]


class Unreadable(FolderOfObjects):
    """Takes files, and does not give their pictures back."""

    _block_type_slug = "unreadable-for-tests"
    how: str = "fails"

    async def download_object_to_file_object(
        self, from_path: str, to_file_object: BinaryIO, **options: Any
    ) -> BinaryIO:
        if not from_path.endswith(".webp"):
            return await super().download_object_to_file_object(
                from_path, to_file_object, **options
            )
        if self.how == "hangs":
            await asyncio.sleep(3600)
        elif self.how == "fails":
            raise PermissionError("This key may only write.")
        else:
            to_file_object.write(b"RIFF\x00\x00\x00\x00WEBPVP8 and then nothing")
        return to_file_object


@pytest.mark.parametrize("how", ["fails", "hangs", "is cut short"])
def test_a_picture_that_can_not_be_read_is_a_plain_row(
    how: str, credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "READ_TIMEOUT", 0.5)
    storage = Unreadable(root=str(tmp_path), how=how)

    def work() -> None:
        generate(credentials, MODEL, BOAT, storage)
        run_predictions(credentials, MODEL, boats(6), storage, ledger=tmp_path)

    shown = shown_by(work)
    for kind, rows in (("prediction", 2), ("gallery", 7)):
        page = only(shown, kind).page
        assert (len(page.images), len(page.rows)) == (0, rows)


def test_a_page_waits_only_so_long_for_its_pictures(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "PAGE_TIMEOUT", 0.5)
    storage = Unreadable(root=str(tmp_path), how="hangs")
    shown = shown_by(
        lambda: run_predictions(credentials, MODEL, boats(6), storage, ledger=tmp_path)
    )
    assert only(shown, "gallery").page.images == []


def test_a_storage_that_is_gone(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = artifacts.send

    async def gone(*words: Any) -> Any:
        shutil.rmtree(tmp_path, ignore_errors=True)
        return await send(*words)

    monkeypatch.setattr(artifacts, "send", gone)
    shown = shown_by(
        lambda: run_predictions(credentials, MODEL, boats(2), tmp_path / "out", ledger=tmp_path)
    )
    assert only(shown, "gallery").description


@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_a_server_that_takes_no_artifacts(
    how: str, credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(question: Any) -> Any:
        if how == "refuses":
            raise ConnectionError("no")
        await asyncio.sleep(3600)

    monkeypatch.setattr(artifacts, "ask", ask)
    monkeypatch.setattr(artifacts, "SEND_TIMEOUT", 0.3)
    monkeypatch.setattr(previews, "PAGE_TIMEOUT", 0.3)
    made: list[Generation] = []

    def work() -> None:
        made.append(generate(credentials, MODEL, BOAT, tmp_path))
        assert run_predictions(credentials, MODEL, boats(3), tmp_path).summary == "3 saved"
        made.append(generate(credentials, "simulator/text", BOAT, tmp_path))

    began = time.monotonic()
    assert shown_by(work) == []
    assert [each.files[0].media_type for each in made] == ["image/webp", "text/plain"]
    assert time.monotonic() - began < 60


def test_pillow_is_not_imported_until_a_picture_is_shown(
    prefect_environment: dict[str, str],
) -> None:
    from tests.processes import ran

    script = """
import json, sys
import prefect_cometapi
prefect_cometapi.generate, prefect_cometapi.run_predictions
print(json.dumps("PIL" in sys.modules))
"""
    assert ran(script, env=prefect_environment) == [False]
