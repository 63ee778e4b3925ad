"""The search of the leak test finds keys: a test that can not fail is no test."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import random
import socket
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.leaks.recorder import Sent, recording
from tests.leaks.search import (
    CANARY,
    MARK,
    PROMPT,
    REFUSED,
    SIGNATURE,
    SPELLINGS,
    files_below,
    finds,
    rows_of,
    search,
)

KEY = f"sk-{MARK}"


def noise(size: int) -> bytes:
    return bytes(random.Random(size).randbytes(size))  # noqa: S311


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_finds_each_spelling(spelling: str) -> None:
    key = KEY.encode()
    for before in range(3):
        data = noise(1000) + SPELLINGS[spelling](noise(before).hex().encode() + key) + noise(999)
        assert finds(data)
    assert spelling in finds(SPELLINGS[spelling](MARK.encode()))


@pytest.mark.parametrize("start", range(len(MARK) - 16 + 1))
def test_it_finds_parts(start: int) -> None:
    assert finds(noise(50) + MARK[start : start + 16].encode() + noise(50))


@pytest.mark.parametrize("packed", [lzma.compress, bz2.compress, gzip.compress, zlib.compress])
@pytest.mark.parametrize("before", range(4))
def test_it_finds_what_prefect_stores(packed: Callable[[bytes], bytes], before: int) -> None:
    pickled = pickle.dumps(["x" * before, *range(100), KEY])
    for inner in (pickled, packed(pickled), packed(base64.encodebytes(pickled))):
        text = base64.encodebytes(inner).decode()
        assert finds(text)
        assert finds(json.dumps({"result": text}))
        assert finds(json.dumps(json.dumps({"result": text})))


def test_it_finds_nothing_in_nothing() -> None:
    assert search(noise(1_000_000)) == {m: {} for m in (MARK, REFUSED, CANARY, SIGNATURE, PROMPT)}


def test_it_finds_what_a_database_tears_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE t (a, b)")
        for before in range(0, 600, 7):
            value = "x" * (600 + before) + KEY + "y" * 5000
            connection.execute("INSERT INTO t VALUES (?, ?)", (before, value))
    connection.close()
    assert rows_of(path)["t"].count(KEY.encode()) == 86
    assert path.read_bytes().count(KEY.encode()) < 86


def test_it_finds_names_of_files(tmp_path: Path) -> None:
    (tmp_path / KEY).mkdir()
    assert finds(files_below(tmp_path)["names of files"])


def through_a_recorder(first: bytes, then: bytes) -> tuple[bytes, list[Sent]]:
    """What arrives behind it, and what it has recorded."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        recording(server.getsockname()[1]) as recorder,
        socket.create_connection(("127.0.0.1", recorder.port)) as client,
    ):
        client.sendall(first)
        there, _ = server.accept()
        client.sendall(then)
        client.shutdown(socket.SHUT_WR)
        with there:
            arrived = b"".join(iter(lambda: there.recv(65536), b""))
        client.recv(1)
        return arrived, recorder.sent


@pytest.mark.parametrize("size", [10, 125, 126, 1000, 65535, 65536, 100_000])
def test_it_finds_what_a_websocket_masks(size: int) -> None:
    payload, mask = ("x" * (size - len(KEY)) + KEY).encode()[-size:], noise(4)
    masked = bytes(char ^ mask[at % 4] for at, char in enumerate(payload))
    length = (
        bytes([0x80 | size])
        if size < 126
        else bytes([0x80 | 126]) + size.to_bytes(2, "big")
        if size < 65536
        else bytes([0x80 | 127]) + size.to_bytes(8, "big")
    )
    head = b"GET /in HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: deflate\r\n\r\n"
    arrived, (sent,) = through_a_recorder(head, (b"\x81" + length + mask + masked) * 2)
    assert b"Extensions" not in arrived
    assert sent.body == payload * 2


def test_it_takes_requests_apart() -> None:
    first = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\nAccept-Encoding: gzip\r\n\r\n12345"
    arrived, sent = through_a_recorder(first, b"GET /b HTTP/1.1\r\n\r\n")
    assert [(each.line, each.body) for each in sent] == [
        ("POST /a HTTP/1.1", b"12345"),
        ("GET /b HTTP/1.1", b""),
    ]
    assert b"Accept-Encoding" not in arrived
