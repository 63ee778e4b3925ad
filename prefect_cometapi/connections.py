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
from functools import lru_cache
from http.cookiejar import CookieJar
from importlib.metadata import version
from platform import python_version
from random import Random
from urllib.parse import urlsplit

import httpx

from prefect_cometapi import urls
from prefect_cometapi.errors import ConfigurationError, OutputRefused
from prefect_cometapi.failures import Call
from prefect_cometapi.gate import Gate
from prefect_cometapi.lanes import Lanes
from prefect_cometapi.log_hygiene import keep_signatures_out_of_logs
from prefect_cometapi.network import only_public_addresses
from prefect_cometapi.pacing import Brake, Patience, RetryBudget
from prefect_cometapi.rate import Rate
from prefect_cometapi.settings import CometAPISettings

USER_AGENT = f"prefect-cometapi/{version('prefect-cometapi')} (python/{python_version()})"
#: What every request to the API says. The client's own defaults are not merged into it.
API_HEADERS = {
    "user-agent": USER_AGENT,
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
}

#: What costs money never rides on a connection that has been idle for longer, in seconds: servers
#: drop idle connections (often after 5 s), and what is lost that way looks like it was accepted.
CREATE_IDLE = 2.0
#: A query may: losing one costs nothing.
QUERY_IDLE = 30.0
#: Longest silence while an output is being fetched, in seconds.
DOWNLOAD_SILENCE = 30.0
MAX_REDIRECTS = 5
#: What several processes spread themselves over when a "too many requests" ends: this share of the
#: pause, and at most so many seconds, which cost the one process there mostly is little.
SPREAD_SHARE = 0.1
SPREAD = 0.5

#: For how long, in seconds, a 429 holds back the other kind of request. Creates are refused for a
#: minute where sixty a minute are allowed, and what completes meanwhile is to be noticed.
OTHERS_PAUSE = 2.0

_random = Random()  # noqa: S311 - spreads requests out, guards nothing


def expiry_rank(expires_at: datetime | None) -> float:
    """The rank of a download: what is deleted first is next; what is not known is last."""
    return math.inf if expires_at is None else expires_at.timestamp()


@dataclass(slots=True)
class Turn:
    """A place at a gate, and a slot of a rate, for one request.

    Attributes:
        http: What the request is sent with.
        rate: Whose slot it is.
        at: When it was given, on the monotonic clock.
        used: Whether the request was sent; if not, the slot is given back.
    """

    http: httpx.AsyncClient
    rate: Rate
    at: float
    used: bool = False


