"""A server that never answers, or answers a byte at a time, holds nobody up for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefect_cometapi import client as client_module
from prefect_cometapi import connections as connections_module
from prefect_cometapi import portal
from prefect_cometapi.errors import (
    CometAPIError,
    OutputUnavailable,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.stores import Folder
from tests.processes import wait_until
from tests.servers import (
    BOAT,
    ID,
    MODEL,
    _listening,
    client_for,
    configure,
    made_of,
    prediction,
    reply,
    serve,
)

#: Seconds that one request may take here.
BOUND = 0.5
#: Seconds after which a call has certainly ended: BOUND, twice where it is sent again, and more for
#: a busy machine; far below what a request without a bound takes.
ENDED = 5.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, connect_timeout=BOUND, create_timeout=BOUND, query_timeout=BOUND)
    configure(monkeypatch, download_timeout=BOUND, reconnect_timeout=0.1)
    monkeypatch.setattr(client_module, "CANCEL_TIMEOUT", BOUND)


# --- servers that are no help -----------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
#: What comes at once, and what comes over and over, each time after a pause.
WAYS: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "a status line": (b"HTTP/1.1 200 OK\r\n", b""),
    "a head": (HEAD + b"Content-Length: 1000\r\n\r\n", b""),
    "a head byte by byte": (HEAD + b"X-Endless: ", b"x"),
    "headers one by one": (HEAD, b"X-Another: x\r\n"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "a body byte by byte": (HEAD + b"Content-Length: 1000000\r\n\r\n{", b" "),
    "a body without an end": (HEAD + b"\r\n{", b" "),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "a chunk's size byte by byte": (CHUNKED, b"0"),
}


@dataclass
class Unhelpful:
    port: int = 0
    connections: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def unhelpful(at_once: bytes, again: bytes, *, read: bool = True) -> Iterator[Unhelpful]:
    """A server that sends only this, and never closes a connection itself."""
    server = Unhelpful()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        server.open += 1
        try:
            if not read:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(3600)
            writer.write(at_once)
            while True:
                try:
                    async with asyncio.timeout(0.02):
                        if not await reader.read(65536):
                            return
                except TimeoutError:
                    writer.write(again)
        finally:
            server.open -= 1

    with _listening(talk, None) as port:
        server.port = port
        yield server


# --- calls ------------------------------------------------------------------------------------


def create(url: str, _: Path) -> None:
    client_for(url).create_prediction(MODEL, BOAT)


def query(url: str, _: Path) -> None:
    client_for(url).get_prediction(ID)


def cancel(url: str, _: Path) -> None:
    cancellation = client_for(url).cancel_prediction(ID)
    assert not cancellation.accepted
    raise UnknownOutcome(cancellation.message)


def check_key(url: str, _: Path) -> None:
    portal.call(client_for(url).acheck_key)


def download(url: str, folder: Path) -> None:
    made = made_of(f"{url}/file.png", url)
    portal.call(save_outputs, client_for(url), made, Folder(folder))


CALLS: dict[Callable[[str, Path], None], type[CometAPIError]] = {
    create: SubmissionInDoubt,
    query: UnknownOutcome,
    cancel: UnknownOutcome,
    check_key: UnknownOutcome,
    download: OutputUnavailable,
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_it_ends(way: str, call: Callable[[str, Path], None], tmp_path: Path) -> None:
    with unhelpful(*WAYS[way]) as server:
        started = time.monotonic()
        with pytest.raises(CALLS[call]):
            call(server.url, tmp_path)
        assert time.monotonic() - started < ENDED
        assert server.connections >= 1
        wait_until(lambda: server.open == 0, "nothing is left behind")
    assert list(tmp_path.iterdir()) == []


def test_a_create_that_nobody_reads_ends() -> None:
    large = BOAT | {"image": "data:image/png;base64," + "A" * 32 * 1024 * 1024}
    with unhelpful(b"", b"", read=False) as server:
        started = time.monotonic()
        with pytest.raises(SubmissionInDoubt):
            client_for(server.url).create_prediction(MODEL, large)
        assert time.monotonic() - started < ENDED


def test_redirects_one_after_another_share_the_time_of_the_download(tmp_path: Path) -> None:
    async def handler(_: object) -> object:
        await asyncio.sleep(0.4 * BOUND)
        return reply({}, 302, location=f"{server.url}/file.png")

    with serve(handler) as server:  # type: ignore[arg-type]
        started = time.monotonic()
        with pytest.raises(OutputUnavailable):
            download(server.url, tmp_path)
        assert time.monotonic() - started < ENDED
        assert len(server.requests) <= 4


def test_a_download_that_falls_silent_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, download_timeout=3)
    configure(monkeypatch, connect_timeout=1.2345)  # connections of its own
    monkeypatch.setattr(connections_module, "DOWNLOAD_SILENCE", 0.2)
    with unhelpful(HEAD + b"Content-Length: 1000\r\n\r\n", b"") as server:
        with pytest.raises(OutputUnavailable):
            download(server.url, tmp_path)
        assert server.connections >= 2


def test_what_hung_gives_its_place_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, requests_in_flight=1, downloads_in_flight=1)
    with unhelpful(b"", b"") as server, serve(lambda _: reply(prediction())) as healthy:
        for call, error in CALLS.items():
            with pytest.raises(error):
                call(server.url, tmp_path)
        started = time.monotonic()
        client = client_for(healthy.url)
        client.create_prediction(MODEL, BOAT)
        client.get_prediction(ID)
        download(healthy.url, tmp_path)
        assert time.monotonic() - started < ENDED
