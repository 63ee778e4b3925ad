"""Calls of storage blocks: sync or async, quick or not, and with something to say of each file."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from prefect.blocks.core import Block

#: How many calls of storage blocks are under way at once.
BLOCK_CALLS = 32

_asking: ContextVar[bool] = ContextVar("prefect_cometapi_asking_a_block", default=False)


class _Quiet(logging.Filter):
    """Leaves out what blocks say of each file that goes well, except where all is to be seen.

    A batch writes thousands, and each line would be a row on Prefect's server.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep all but the lines at INFO of a block that was asked here."""
        in_detail = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        return record.levelno != logging.INFO or in_detail or not _asking.get()


_quiet = _Quiet()


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """For calls of blocks; a forked process gets its own."""
    return ThreadPoolExecutor(BLOCK_CALLS, thread_name_prefix="prefect-cometapi-storage")


async def ask(block: object, method: Callable[..., Any], *args: object) -> Any:
    """Call a block's method in a worker thread, and await what it returns if that is awaitable.

    In threads of their own: a storage that hangs must not hold up files and name resolution.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs", f"prefect.{type(block).__name__}"):
        logging.getLogger(name).addFilter(_quiet)  # which adds it once
    context, loop = copy_context(), asyncio.get_running_loop()
    context.run(_asking.set, True)
    call = functools.partial(context.run, method, *args)
    result = await loop.run_in_executor(_threads(os.getpid()), call)
    if not inspect.isawaitable(result):
        return result
    return await loop.create_task(_awaited(result), context=context)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def in_its_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    """The sync form of a method which else would be async where the flow is.

    The async forms of Prefect's own file systems open and close files, and so upload them, on the
    event loop that awaits them.
    """
    if not hasattr(method, "aio"):  # which marks what has two forms
        return method

    @functools.wraps(method)
    def sync(*args: object) -> Any:
        return method(*args, _sync=True)

    return sync


def identifying(value: Any) -> Any:
    """What of a block's field tells where its files are."""
    if isinstance(value, Block):
        value = value.model_dump(mode="json")
    if not isinstance(value, dict):
        return str(value)  # secrets are masked
    return sorted(re.findall(r"https?://[^\s\"']+", json.dumps(value, default=str)))


def looks(error: Exception, name: str) -> tuple[str, str]:
    """What an error looks like, whatever it was that could not be read."""
    last = name.rpartition("/")[2]
    return type(error).__name__, str(error).replace(name, "…").replace(last, "…")
