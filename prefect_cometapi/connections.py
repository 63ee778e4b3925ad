"""What the whole process shares: connections, the gates on requests in flight, the memory of 429s.

Nothing here knows a key. All of it belongs to the background loop (`portal`). HTTP/1.1 only:
h2's header compression writes whole headers, keys included, to its debug log.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from platform import python_version
from random import Random
from urllib.parse import urlsplit

import httpx

from prefect_cometapi import urls
from prefect_cometapi.errors import ConfigurationError, OutputRefused
from prefect_cometapi.gate import Gate
from prefect_cometapi.log_hygiene import keep_signatures_out_of_logs
from prefect_cometapi.network import only_public_addresses
from prefect_cometapi.pacing import Brake, RetryBudget
from prefect_cometapi.settings import CometAPISettings

USER_AGENT = f"prefect-cometapi/{version('prefect-cometapi')} (python/{python_version()})"

#: A create never rides on a connection that has been idle for longer, in seconds: servers drop
#: idle connections (often after 5 s), and a create lost that way looks like one that was accepted.
CREATE_IDLE = 2.0
#: A query may: losing one costs nothing.
QUERY_IDLE = 30.0
#: Longest silence while an output is being fetched, in seconds.
DOWNLOAD_SILENCE = 30.0

_random = Random()  # noqa: S311 - spreads requests out, guards nothing


def expiry_rank(expires_at: datetime | None) -> float:
    """The rank of a download: what is deleted first is next; what is not known is last."""
    return math.inf if expires_at is None else expires_at.timestamp()


@dataclass
class Connections:
    """Connections, gates and brakes of the process."""

    creates: httpx.AsyncClient
    queries: httpx.AsyncClient
    #: Where no proxy resolves names, it connects to public addresses only.
    downloads: httpx.AsyncClient
    #: For outputs from where the user's own settings lead, whatever its address. Apart, so that
    #: no connection to such a place is there to be reused for anything else.
    configured_downloads: httpx.AsyncClient
    #: Creates have a gate of their own: they hold their place while the ledger is written, which
    #: must not keep polls waiting.
    create_gate: asyncio.Semaphore
    gate: asyncio.Semaphore
    download_gate: Gate
    #: By API root: what one account is told to slow down for, the next one would be told too.
    brakes: defaultdict[str, Brake] = field(default_factory=lambda: defaultdict(Brake))
    #: By API root: the budget for sending again, and the line of those who wait for it.
    budgets: defaultdict[str, tuple[RetryBudget, asyncio.Lock]] = field(
        default_factory=lambda: defaultdict(lambda: (RetryBudget(), asyncio.Lock()))
    )

    @asynccontextmanager
    async def turn(self, api_root: str, gate: asyncio.Semaphore) -> AsyncGenerator[None]:
        """Wait for the end of the last "too many requests" and for room in a gate."""
        brake = self.brakes[api_root]
        while True:
            while (wait := brake.wait(time.monotonic())) > 0:  # noqa: ASYNC110 - time is the event
                await asyncio.sleep(wait * _random.uniform(1.0, 1.1))
            async with gate:
                # Another one may have come while this request stood in the queue.
                if brake.wait(time.monotonic()) == 0:
                    yield
                    return


_shared: dict[tuple[object, ...], Connections] = {}

#: What httpx reads from the environment when a client is made.
_PROXY_AND_CA = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)


def connections(settings: CometAPISettings, url: str) -> Connections:
    """The process' connections for the host of `url`; call it on the background loop.

    This machine is never reached through a proxy: the simulator lives here, and the key would
    go to the proxy in the clear.

    Raises:
        ConfigurationError: A proxy or CA file in the environment is not usable, or this httpx.
    """
    direct = urls.is_loopback(urlsplit(url).hostname or "")
    key = (
        direct,
        asyncio.get_running_loop(),
        settings.connect_timeout,
        settings.requests_in_flight,
        settings.downloads_in_flight,
        *(os.environ.get(name) for name in _PROXY_AND_CA),
    )
    if key not in _shared:
        keep_signatures_out_of_logs()
        try:
            tls = httpx.create_ssl_context()
            _shared[key] = Connections(
                creates=_http(settings, tls, direct, read=None, idle=CREATE_IDLE),
                queries=_http(settings, tls, direct, read=None, idle=QUERY_IDLE),
                downloads=only_public_addresses(
                    _http(settings, tls, direct, read=DOWNLOAD_SILENCE, idle=QUERY_IDLE),
                    tls,
                    idle=QUERY_IDLE,
                ),
                configured_downloads=_http(
                    settings, tls, direct, read=DOWNLOAD_SILENCE, idle=QUERY_IDLE
                ),
                create_gate=asyncio.Semaphore(settings.requests_in_flight),
                gate=asyncio.Semaphore(settings.requests_in_flight),
                download_gate=Gate(settings.downloads_in_flight),
            )
        except ConfigurationError:
            raise
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            # Not repeated where it may be a proxy's URL, which can hold a password.
            readable = isinstance(error, OSError | ImportError)
            reason = str(error).rstrip(".") if readable else "a proxy URL can not be read"
            raise ConfigurationError(
                f"The proxy or CA settings of the environment are not usable: {reason}. Look at "
                "HTTP(S)_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR. Nothing was sent."
            ) from None
    return _shared[key]


def downloader(settings: CometAPISettings, url: str, api_root: str) -> httpx.AsyncClient:
    """The client to fetch an output from `url` with; call it for each hop, on the background loop.

    Raises:
        OutputRefused: `url` may not be fetched.
        ConfigurationError: A proxy or CA file in the environment is not usable.
    """
    urls.check_download(url, api_root, urls.parse_hosts(settings.delivery_hosts))
    try:
        host = httpx.URL(url).raw_host.decode().lower()
    except httpx.InvalidURL as error:
        raise OutputRefused(f"Will not fetch {urls.redact(url)}: {error}.") from None
    if host != urlsplit(url).hostname:  # the one that was checked
        raise OutputRefused(f"Will not fetch {urls.redact(url)}: its host can be read in two ways.")
    shared = connections(settings, url)
    configured = urls.is_configured(url, api_root)
    return shared.configured_downloads if configured else shared.downloads


def _http(
    settings: CometAPISettings,
    tls: ssl.SSLContext,
    direct: bool,
    *,
    read: float | None,
    idle: float,
) -> httpx.AsyncClient:
    """An httpx client that takes proxies from the environment, and keeps no cookies.

    Args:
        settings: For the connect time-out.
        tls: The CAs that are trusted.
        direct: Use no proxy.
        read: Longest silence in seconds; None where the whole request has a time-out of its own.
        idle: How long an unused connection is kept, in seconds.
    """
    return httpx.AsyncClient(
        verify=tls,
        headers={"user-agent": USER_AGENT},
        timeout=httpx.Timeout(read, connect=settings.connect_timeout, pool=None),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=idle),
        # Several accounts share the client: a cookie of one must not travel with another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        mounts=dict.fromkeys(("http://", "https://", "all://")) if direct else None,
        follow_redirects=False,
    )
