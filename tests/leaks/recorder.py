"""A TCP proxy that keeps every byte, and takes requests and websocket frames out of them."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

#: With it, websocket frames would be compressed, and nothing be found in them.
_COMPRESSION = re.compile(rb"sec-websocket-extensions:[^\r]*\r\n", re.IGNORECASE)
#: With it, replies would be.
_PACKING = re.compile(rb"accept-encoding:", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Connection:
    """What went through one connection."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


@dataclass
class Sent:
    """One request, or what was sent through one websocket, unmasked."""

    line: str
    head: bytes
    body: bytes


@dataclass
class Recorder:
    """A running proxy, and what it has seen."""

    port: int = 0
    connections: list[Connection] = field(default_factory=list)

    @property
    def sent(self) -> list[Sent]:
        """Everything that was sent, taken apart."""
        return [each for one in self.connections for each in _taken_apart(bytes(one.sent))]

    @property
    def received(self) -> bytes:
        """Everything that came back."""
        return b"\n".join(bytes(one.received) for one in self.connections)


@contextmanager
def recording(target_port: int) -> Iterator[Recorder]:
    """A proxy to a port of this machine."""
    recorder = Recorder()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            one = Connection()
            recorder.connections.append(one)
            here: socket.socket = self.request
            with suppress(OSError), socket.create_connection(("127.0.0.1", target_port)) as there:
                back = threading.Thread(target=_pump, args=(there, here, one.received), daemon=True)
                back.start()
                head = _PACKING.sub(b"x-no-encoding__:", _first_head(here))
                if b"upgrade: websocket" in head.lower():
                    head = _COMPRESSION.sub(b"", head)
                one.sent += head
                there.sendall(head)
                _pump(here, there, one.sent)
                back.join(10)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        recorder.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join(10)


def _first_head(source: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (data := source.recv(65536)):
        head += data
    return head


def _pump(source: socket.socket, target: socket.socket, log: bytearray) -> None:
    with suppress(OSError):
        while data := _PACKING.sub(b"x-no-encoding__:", source.recv(65536)):
            log += data
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _taken_apart(data: bytes) -> Iterator[Sent]:
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        line = head.partition(b"\r\n")[0].decode("latin-1")
        assert b"transfer-encoding" not in head.lower(), "chunks are not put together here"
        assert b"content-encoding" not in head.lower(), "what is compressed can not be searched"
        if b"upgrade: websocket" in head.lower():
            yield Sent(line, head, b"".join(_frames(rest)))
            return
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        yield Sent(line, head, rest[:size])
        data = rest[size:]


def _frames(data: bytes) -> Iterator[bytes]:
    """What a client says in its websocket frames, each of which it masks (RFC 6455)."""
    while len(data) >= 6:
        assert not data[0] & 0x70, "compressed after all"
        assert data[1] & 0x80, "clients mask what they send"
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        mask, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
        key = (mask * (len(payload) // 4 + 1))[: len(payload)]
        yield (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(
            len(payload), "big"
        )
        data = data[at + 4 + size :]
