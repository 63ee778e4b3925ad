"""No proxies and certificates of this machine's; names, routes and certificates of the tests' own.

Only DNS and routing are replaced; sockets, TLS and HTTP are real.
"""

from __future__ import annotations

import asyncio
import socket
import time
from asyncio.selector_events import BaseSelectorEventLoop
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.net import Net
from tests.servers import configure


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    configure(
        monkeypatch, connect_timeout=2, create_timeout=4, download_timeout=5, reconnect_timeout=0.1
    )


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def net(ca_file: str, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A net of the test's own; certificates of `authority` are trusted in it."""
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)  # also: no connection is shared
    net = Net()
    resolve, connect = socket.getaddrinfo, BaseSelectorEventLoop.sock_connect

    def getaddrinfo(host: Any, port: Any, *_args: Any, **_kwargs: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in net.names:
            try:
                return resolve(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
            except socket.gaierror:
                net.asked.append(name)
                raise
        net.asked.append(name)
        time.sleep(net.slow)
        answers = net.names[name]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
        host, port = address[:2]
        if host == "127.0.0.1":
            return await connect(loop, sock, address)
        net.tried.append((host, port))
        if (host, port) not in net.routes:
            raise ConnectionRefusedError("nobody is there")
        target = net.routes[host, port]
        if target is None:
            await asyncio.sleep(60)
        return await connect(loop, sock, ("127.0.0.1", target))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", sock_connect)
    return net
