"""Whatever is given as storage, a file is in it whole or not at all, and nowhere outside of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from prefect.blocks.abstract import ObjectStorageBlock
from prefect.filesystems import LocalFileSystem, RemoteFileSystem, WritableFileSystem

from prefect_cometapi import portal
from prefect_cometapi.errors import InvalidInput, OutputRefused, StorageError
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.storage import Storage, check_prefix, open_storage
from prefect_cometapi.stores import PROBE_NAME, FileSystem, Folder, ObjectStore
from tests.servers import ID, MODEL, PNG, Answer, Request, Server, client_for, serve

SETTING = "PREFECT_INTEGRATIONS_COMETAPI_"


# --- blocks of users' own ---------------------------------------------------------------------


class _Objects(ObjectStorageBlock):
    """An object store in memory; only what uploads is of interest."""

    _objects: dict[str, bytes] = {}  # noqa: RUF012 - a pydantic private attribute
    _threads: list[int] = []  # noqa: RUF012

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

    def _store(self, path: str | Path, name: str) -> str:
        self._threads.append(threading.get_ident())
        self._objects[name] = Path(path).read_bytes()
        return f"bucket/{name}"


class AsyncObjects(_Objects):
    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        await asyncio.sleep(0)
        return self._store(from_path, to_path)


class SyncObjects(_Objects):
    def upload_from_path(  # type: ignore[override]
        self, from_path: str | Path, to_path: str, **_: Any
    ) -> str:
        return self._store(from_path, to_path)


class _Files(WritableFileSystem):
    _files: dict[str, bytes] = {}  # noqa: RUF012

    async def read_path(self, path: str) -> bytes:
        return self._files[path]


class AsyncFiles(_Files):
    async def write_path(self, path: str, content: bytes) -> None:
        await asyncio.sleep(0)
        self._files[path] = content


class SyncFiles(_Files):
    def write_path(self, path: str, content: bytes) -> None:  # type: ignore[override]
        self._files[path] = content


class ObjectsAndFiles(SyncObjects, AsyncFiles):
    """What prefect-aws' S3Bucket is."""


class RefusingObjects(_Objects):
    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        raise PermissionError("AccessDenied: not your bucket")


class RefusingFiles(_Files):
    async def write_path(self, path: str, content: bytes) -> None:
        raise TimeoutError("no answer")


# --- help -------------------------------------------------------------------------------------


async def save(
    server: Server, storage: Storage, *, prefix: str = "", output: object = None
) -> list[SavedFile]:
    made = Prediction(
        id=ID,
        model=MODEL,
        status=PredictionStatus.SUCCEEDED,
        api_root=server.url,
        output=output or f"{server.url}/out.png",
    )

    async def run() -> list[SavedFile]:
        store = await open_storage(storage)
        await store.check()
        return await save_outputs(client_for(server.url), made, store, prefix)

    return await portal.acall(run)


def picture(_: Request) -> Answer:
    return Answer(200, PNG, {"content-type": "image/png"})


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- the kinds of storage ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, lambda path: LocalFileSystem(basepath=str(path))])
async def test_a_folder(kind: Callable[[Path], Storage], tmp_path: Path) -> None:
    target = tmp_path / "not" / "there yet"
    with serve(picture) as server:
        (saved,) = await save(server, kind(target), prefix="2026-11-22/gallery")
    assert saved.name == f"2026-11-22/gallery/{ID}-0.png"
    assert saved.location == str(target / saved.name)
    assert everything_in(tmp_path) == {f"not/there yet/{saved.name}": PNG}  # no probe, no part


async def test_a_relative_folder_is_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serve(picture) as server:
        (saved,) = await save(server, "pictures")
    assert saved.location == str(tmp_path / "pictures" / f"{ID}-0.png")
    assert Path(saved.location).read_bytes() == PNG


async def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(picture) as server:
        (saved,) = await save(server, "~/pictures")
    assert saved.location == str(tmp_path / "pictures" / f"{ID}-0.png")


