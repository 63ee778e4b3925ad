"""A stored file that is too large to become an input is refused in every kind of storage, and no
more of it is read than that takes.
"""

from __future__ import annotations

from typing import Any

import pytest
from prefect.filesystems import RemoteFileSystem

from prefect_cometapi import InvalidInput, ainput_file, input_files
from prefect_cometapi.storage import open_storage
from tests.servers import PNG
from tests.storage_blocks.conftest import Place


async def test_it_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_storage(place.storage)
    await store.write("day/large.png", PNG + bytes(20_000_000))
    await store.write("day/small.png", PNG)
    monkeypatch.setattr(input_files, "FILE_MOST", 100_000)
    with pytest.raises(InvalidInput, match=r"large\.png has .* bytes, which is too large"):
        await ainput_file("day/large.png", storage=place.storage)
    small = await ainput_file("day/small.png", storage=place.storage)
    assert small.startswith("data:image/png;base64,")


async def test_where_sizes_are_told_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    block = RemoteFileSystem(basepath="memory://large-inputs")
    store = await open_storage(block)
    await store.write("large.png", PNG + bytes(200_000))
    monkeypatch.setattr(input_files, "FILE_MOST", 100_000)

    def read_path(*_: Any, **__: Any) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(RemoteFileSystem, "read_path", read_path)
    with pytest.raises(InvalidInput, match=f"has {len(PNG) + 200_000:,} bytes"):
        await ainput_file("large.png", storage=block)
