"""Blocks do their work in threads of their own, in async flows as well, and say little of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from prefect import flow
from prefect.filesystems import RemoteFileSystem
from prefect.logging import get_run_logger

from prefect_cometapi import portal
from prefect_cometapi.log_hygiene import BACKGROUND_THREAD
from prefect_cometapi.storage import awrite_text, open_storage
from tests.buckets import S3

THREADS: list[str] = []


class Watched(MemoryFileSystem):  # type: ignore[misc]
    """Remembers the threads that open its files."""

    cachable = False

    def _open(self, *args: Any, **options: Any) -> Any:
        THREADS.append(threading.current_thread().name)
        return super()._open(*args, **options)


async def _write_and_read(storage: Any) -> bytes | None:
    await awrite_text(storage, "a.txt", "hi")
    return await portal.acall(_read, storage)


async def _read(storage: Any) -> bytes | None:
    return await (await open_storage(storage)).read("a.txt")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("kind", ["async flow", "sync flow", "no flow"])
def test_files_are_opened_beside_the_loop_that_all_share(kind: str) -> None:
    block = RemoteFileSystem(basepath=f"memory://{uuid4().hex}")
    block._filesystem = Watched()
    THREADS.clear()

    @flow
    async def in_async() -> bytes | None:
        return await _write_and_read(block)

    @flow
    def in_sync() -> bytes | None:
        return asyncio.run(_write_and_read(block))

    if kind == "async flow":
        content = asyncio.run(in_async())
    else:
        content = in_sync() if kind == "sync flow" else asyncio.run(_write_and_read(block))
    assert content == b"hi"
    assert len(THREADS) == 2
    assert BACKGROUND_THREAD not in THREADS


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_file_that_was_taken_is_no_line_in_the_log(
    asynchronous: bool, s3: S3, caplog: pytest.LogCaptureFixture
) -> None:
    block = s3.bucket("cometapi")  # of which it would say that our names begin with it, too

    @flow
    async def in_async() -> None:
        await awrite_text(block, "cometapi-ledger/a.txt", "hi")
        get_run_logger().info("what the flow says")

    @flow
    def in_sync() -> None:
        asyncio.run(awrite_text(block, "cometapi-ledger/a.txt", "hi"))
        get_run_logger().info("what the flow says")

    def run() -> None:
        if asynchronous:
            asyncio.run(in_async())
        else:
            in_sync()

    with caplog.at_level(logging.INFO, "prefect"):
        run()
    assert "what the flow says" in caplog.text
    assert "a.txt" not in caplog.text
    with caplog.at_level(logging.DEBUG, "prefect"):
        run()
    assert "a.txt" in caplog.text  # who looks for details finds them
