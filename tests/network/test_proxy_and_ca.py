"""Proxies and CAs of the environment are honoured, and trouble there never counts as delivered."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from prefect_cometapi import simulator
from prefect_cometapi.errors import CometAPIError, NeverDelivered, SubmissionInDoubt
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.portal import acall
from prefect_cometapi.stores import Folder
from tests.servers import (
    BOAT,
    ID,
    KEY,
    MODEL,
    PNG,
    Answer,
    Request,
    Server,
    client_for,
    closed_port,
    configure,
    connect_proxy,
    picture,
    prediction,
    reply,
    serve,
)

HOST = "api.comet.test"
FILES = "files.comet.test"


def handler(request: Request) -> Answer:
    if request.headers["host"] == FILES:
        return picture(request)
    return reply(prediction(output=f"https://{FILES}/x/out.png"), 201)


@pytest.fixture
def api(authority: trustme.CA) -> Iterator[Server]:
    """The API over TLS, with a certificate for `HOST`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, FILES).configure_cert(context)
    with serve(handler, tls=context) as server:
        yield server


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_requests_and_downloads_go_through_the_proxy_of_the_environment(
    api: Server, ca_file: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with connect_proxy(api.port) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        client = client_for(f"https://{HOST}/v1")
        created = await client.acreate_prediction(MODEL, BOAT)
        (saved,) = await acall(save_outputs, client, created, Folder(tmp_path / "out"))
    assert Path(saved.location).read_bytes() == PNG
    assert {line.split()[0] for line in proxy.asked} == {"CONNECT"}
    assert {line.split()[1] for line in proxy.asked} == {f"{HOST}:443", f"{FILES}:443"}
    # The proxy sees where it goes, and nothing else.
    assert KEY.encode() not in proxy.received
    assert [request.headers.get("authorization") for request in api.requests] == [
        f"Bearer {KEY}",
        None,
    ]


async def test_an_unknown_certificate_is_never_delivered_and_says_so(
    api: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(api.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NeverDelivered, match=r"(?i)certificate"):
            await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)
    assert api.requests == []
    assert KEY.encode() not in proxy.received


async def test_a_certificate_of_another_host_is_never_delivered(
    api: Server, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    with connect_proxy(api.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NeverDelivered, match=r"(?i)certificate"):
            await client_for("https://other.comet.test").acreate_prediction(MODEL, BOAT)
    assert api.requests == []


async def test_a_ca_that_is_set_later_is_used(
    api: Server, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(api.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = client_for(f"https://{HOST}")
        with pytest.raises(NeverDelivered):
            await client.acreate_prediction(MODEL, BOAT)
        monkeypatch.setenv("SSL_CERT_FILE", ca_file)
        assert (await client.acreate_prediction(MODEL, BOAT)).id == ID


@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\n\r\n",
        b"",  # closes without a word
        b"this is no HTTP\r\n\r\n",
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_never_delivered(
    api: Server, refusal: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(api.port, refuse=refusal) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NeverDelivered, match="proxy"):
            await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)
    assert proxy.asked
    assert api.connections == 0
    assert KEY.encode() not in proxy.received


async def test_a_proxy_that_never_answers_is_never_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, create_timeout=0.5)
    with serve(lambda _: Answer(end="hang", raw=b"")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NeverDelivered):
            await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)
        assert {request.method for request in proxy.requests} == {"CONNECT"}


async def test_a_proxy_that_is_not_there_is_never_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(NeverDelivered, match="proxy"):
        await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)


async def test_a_reply_lost_inside_a_tunnel_is_in_doubt(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tunnel stood and the request went through it: a proxy is no excuse to send it again.
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    with (
        serve(lambda _: Answer(end="drop"), tls=context) as server,
        connect_proxy(server.port) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(SubmissionInDoubt):
            await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST", "127.0.0.2", "127.1", "api.localhost"]
)
async def test_this_machine_is_never_reached_through_a_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Plain http is allowed only because it does not leave this machine.
    with simulator.run(host="0.0.0.0") as sim, connect_proxy(closed_port()) as proxy:  # noqa: S104
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        try:
            created = await client_for(sim.url.replace("127.0.0.1", host)).acreate_prediction(
                MODEL, BOAT
            )
            assert created.id in sim.predictions
        except NeverDelivered:
            # Not every machine resolves names below localhost.
            assert host == "api.localhost"
    assert proxy.asked == []
    assert KEY.encode() not in proxy.received


async def test_no_proxy_is_honoured(api: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_proxy(api.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "comet.test")
        with pytest.raises(NeverDelivered):  # nobody else resolves that name
            await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "nonsense://proxy:1"),
        ("HTTPS_PROXY", "http://proxy:port"),
        ("ALL_PROXY", "socks5://127.0.0.1:1"),  # httpx needs another package for it
        ("SSL_CERT_FILE", "/no/such/file.pem"),
    ],
)
async def test_an_environment_that_can_not_work_is_told_as_an_error_of_ours(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CometAPIError) as caught:
        await client_for(f"https://{HOST}").acreate_prediction(MODEL, BOAT)
    assert not isinstance(caught.value, SubmissionInDoubt)
