"""A host name is resolved once, its addresses are checked, and one of those is connected to.

DNS and routing are under the tests' control; sockets, TLS and HTTP are real.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trustme
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, portal
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import ConfigurationError, OutputRefused, OutputUnavailable
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile
from prefect_cometapi.network import only_public_addresses
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.stores import Folder
from tests.servers import (
    ID,
    KEY,
    MODEL,
    PNG,
    Answer,
    Handler,
    Request,
    Server,
    connect_proxy,
    serve,
)

API = "https://api.comet.test"
FILES = "files.comet.test"
MORE = "more.comet.test"
EVIL = "evil.comet.test"
INSIDE = "simulator.internal"
#: Public addresses; nothing is ever sent there.
A, B, C = "8.8.8.8", "9.9.9.9", "2606:4700::1111"
SETTING = "PREFECT_INTEGRATIONS_COMETAPI_"


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


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def _bare(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))  # also: no connection is shared
    monkeypatch.setenv(SETTING + "CONNECT_TIMEOUT", "2")
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "5")


def picture(_: Request) -> Answer:
    return Answer(200, PNG, {"content-type": "image/png"})


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
    client = client_of(root, **more)
    made = Prediction(
        id=ID, model=MODEL, status=PredictionStatus.SUCCEEDED, api_root=root, output=url
    )
    (saved,) = await portal.acall(save_outputs, client, made, Folder(folder))
    assert Path(saved.location).read_bytes() == PNG
    return saved


def client_of(root: str, **more: Any) -> CometAPIClient:
    client = CometAPICredentials(api_key=SecretStr(KEY), base_url=root, **more).get_client()
    client.notify = lambda _: None
    return client


# --- resolved once, and that is used ----------------------------------------------------------


async def test_a_public_address_is_connected_to_under_the_hosts_own_name(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, server_names):
        net.names[FILES] = [[A]]
        net.routes[A, 443] = server.port
        await save(f"https://{FILES}/x.png?signature=1", tmp_path)
        (request,) = server.requests
    assert (net.asked, net.tried) == ([FILES], [(A, 443)])
    assert server_names == [FILES]
    assert request.headers["host"] == FILES
    assert request.target == "/x.png?signature=1"


async def test_another_port_is_kept_and_is_in_the_host_header(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, server_names):
        net.names[FILES] = [[A]]
        net.routes[A, 8443] = server.port
        await save(f"https://{FILES}:8443/x.png", tmp_path)
        assert server.requests[0].headers["host"] == f"{FILES}:8443"
    assert server_names == [FILES]


async def test_an_answer_that_changes_after_the_check_is_not_asked_for(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, _):
        net.names[FILES] = [[A], ["10.0.0.5"]]
        net.routes |= {(A, 443): server.port, ("10.0.0.5", 443): server.port}
        await save(f"https://{FILES}/x.png", tmp_path)
        # The connection that was checked may be used again; a new one is checked again.
        await save(f"https://{FILES}/x.png", tmp_path)
        assert server.connections == 1
    assert (net.asked, net.tried) == ([FILES], [(A, 443)])


async def test_each_new_connection_is_checked(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority, lambda _: Answer(200, PNG, end="close")) as (server, _):
        net.names[FILES] = [[A], ["10.0.0.5"]]
        net.routes |= {(A, 443): server.port, ("10.0.0.5", 443): server.port}
        await save(f"https://{FILES}/x.png", tmp_path)
        with pytest.raises(OutputRefused, match=r"10\.0\.0\.5"):
            await save(f"https://{FILES}/x.png", tmp_path)
    assert net.tried == [(A, 443)]


@pytest.mark.parametrize(
    "answer",
    [
        ["10.0.0.5"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["224.0.0.1"],
        ["::1"],
        ["fe80::1%1"],
        ["::ffff:10.0.0.5"],
        ["64:ff9b::a9fe:a9fe"],
        ["2002:a00:5::"],
        # One that is not public among others: nobody says which of them would be used.
        [A, "10.0.0.5"],
        ["10.0.0.5", A],
        [C, A, "fd00::1"],
    ],
)
async def test_a_name_of_an_address_inside_is_refused_unasked(
    net: Net, answer: list[str], authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, _):
        net.names[EVIL] = [answer]
        net.routes |= {(address, 443): server.port for address in answer}
        with pytest.raises(OutputRefused, match=f"anything from {EVIL}: its address .* public"):
            await save(f"https://{EVIL}:{server.port}/x.png", tmp_path)
        assert server.connections == 0
    assert (net.asked, net.tried) == ([EVIL], [])  # and not asked again


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_checked_like_the_first_url(
    net: Net, status: int, authority: trustme.CA, tmp_path: Path
) -> None:
    away = Answer(status, b"", {"location": f"https://{EVIL}/latest/meta-data?a=secret"})
    with files(authority, lambda _: away) as (server, _):
        net.names |= {FILES: [[A]], EVIL: [["169.254.169.254"]]}
        net.routes |= {(A, 443): server.port, ("169.254.169.254", 443): server.port}
        with pytest.raises(OutputRefused, match=r"169\.254\.169\.254") as caught:
            await save(f"https://{FILES}/x.png", tmp_path)
        assert len(server.requests) == 1
    assert net.tried == [(A, 443)]
    assert "secret" not in str(caught.value)


async def test_two_names_of_one_address_share_no_connection(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, server_names):
        net.names |= {FILES: [[A]], MORE: [[A]]}
        net.routes[A, 443] = server.port
        for host in (FILES, MORE, FILES, MORE):
            await save(f"https://{host}/x.png", tmp_path)
        seen = [(request.headers["host"], request.connection) for request in server.requests]
    assert seen == [(FILES, 1), (MORE, 2), (FILES, 1), (MORE, 2)]
    assert server_names == [FILES, MORE]


async def test_a_certificate_of_another_name_is_refused_soon(
    net: Net, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "60")
    with files(authority, picture, MORE, A) as (server, server_names):
        net.names[FILES] = [[A]]
        net.routes[A, 443] = server.port
        with pytest.raises(OutputUnavailable, match=r"(?i)certificate"):
            await save(f"https://{FILES}/x.png", tmp_path)
        assert server.requests == []
    assert server_names == [FILES] * 3


async def test_a_public_address_in_the_url_needs_no_name(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority, picture, A) as (server, _):
        net.routes[A, 443] = server.port
        await save(f"https://{A}/x.png", tmp_path)
        assert server.requests[0].headers["host"] == A
    assert net.asked == []


@pytest.mark.parametrize(
    "url", [f"https://a<b.{FILES}/x.png", f"https://{EVIL}\\.{FILES}/x.png", f"https://a..{FILES}/"]
)
async def test_a_host_that_httpx_could_read_differently_is_not_connected_to(
    net: Net, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DELIVERY_HOSTS", FILES)
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "0.3")
    net.names[EVIL] = net.names[FILES] = [[A]]
    with pytest.raises((OutputRefused, OutputUnavailable)):
        await save(url, tmp_path)
    assert net.tried == []


async def test_capital_letters_in_a_host_are_no_hindrance(
    net: Net, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DELIVERY_HOSTS", FILES.title())
    with files(authority) as (server, _):
        net.names[FILES] = [[A]]
        net.routes[A, 443] = server.port
        await save(f"https://{FILES.upper()}/x.png", tmp_path)


# --- several addresses, none, and late ones ---------------------------------------------------


@pytest.mark.parametrize("dead", [[B], [C], [C, B]])
async def test_the_next_address_is_tried_where_one_does_not_answer(
    net: Net, dead: list[str], authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, _):
        net.names[FILES] = [[*dead, A]]
        net.routes[A, 443] = server.port
        await save(f"https://{FILES}/x.png", tmp_path)
        assert len(server.requests) == 1
    assert net.asked == [FILES]


async def test_an_address_that_never_answers_leaves_time_for_the_others(
    net: Net, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "CONNECT_TIMEOUT", "0.6")
    with files(authority) as (server, _):
        net.names[FILES] = [[B, A]]
        net.routes |= {(B, 443): None, (A, 443): server.port}
        await save(f"https://{FILES}/x.png", tmp_path)
    assert (net.asked, net.tried) == ([FILES], [(B, 443), (A, 443)])


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Net(), f"{FILES} can not be resolved"),
        (Net(names={FILES: [[]]}), f"{FILES} has no address"),
        (Net(names={FILES: [[A]]}), "ConnectError"),
        (Net(names={FILES: [[A]]}, routes={(A, 443): None}), "ConnectTimeout"),
        (Net(names={FILES: [[A]]}, slow=0.5), f"{FILES} was not resolved within 0.2 s"),
    ],
    ids=["no such name", "no address", "refused", "silent", "slow DNS"],
)
async def test_a_host_out_of_reach_is_told_as_such(
    net: Net, trouble: Net, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "CONNECT_TIMEOUT", "0.2")
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "1")
    net.names, net.routes, net.slow = trouble.names, trouble.routes, trouble.slow
    with pytest.raises(OutputUnavailable, match=said):
        await save(f"https://{FILES}/x.png", tmp_path)
    assert len(net.asked) > 1  # it may pass


# --- what the user has configured -------------------------------------------------------------


async def test_the_api_roots_own_origin_may_be_inside(
    net: Net, authority: trustme.CA, tmp_path: Path
) -> None:
    with files(authority) as (server, _):
        net.names[INSIDE] = [["10.0.0.5"]]
        net.routes["10.0.0.5", 8443] = server.port
        root = f"https://{INSIDE}:8443"
        await save(f"{root}/x.png", tmp_path, root)
        # Not for others, though a connection is there; and not beside that origin.
        for url, other in ((f"{root}/x.png", API), (f"https://{INSIDE}/x.png", root)):
            with pytest.raises(OutputRefused, match=r"10\.0\.0\.5"):
                await save(url, tmp_path, other)
        assert server.connections == 1


async def test_a_simulator_in_a_network_that_is_trusted(net: Net, tmp_path: Path) -> None:
    with serve(picture) as server:
        net.names[INSIDE] = [["192.168.7.7"]]
        net.routes["192.168.7.7", 8000] = server.port
        root = f"http://{INSIDE}:8000"
        await save(f"{root}/x.png", tmp_path, root, allow_insecure=True)
        assert server.requests[0].headers["host"] == f"{INSIDE}:8000"


async def test_a_simulator_on_this_machine_opens_nothing_inside(net: Net, tmp_path: Path) -> None:
    with serve(lambda _: Answer(302, b"", {"location": f"https://{EVIL}/x"})) as server:
        net.names[EVIL] = [["127.0.0.1"]]
        with pytest.raises(OutputRefused, match=r"127\.0\.0\.1"):
            await save(f"{server.url}/x.png", tmp_path, server.url)
        assert len(server.requests) == 1


# --- proxies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_proxy_resolves_names_itself(
    net: Net,
    variable: str,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with files(authority) as (server, server_names), connect_proxy(server.port) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        await save(f"https://{FILES}/x.png", tmp_path)
    assert proxy.asked == [f"CONNECT {FILES}:443 HTTP/1.1"]
    assert server_names == [FILES]
    assert (net.asked, net.tried) == ([], [])


@pytest.mark.parametrize("exempt", [FILES, "comet.test", "*", f"other.test,{FILES}"])
async def test_a_host_that_is_exempt_from_the_proxy_is_checked(
    net: Net,
    exempt: str,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with files(authority) as (server, _), connect_proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", exempt)
        net.names[FILES] = [[A], ["10.0.0.5"]]
        net.routes[A, 443] = server.port
        await save(f"https://{FILES}/x.png", tmp_path)
        monkeypatch.setenv(SETTING + "CONNECT_TIMEOUT", "3")  # other connections
        with pytest.raises(OutputRefused, match=r"10\.0\.0\.5"):
            await save(f"https://{FILES}/x.png", tmp_path)
    assert proxy.asked == []


async def test_a_private_address_in_the_url_is_refused_with_a_proxy_too(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(9) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(OutputRefused):
            await save("https://169.254.169.254/latest/meta-data", tmp_path)
    assert (proxy.asked, net.asked) == ([], [])


# --- delivery hosts ---------------------------------------------------------------------------


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("listed", [FILES, "comet.test", "*.comet.test", f"a.test, {FILES}"])
async def test_a_delivery_host_is_fetched_from(
    net: Net,
    proxied: bool,
    listed: str,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SETTING + "DELIVERY_HOSTS", listed)
    with files(authority) as (server, _), connect_proxy(server.port) as proxy:
        if proxied:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        net.names[FILES] = [[A]]
        net.routes[A, 443] = server.port
        await save(f"https://{FILES}/x.png", tmp_path)
        assert len(proxy.asked) == proxied


@pytest.mark.parametrize("proxied", [False, True])
async def test_no_other_host_is_asked_for_or_fetched_from(
    net: Net,
    proxied: bool,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SETTING + "DELIVERY_HOSTS", f"{FILES}, other.test")
    away = Answer(302, b"", {"location": f"https://{EVIL}/x.png"})
    with files(authority, lambda _: away) as (server, _), connect_proxy(server.port) as proxy:
        if proxied:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        net.names |= {FILES: [[A]], EVIL: [[B]]}
        net.routes |= {(A, 443): server.port, (B, 443): server.port}
        with pytest.raises(OutputRefused, match=f"https://{EVIL}/x.png.*DELIVERY_HOSTS"):
            await save(f"https://{EVIL}/x.png", tmp_path)
        assert (net.asked, proxy.asked) == ([], [])
        with pytest.raises(OutputRefused, match=f"https://{EVIL}/x.png.*DELIVERY_HOSTS"):
            await save(f"https://{FILES}/x.png", tmp_path)  # on each hop
        assert len(server.requests) == 1
    assert EVIL not in str(proxy.asked)
    assert net.tried == ([] if proxied else [(A, 443)])


async def test_a_delivery_host_inside_is_refused_all_the_same(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DELIVERY_HOSTS", FILES)
    net.names[FILES] = [["10.0.0.5"]]
    with pytest.raises(OutputRefused, match=r"10\.0\.0\.5"):
        await save(f"https://{FILES}/x.png", tmp_path)


async def test_the_simulator_needs_no_mention_among_the_delivery_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DELIVERY_HOSTS", "replicate.delivery")
    with serve(picture) as server:
        await save(f"{server.url}/x.png", tmp_path, server.url)


# --- the parts of httpx that this stands on ---------------------------------------------------


@pytest.mark.parametrize(
    "client",
    [
        SimpleNamespace(),
        SimpleNamespace(_transport=SimpleNamespace(_pool=None)),
        SimpleNamespace(_transport=httpx.MockTransport(lambda _: httpx.Response(200))),
        SimpleNamespace(_transport=httpx.AsyncHTTPTransport.__new__(httpx.AsyncHTTPTransport)),
    ],
)
def test_an_httpx_that_is_built_differently_is_told_before_anything_is_sent(client: Any) -> None:
    with pytest.raises(ConfigurationError, match="httpx"):
        only_public_addresses(client, ssl.create_default_context(), idle=1)