async def test_a_remote_file_system() -> None:
    block = RemoteFileSystem(basepath="memory://bucket/below")
    with serve(picture) as server:
        (saved,) = await save(server, block, prefix="day")
    assert saved.location == f"memory://bucket/below/day/{ID}-0.png"
    assert await block.aread_path(f"day/{ID}-0.png") == PNG


@pytest.mark.parametrize("kind", [AsyncObjects, SyncObjects, ObjectsAndFiles])
async def test_an_object_storage_block(kind: type[_Objects]) -> None:
    block = kind()
    with serve(picture) as server:
        (saved,) = await save(server, block, prefix="day")
    assert saved.location == f"bucket/day/{ID}-0.png"
    assert block._objects.pop(PROBE_NAME)
    assert block._objects == {f"day/{ID}-0.png": PNG}
    if kind is SyncObjects:  # what blocks must not block the loop that everybody shares
        background, _ = await portal.acall(_thread)
        assert background not in block._threads


async def _thread() -> tuple[int, None]:
    return threading.get_ident(), None


@pytest.mark.parametrize("kind", [AsyncFiles, SyncFiles])
async def test_a_writable_file_system(kind: type[_Files]) -> None:
    block = kind()
    with serve(picture) as server:
        (saved,) = await save(server, block, prefix="day")
    assert block._files[f"day/{ID}-0.png"] == PNG
    assert saved.location.endswith(f"day/{ID}-0.png")


async def test_the_kinds_are_told_apart(tmp_path: Path) -> None:
    assert isinstance(await open_storage(str(tmp_path)), Folder)
    assert isinstance(await open_storage(LocalFileSystem(basepath=str(tmp_path))), Folder)
    assert isinstance(await open_storage(AsyncFiles()), FileSystem)
    assert isinstance(await open_storage(AsyncObjects()), ObjectStore)
    assert isinstance(await open_storage(ObjectsAndFiles()), ObjectStore)  # the one that streams


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_saved_block(tmp_path: Path) -> None:
    saved_block: Any = LocalFileSystem(basepath=str(tmp_path))
    saved_block.save("my-pictures", overwrite=True)
    with serve(picture) as server:
        (saved,) = asyncio.run(save(server, "block://local-file-system/my-pictures"))
        with pytest.raises(StorageError, match="could not be loaded"):
            asyncio.run(save(server, "block://local-file-system/nobody-saved-it"))
    assert saved.location == str(tmp_path / f"{ID}-0.png")
    assert Path(saved.location).read_bytes() == PNG


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "  ",
        "\0",
        None,
        7,
        b"pictures",
        "s3://bucket/pictures",
        "file:///tmp/pictures",
        "block://",
        "block://s3-bucket",
        "block://a/b/c",
        "block://../x",
    ],
)
async def test_what_is_no_storage_is_refused_before_anything_is_sent(nonsense: Any) -> None:
    with pytest.raises(InvalidInput, match="Nothing was sent"):
        await open_storage(nonsense)


# --- what can not be written to ---------------------------------------------------------------


async def test_a_path_below_a_file_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here first")
    store = await open_storage(tmp_path / "file" / "pictures")
    with pytest.raises(StorageError, match="can not be written to"):
        await store.check()
    assert everything_in(tmp_path) == {"file": b"here first"}


@pytest.mark.parametrize("block", [RefusingObjects, RefusingFiles])
async def test_a_block_that_refuses_says_why(block: type[Any]) -> None:
    store = await open_storage(block())
    with pytest.raises(StorageError, match=r"AccessDenied|no answer") as caught:
        await portal.acall(store.check)
    assert block.__name__ in str(caught.value)


async def test_a_folder_in_the_place_of_the_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / f"{ID}-0.png").mkdir()
    with serve(picture) as server, pytest.raises(StorageError, match="0 of 1 outputs are saved"):
        await save(server, tmp_path)
    assert everything_in(tmp_path) == {}