@dataclass
class Connections:
    """Connections, gates, brakes and rates of the process."""

    #: Creates have lanes of their own: they hold their place while the ledger is written, which
    #: must not keep polls waiting.
    creates: Lanes
    queries: Lanes
    #: Questions to language models take a minute and more, which must not keep polls waiting.
    chats: Lanes
    #: For cancels, which wait for nothing.
    others: httpx.AsyncClient
    #: Where no proxy resolves names, it connects to public addresses only.
    downloads: httpx.AsyncClient
    #: For outputs from where the user's own settings lead, whatever its address. Apart, so that
    #: no connection to such a place is there to be reused for anything else.
    configured_downloads: httpx.AsyncClient
    download_gate: Gate
    #: By API root: what one account is told to slow down for, the next one would be told too. And
    #: by kind of request: limits are counted for each.
    brakes: defaultdict[tuple[str, Call], Brake] = field(default_factory=lambda: defaultdict(Brake))
    #: By API root: the budget for sending again, and the line of those who wait for it.
    budgets: defaultdict[str, tuple[RetryBudget, asyncio.Lock]] = field(
        default_factory=lambda: defaultdict(lambda: (RetryBudget(), asyncio.Lock()))
    )

    #: By API root: how long its queries usually take.
    patience: defaultdict[str, Patience] = field(default_factory=lambda: defaultdict(Patience))
    #: By API root and kind of request: the rate, and the line of those who wait for a slot of it.
    rates: defaultdict[tuple[str, Call], tuple[Rate, asyncio.Lock]] = field(
        default_factory=lambda: defaultdict(lambda: (Rate(), asyncio.Lock()))
    )

    def hold_back(self, api_root: str, call: Call, now: float, seconds: float) -> None:
        """A request was refused as one too many: hold its kind back, and the others for a while."""
        for each in (Call.CREATE, Call.QUERY, Call.CHAT):
            pause = seconds if each is call else min(seconds, OTHERS_PAUSE)
            self.brakes[api_root, each].press(now, pause)

    @asynccontextmanager
    async def turn(self, api_root: str, call: Call) -> AsyncGenerator[Turn]:
        """Wait for the end of the last "too many requests", a slot of the rate and room for it.

        Only the first in line looks at the clock, so that a thousand do not wake each other.
        """
        others = self.chats if call is Call.CHAT else self.queries
        lanes = self.creates if call is Call.CREATE else others
        brake, (rate, line) = self.brakes[api_root, call], self.rates[api_root, call]
        async with line:
            while True:
                while (wait := max(brake.wait(now := time.monotonic()), rate.wait(now))) > 0:
                    spread = _random.uniform(0.0, min(SPREAD, SPREAD_SHARE * brake.wait(now)))
                    await asyncio.sleep(wait + spread)
                http = await lanes.enter()
                # A 429 may have come while this request stood there.
                if brake.wait(now := time.monotonic()) == 0 and rate.wait(now) == 0:
                    sent_at = rate.sent(now)
                    break
                lanes.leave(http)
        turn = Turn(http, rate, sent_at)
        try:
            yield turn
        finally:
            lanes.leave(http)
            (rate.lost if turn.used else rate.unsent)(sent_at)


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
    direct = _is_here(url)
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
            most = settings.requests_in_flight
            _shared[key] = Connections(
                creates=Lanes(
                    most, lambda: _http(settings, tls, direct, read=None, idle=CREATE_IDLE)
                ),
                queries=Lanes(
                    most, lambda: _http(settings, tls, direct, read=None, idle=QUERY_IDLE)
                ),
                chats=Lanes(
                    most, lambda: _http(settings, tls, direct, read=None, idle=CREATE_IDLE)
                ),
                others=_http(settings, tls, direct, read=None, idle=QUERY_IDLE),
                downloads=only_public_addresses(
                    _http(settings, tls, direct, read=DOWNLOAD_SILENCE, idle=QUERY_IDLE),
                    tls,
                    idle=QUERY_IDLE,
                ),
                configured_downloads=_http(
                    settings, tls, direct, read=DOWNLOAD_SILENCE, idle=QUERY_IDLE
                ),
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


@lru_cache(16)
def _is_here(url: str) -> bool:
    return urls.is_loopback(urlsplit(url).hostname or "")


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


@asynccontextmanager
async def download(
    settings: CometAPISettings, url: str, api_root: str
) -> AsyncGenerator[httpx.Response]:
    """Open an output for reading, without any key; on the background loop only.

    Each redirect is checked like the first URL, and there are at most five.

    Raises:
        OutputRefused: A URL or address that may not be fetched, or too many redirects.
        httpx.HTTPError: The host could not be reached, or was lost on the way.
    """
    for _ in range(MAX_REDIRECTS + 1):
        http = downloader(settings, url, api_root)
        # Packed, a file would cost more to check than it saves on the way.
        async with http.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
            if not response.has_redirect_location:
                yield response
                return
            url = str(response.url.join(response.headers["location"]))
    raise OutputRefused(f"{urls.redact(url)} redirects more than {MAX_REDIRECTS} times.")


class _NoCookies(CookieJar):
    """Keeps none, without a look at what is there to keep."""

    def extract_cookies(self, *_: object) -> None:
        """Let them pass."""


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
        cookies=_NoCookies(),
        mounts=dict.fromkeys(("http://", "https://", "all://")) if direct else None,
        follow_redirects=False,
    )
