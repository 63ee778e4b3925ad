"""A storage block that hangs holds up nobody else's files, nor name resolution."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from prefect.filesystems import WritableFileSystem

from prefect_cometapi.stores import FileSystem, Folder

HELD = threading.Event()


class Hangs(WritableFileSystem):
    """Reads nothing until it is let go."""

    _block_type_name = "Hanging file system for tests"

    def read_path(self, path: str) -> Any:
        HELD.wait()
        return b"late"

    def write_path(self, path: str, content: bytes) -> Any:
        pass


async def test_a_block_that_hangs_holds_up_only_itself(tmp_path: Path) -> None:
    HELD.clear()
    hanging = [asyncio.create_task(FileSystem(Hangs()).read("a.json")) for _ in range(20)]
    try:
        await asyncio.sleep(0)
        (tmp_path / "b.json").write_bytes(b"there")
        async with asyncio.timeout(30):
            assert await Folder(tmp_path).read("b.json") == b"there"
    finally:
        HELD.set()
    assert await asyncio.gather(*hanging) == [b"late"] * 20
