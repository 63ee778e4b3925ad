"""A host name is resolved once, its addresses are checked, and one of those is connected to."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trustme

from prefect_cometapi.errors import ConfigurationError, OutputRefused, OutputUnavailable
from prefect_cometapi.network import only_public_addresses
from tests.net import EVIL, FILES, MORE, A, B, C, Net, files, save
from tests.servers import PNG, Answer, configure, picture


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
    configure(monkeypatch, download_timeout=60)
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
    configure(monkeypatch, delivery_hosts=FILES, download_timeout=0.3)
    net.names[EVIL] = net.names[FILES] = [[A]]
    with pytest.raises((OutputRefused, OutputUnavailable)):
        await save(url, tmp_path)
    assert net.tried == []


async def test_capital_letters_in_a_host_are_no_hindrance(
    net: Net, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, delivery_hosts=FILES.title())
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
    configure(monkeypatch, connect_timeout=0.6)
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
    configure(monkeypatch, connect_timeout=0.2, download_timeout=1)
    net.names, net.routes, net.slow = trouble.names, trouble.routes, trouble.slow
    with pytest.raises(OutputUnavailable, match=said):
        await save(f"https://{FILES}/x.png", tmp_path)
    assert len(net.asked) > 1  # it may pass


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
