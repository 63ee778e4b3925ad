"""A file is there whole or not at all, also where somebody is killed or canceled."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from prefect_cometapi.errors import StorageError
from prefect_cometapi.stores import PROBE_NAME
from tests.processes import ROOT, started, wait_until
from tests.servers import ID, PNG, Answer, Request, configure, picture, serve
from tests.storages import AsyncObjects, RefusingObjects, SyncObjects, everything_in, save

#: Enough of a file that some of it is on the disk, and then nothing more.
HALF = Answer(200, PNG * 1000, {"content-type": "image/png"}, end="hang", length=9_000_000)


async def test_a_download_that_is_canceled_leaves_nothing(tmp_path: Path) -> None:
    with serve(lambda _: HALF) as server:
        task = asyncio.create_task(save(server, tmp_path))
        await asyncio.to_thread(wait_until, lambda: any(everything_in(tmp_path).values()), "a part")
        (part,) = everything_in(tmp_path)
        assert part.startswith(".")
        assert part.endswith(".part")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert everything_in(tmp_path) == {}


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_file_under_a_final_name(tmp_path: Path) -> None:
    script = """
import asyncio, json, sys
from tests.servers import Server
from tests.storages import save
port, folder = map(json.loads, sys.argv[1:])
asyncio.run(save(Server("http", port), folder))
"""
    with (
        serve(lambda _: HALF) as server,
        started(script, server.port, str(tmp_path), env=os.environ, cwd=ROOT),
    ):
        wait_until(lambda: any(everything_in(tmp_path).values()), "some of the file")
    assert [name for name in everything_in(tmp_path) if not name.startswith(".")] == []
    with serve(picture) as server:  # and what it leaves is in nobody's way
        asyncio.run(save(server, tmp_path))
    assert everything_in(tmp_path)[f"{ID}-0.png"] == PNG


async def test_a_file_that_is_fetched_again_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / f"{ID}-0.png"
    target.write_bytes(b"\x89PNG old")
    seen: set[bytes] = set()

    async def handler(_: Request) -> Answer:
        seen.add(target.read_bytes())
        return Answer(200, PNG * 2000, {"content-type": "image/png"})

    with serve(handler) as server:
        task = asyncio.create_task(save(server, tmp_path))
        while not task.done():
            seen.add(target.read_bytes())
            await asyncio.sleep(0)
        await task
    assert seen <= {b"\x89PNG old", PNG * 2000}
    assert target.read_bytes() == PNG * 2000


async def test_equal_names_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with serve(picture) as server:
        await asyncio.gather(*(save(server, tmp_path) for _ in range(8)))
    assert everything_in(tmp_path) == {f"{ID}-0.png": PNG}


@pytest.mark.parametrize("storage", ["folder", "text"])
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
async def test_files_have_the_permissions_that_the_user_asks_for(
    mask: int, storage: str, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        with serve(picture) as server:
            output = None if storage == "folder" else "only words"
            (saved,) = await save(server, tmp_path / "new", output=output)
    finally:
        os.umask(before)
    assert Path(saved.location).stat().st_mode & 0o777 == 0o666 & ~mask


async def test_nothing_stays_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serve(picture) as server:
        await save(server, AsyncObjects())
        with pytest.raises(StorageError):
            await save(server, RefusingObjects())
    assert list(tmp_path.iterdir()) == []


async def test_an_object_store_never_gets_half_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, download_timeout=0.5)
    half = Answer(200, PNG, {"content-type": "image/png"}, end="reset", length=2 * len(PNG))
    block = SyncObjects()
    with serve(lambda _: half) as server, pytest.raises(Exception, match="0 of 1"):
        await save(server, block)
    assert set(block._objects) == {PROBE_NAME}
