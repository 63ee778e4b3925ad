"""DNS and routing under the tests' control, and servers that are reached that way."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, portal
from prefect_cometapi.models import SavedFile
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.stores import Folder
from tests.servers import KEY, PNG, Handler, Server, made_of, picture, serve

API = "https://api.comet.test"
FILES = "files.comet.test"
MORE = "more.comet.test"
EVIL = "evil.comet.test"
INSIDE = "simulator.internal"
#: Public addresses; nothing is ever sent there.
A, B, C = "8.8.8.8", "9.9.9.9", "2606:4700::1111"


@dataclass
class Net:
    """What names mean, and where addresses lead."""

    #: The answers to one question after another; the last one stays. A string is one address.
    names: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    #: Address and port → port of this machine; None for one that never answers.
    routes: dict[tuple[str, int], int | None] = field(default_factory=dict)
    #: Seconds that an answer takes.
    slow: float = 0.0
    asked: list[str] = field(default_factory=list)
    tried: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def files(
    authority: trustme.CA, handler: Handler = picture, *names: str
) -> Iterator[tuple[Server, list[str]]]:
    """A server over TLS for all names, and the server names that it was asked for."""
    context, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    authority.issue_cert(*(names or (FILES, MORE, EVIL, INSIDE))).configure_cert(context)

    def greet(_socket: object, name: str, _context: object) -> None:
        asked.append(name)

    context.sni_callback = greet
    with serve(handler, tls=context) as server:
        yield server, asked


async def save(url: str, folder: Path, root: str = API, **more: Any) -> SavedFile:
    client = CometAPICredentials(api_key=SecretStr(KEY), base_url=root, **more).get_client()
    client.notify = lambda _: None
    (saved,) = await portal.acall(save_outputs, client, made_of(url, root), Folder(folder))
    assert Path(saved.location).read_bytes() == PNG
    return saved
