"""Small servers that each do one thing that the simulator can not: raw, threaded, on loopback."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pytest
from pydantic import SecretStr

from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.simulator import Simulator

R = TypeVar("R")

KEY = "sk-test-0123456789-must-stay-home"
MODEL = "black-forest-labs/flux-schnell"
BOAT = {"prompt": "A paper boat"}
ID = "abcdefghijklmnopqrstuvwxyz"
#: The smallest thing that is recognised as a PNG.
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
SETTING = "PREFECT_INTEGRATIONS_COMETAPI_"


def configure(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """Give settings of the package other values, until the test is over."""
    for name, value in settings.items():
        monkeypatch.setenv(SETTING + name.upper(), str(value))


def client_for(url: str, key: str = KEY) -> CometAPIClient:
    """A client as users get it, with the settings that the environment has now."""
    return CometAPICredentials(api_key=SecretStr(key), base_url=url).get_client()


def client_of(service: Simulator) -> CometAPIClient:
    return client_for(service.url, service.api_key)


def made_of(output: object, api_root: str = "http://127.0.0.1:1", **more: Any) -> Prediction:
    """A prediction that has succeeded."""
    known: dict[str, Any] = {"id": ID, "model": MODEL, "status": PredictionStatus.SUCCEEDED}
    return Prediction(**known | {"api_root": api_root, "output": output} | more)


@dataclass
class Request:
    """One request, read whole."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    raw: bytes
    connection: int


@dataclass
class Answer:
    """One answer, and how it ends."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    #: "keep": whole, the connection stays; "close": whole, then closed; "drop": nothing is sent;
    #: "hang": the head and the body are sent, and then nothing until the client goes;
    #: "reset": the head and the body are sent, and the connection closes without the rest.
    end: Literal["keep", "close", "drop", "hang", "reset"] = "keep"
    #: What Content-Length says, where that is not the truth.
    length: int | None = None
    #: Sent in place of everything else.
    raw: bytes | None = None


def reply(value: object, status: int = 200, **headers: str) -> Answer:
    """A JSON answer; `_` in a header's name stands for `-`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"content-type": "application/json", **named})


def prediction(**fields: object) -> dict[str, object]:
    """A prediction as the service words it."""
    return {"id": ID, "model": MODEL, "status": "succeeded", "output": None, **fields}


def picture(_: Request) -> Answer:
    return Answer(200, PNG, {"content-type": "image/png"})


Handler = Callable[[Request], "Answer | Awaitable[Answer]"]


class Server:
    """A running server, and what it has seen. Read it from any thread."""

    def __init__(self, scheme: str, port: int) -> None:
        self.scheme = scheme
        self.port = port
        self.requests: list[Request] = []
        #: Every byte that came in, also of requests that nobody understood.
        self.received = bytearray()
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def of(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]


@contextmanager
def serve(
    handler: Handler, *, tls: ssl.SSLContext | None = None, idle: float | None = None
) -> Iterator[Server]:
    """An HTTP/1.1 server that answers with what `handler` returns.

    Args:
        handler: Called with each request, on the server's own loop.
        tls: Makes it speak https.
        idle: Seconds after which it closes a connection on which nothing comes.
    """
    server = Server("https" if tls else "http", 0)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        number = server.connections
        while (request := await _read(reader, server, number, idle)) is not None:
            server.requests.append(request)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            try:
                answer = handler(request)
                if not isinstance(answer, Answer):
                    answer = await answer
            finally:
                server.under_way -= 1
            if answer.end != "drop":
                writer.write(_written(answer))
                await writer.drain()
            if answer.end == "hang":
                await reader.read()
            if answer.end != "keep":
                return

    with _listening(talk, tls) as port:
        server.port = port
        yield server


@dataclass
class Proxy:
    """A running CONNECT proxy, and what it has seen."""

    port: int = 0
    #: The first line of each request.
    asked: list[str] = field(default_factory=list)
    #: Every byte that clients sent, those inside tunnels included.
    received: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def connect_proxy(target_port: int, *, refuse: bytes | None = None) -> Iterator[Proxy]:
    """A proxy that resolves every host name to one port of this machine.

    Args:
        target_port: Where every tunnel leads.
        refuse: What it answers instead of opening a tunnel; empty for closing without a word.
    """
    proxy = Proxy()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if log:
                    proxy.received += data
                writer.write(data)
                await writer.drain()
            writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        proxy.received += head
        proxy.asked.append(head.split(b"\r\n")[0].decode())
        if refuse is not None or not head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 501 No\r\n\r\n" if refuse is None else refuse)
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(
                pump(reader, inner_writer, True), pump(inner_reader, writer, False)
            )
        finally:
            inner_writer.close()

    with _listening(talk, None) as port:
        proxy.port = port
        yield proxy


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _read(
    reader: asyncio.StreamReader, server: Server, connection: int, idle: float | None
) -> Request | None:
    try:
        async with asyncio.timeout(idle):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        server.received += error.partial
        return None
    except (OSError, TimeoutError):
        return None
    server.received += head
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    server.received += body
    return Request(method, target, headers, body, head + body, connection)


def _written(answer: Answer) -> bytes:
    if answer.raw is not None:
        return answer.raw
    length = len(answer.body) if answer.length is None else answer.length
    headers = {"content-length": str(length), **answer.headers}
    if answer.end in ("close", "reset"):
        headers["connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} Whatever", *(f"{n}: {v}" for n, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + answer.body


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextmanager
def _listening(talk: Talk, tls: ssl.SSLContext | None) -> Iterator[int]:
    """Run a server in a thread with a loop of its own; yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client went away, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)

    async def stop() -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if sys.version_info >= (3, 13):  # also those that have not finished their handshake
            server.abort_clients()
            await asyncio.sleep(0)

    def on_loop(work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = on_loop(start())
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        on_loop(stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
