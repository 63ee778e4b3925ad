"""Connections to public addresses only: a name is resolved once, and what was checked is used."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import time
from collections.abc import Iterable

import httpcore
import httpx

from prefect_cometapi import urls
from prefect_cometapi.errors import ConfigurationError, OutputRefused


def only_public_addresses(
    http: httpx.AsyncClient, tls: ssl.SSLContext, *, idle: float
) -> httpx.AsyncClient:
    """The client, made to connect to public addresses only wherever it uses no proxy.

    httpx has no public way to give a client both the proxies of the environment and a network of
    one's own. The pool keeps connections by host name, so none is reused for another name.

    Raises:
        ConfigurationError: This httpx is built differently.
    """
    transport = getattr(http, "_transport", None)
    if not isinstance(transport, httpx.AsyncHTTPTransport) or not hasattr(transport, "_pool"):
        raise ConfigurationError(
            f"httpx {httpx.__version__} is built differently from those that prefect-cometapi "
            "knows, so it could not be kept from fetching outputs from inside your network. "
            "Install another version, such as httpx==0.28.1. Nothing was sent."
        )
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=tls, max_connections=None, keepalive_expiry=idle, network_backend=_PublicOnly()
    )
    return http


class _PublicOnly(httpcore.AsyncNetworkBackend):
    """Resolves a host once, and connects to exactly the addresses that were checked."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers, within `timeout` seconds for all of them.

        Raises:
            OutputRefused: One of the addresses is not public.
            httpcore.ConnectError: The name can not be resolved, or no address was reached.
            httpcore.ConnectTimeout: The same, for lack of an answer.
        """
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        addresses = await _resolve(host, port, timeout)
        try:
            for each in addresses:
                urls.check_address(each, f"anything from {host}")
        except OutputRefused as error:
            raise OutputRefused(
                f"{error} If that is how your network leads to a host outside, set a proxy "
                "(HTTPS_PROXY): it resolves names itself."
            ) from None
        while True:
            address, left = addresses.pop(0), deadline - time.monotonic()
            try:
                return await self._network.connect_tcp(
                    address,
                    port,
                    # Half of what is left: a dead address must not use up the time of the others.
                    None if timeout is None else max(left / 2 if addresses else left, 0.0),
                    local_address,
                    socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise


async def _resolve(host: str, port: int, timeout: float | None) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            # As bytes, because Python's own encoding of names fails on some that DNS allows.
            found = await loop.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise httpcore.ConnectTimeout(f"{host} was not resolved within {timeout:g} s") from None
    except OSError as error:
        raise httpcore.ConnectError(f"{host} can not be resolved: {error}") from error
    if not found:
        raise httpcore.ConnectError(f"{host} has no address")
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
