"""Whatever is given as storage, files are saved in it, and nowhere outside of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from prefect_cometapi import portal
from prefect_cometapi.errors import InvalidInput, OutputRefused, StorageError
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.storage import Storage, check_prefix, open_storage
from prefect_cometapi.stores import PROBE_NAME, FileSystem, Folder, ObjectStore
from tests.servers import ID, PNG, SETTING, client_for, configure, made_of, picture, serve
from tests.storages import (
    AsyncFiles,
    AsyncObjects,
    Files,
    Objects,
    ObjectsAndFiles,
    RefusingFiles,
    RefusingObjects,
    SyncFiles,
    SyncObjects,
    everything_in,
    save,
)


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


async def test_a_location_holds_no_password() -> None:
    block = RemoteFileSystem(basepath="memory://someone:sec/ret@bucket/below")
    with serve(picture) as server:
        (saved,) = await save(server, block)
    assert saved.location == f"memory://bucket/below/{ID}-0.png"


@pytest.mark.parametrize("kind", [AsyncObjects, SyncObjects, ObjectsAndFiles])
async def test_an_object_storage_block(kind: type[Objects]) -> None:
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
async def test_a_writable_file_system(kind: type[Files]) -> None:
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


# --- limits -----------------------------------------------------------------------------------


async def test_a_file_too_large_to_be_held_in_memory_is_refused_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, max_whole_bytes=len(PNG) - 1)
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
    made = made_of("text", id="../../x")
    with pytest.raises(InvalidInput):
        await save_outputs(client_for("http://127.0.0.1:1"), made, Folder(tmp_path / "in"))
    assert everything_in(tmp_path) == {}