@pytest.mark.parametrize("storage", ["\udcff\ud800", "~nobody-has-this-name/x", "x" * 5000])
async def test_a_path_that_no_disk_has_is_an_error_of_ours(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InvalidInput, StorageError)):
        await (await open_storage(storage)).check()


# --- whole or not at all ----------------------------------------------------------------------


#: Enough of a file that some of it is on the disk, and then nothing more.
HALF = Answer(200, PNG * 1000, {"content-type": "image/png"}, end="hang", length=9_000_000)


async def test_a_download_that_is_canceled_leaves_nothing(tmp_path: Path) -> None:
    with serve(lambda _: HALF) as server:
        task = asyncio.create_task(save(server, tmp_path))
        await asyncio.to_thread(until, lambda: any(everything_in(tmp_path).values()))
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
import asyncio, sys
from tests.servers import Server
from tests.test_storage import save
asyncio.run(save(Server("http", int(sys.argv[1])), sys.argv[2]))
"""
    with serve(lambda _: HALF) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(server.port), str(tmp_path)],
            cwd=Path(__file__).parent.parent,
        )
        try:
            until(lambda: any(everything_in(tmp_path).values()))
        finally:
            child.kill()
            child.wait()
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
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "0.5")
    half = Answer(200, PNG, {"content-type": "image/png"}, end="reset", length=2 * len(PNG))
    block = SyncObjects()
    with serve(lambda _: half) as server, pytest.raises(Exception, match="0 of 1"):
        await save(server, block)
    assert set(block._objects) == {PROBE_NAME}


# --- limits -----------------------------------------------------------------------------------


async def test_a_file_too_large_to_be_held_in_memory_is_refused_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "MAX_WHOLE_BYTES", str(len(PNG) - 1))
    block = SyncFiles()
    with serve(picture) as server:
        with pytest.raises(OutputRefused) as caught:
            await save(server, block)
        await save(server, tmp_path)  # a folder takes it
        await save(server, AsyncObjects())  # and so does an object store
    message = str(caught.value)
    assert f"{SETTING}MAX_WHOLE_BYTES" in message
    assert "whole files" in message
    assert "SyncFiles" in message
    assert f"{ID}-0.png" not in block._files
    assert set(everything_in(tmp_path)) == {f"{ID}-0.png"}


# --- prefixes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "clean"),
    [("", ""), ("a", "a"), ("a/b", "a/b"), ("a/", "a"), ("2026-11-22/rote Äpfel", None)],
)
def test_a_plain_prefix_is_kept(prefix: str, clean: str | None) -> None:
    assert check_prefix(prefix) == (prefix if clean is None else clean)


TRICKS = [
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "/",
    "//",
    "/etc",
    "a//b",
    "a\\..\\b",
    "C:",
    "C:/x",
    "a\0b",
    "a\nb",
    "\x7f",
    "x" * 300,
    None,
    5,
    b"a",
]


@pytest.mark.parametrize("prefix", TRICKS)
async def test_a_prefix_never_leads_out_of_the_storage(prefix: Any, tmp_path: Path) -> None:
    with serve(picture) as server:
        with pytest.raises(InvalidInput, match="Nothing was sent"):
            await save(server, tmp_path / "in", prefix=prefix)
        assert server.requests == []
    assert everything_in(tmp_path) == {}


@pytest.mark.parametrize("prefix", ["é" * 200, "a\ud800"])
def test_a_prefix_that_no_disk_can_take_is_refused_before_anything_is_paid(prefix: str) -> None:
    # 400 bytes: file systems take 255. Half a surrogate pair: they take none at all.
    with pytest.raises(InvalidInput):
        check_prefix(prefix)


async def test_an_id_that_is_a_path_is_not_saved(tmp_path: Path) -> None:
    made = Prediction(
        id="../../x",
        model=MODEL,
        status=PredictionStatus.SUCCEEDED,
        api_root="http://127.0.0.1:1",
        output="text",
    )
    with pytest.raises(InvalidInput):
        await save_outputs(client_for("http://127.0.0.1:1"), made, Folder(tmp_path / "in"))
    assert everything_in(tmp_path) == {}


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")
