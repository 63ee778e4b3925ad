"""An HTTP/1.1 proxy in front of one local port, which lets somebody watch and hold each exchange.

It knows enough of HTTP to tell one request from the next, and no more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Message:
    """A request or a response, as it came over the wire."""

    first: str
    headers: dict[str, str]
    raw_head: bytes
    body: bytes
    whole: bool = True

    @property
    def raw(self) -> bytes:
        """All of it."""
        return self.raw_head + self.body

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split(" ")[0]

    @property
    def path(self) -> str:
        """Of a request, without the query."""
        return self.first.split(" ")[1].partition("?")[0]

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.first.split(" ")[1])

    @property
    def json(self) -> Any:
        """The body, or None where it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Watcher:
    """Lets everything pass."""

    async def request(self, request: Message) -> Message | None:
        """The request that is forwarded; None holds it back and hangs up."""
        return request

    async def response(self, request: Message, response: Message) -> bytes | None:
        """The bytes that are passed on; what is less than the whole response ends in a hang-up."""
        return response.raw

    async def passed(self, request: Message, response: Message) -> None:
        """They have been written."""


@asynccontextmanager
async def proxy(target: int, watcher: Watcher) -> AsyncIterator[int]:
    """Run a proxy on the running loop; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        tasks.add(task)
        try:
            while await _exchange(reader, writer, target, watcher):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # somebody went away, or all is over
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_LIMIT, backlog=1024)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int, watcher: Watcher
) -> bool:
    """One request and its response; False ends the connection."""
    asked = await _read(reader, request=True)
    if asked is None or not asked.whole:
        return False
    forwarded = await watcher.request(asked)
    if forwarded is None:
        return False
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target, limit=_LIMIT)
    try:
        inner_writer.write(forwarded.raw)
        if "upgrade" in asked.headers:
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
            return False
        answer = await _unless_gone(_read(inner_reader, request=False), reader)
        if answer is None:
            return False
        content = await watcher.response(asked, answer)
        if content:
            writer.write(content)
            await writer.drain()
        await watcher.passed(asked, answer)
        return answer.whole and content == answer.raw
    finally:
        inner_writer.close()


async def _unless_gone(
    reading: Any, client: asyncio.StreamReader, look: float = 0.2
) -> Message | None:
    """The response, unless the client goes away first: a server may never answer."""
    task = asyncio.ensure_future(reading)
    try:
        while not task.done() and not client.at_eof():
            await asyncio.wait([task], timeout=look)
        return task.result() if task.done() else None
    finally:
        task.cancel()


async def _read(reader: asyncio.StreamReader, *, request: bool) -> Message | None:
    """The next message; None where the other side has hung up instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body, whole = bytearray(), True
    try:
        if "chunked" in headers.get("transfer-encoding", ""):
            size = -1
            while size:
                line = await reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                body += line + await reader.readexactly(size + 2)
        elif length := int(headers.get("content-length", "0")):
            while len(body) < length and (data := await reader.read(length - len(body))):
                body += data
            whole = len(body) == length
        elif not request and "content-length" not in headers and "204" not in first:
            body += await reader.read()
            whole = False  # ended by hanging up, and so it is passed on
    except asyncio.IncompleteReadError as error:
        body, whole = body + error.partial, False
    return Message(first, headers, head, bytes(body), whole)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
