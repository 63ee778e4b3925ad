"""The API's own origin, proxies and the listed delivery hosts: what the user says, goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from prefect_cometapi.errors import OutputRefused
from tests.net import API, EVIL, FILES, INSIDE, A, B, Net, files, save
from tests.servers import Answer, configure, connect_proxy, picture, serve


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
        configure(monkeypatch, connect_timeout=3)  # other connections
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
    configure(monkeypatch, delivery_hosts=listed)
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
    configure(monkeypatch, delivery_hosts=f"{FILES}, other.test")
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
    configure(monkeypatch, delivery_hosts=FILES)
    net.names[FILES] = [["10.0.0.5"]]
    with pytest.raises(OutputRefused, match=r"10\.0\.0\.5"):
        await save(f"https://{FILES}/x.png", tmp_path)


async def test_the_simulator_needs_no_mention_among_the_delivery_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, delivery_hosts="replicate.delivery")
    with serve(picture) as server:
        await save(f"{server.url}/x.png", tmp_path, server.url)
