"""One request on its way: sent once, and its reply read whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from prefect_cometapi.errors import NeverDelivered, UnknownOutcome
from prefect_cometapi.failures import Reply
from prefect_cometapi.urls import CHAT_PATH

#: Largest API reply that is read, in bytes. An output may come inside it as text or `data:` URI.
MAX_REPLY_BYTES = 64 * 1024 * 1024
#: How a request fails that was not sent.
_NO_WAY = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)


async def send(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    headers: httpx.Headers,
    seconds: float,
    content: bytes | None = None,
) -> Reply:
    """Send one request, and read the whole reply within so many seconds.

    Args:
        http: Sends it.
        method: `GET` or `POST`.
        url: Where to.
        headers: All of them, the key's included: whoever makes them keeps it out of plain
            variables, which tracebacks with local variables would show.
        seconds: For all of it.
        content: The body of what costs money. Only of that it has to be known for certain whether
            it was sent: asking for the same twice is free.

    Raises:
        NeverDelivered: Nothing was sent.
        UnknownOutcome: It was sent, and no usable reply came.
    """
    watch = _Watch()
    extensions: dict[str, Any] = {}
    if content is not None:
        headers = httpx.Headers(headers)
        headers["content-type"] = "application/json"
        extensions["trace"] = watch
    try:
        async with asyncio.timeout(seconds):
            # Made here: merging the defaults of the client into each costs nearly twice as much.
            request = httpx.Request(
                method, url, headers=headers, content=content, extensions=extensions
            )
            response = await http.send(request, stream=True)
            try:
                body = await _read(response)
            finally:
                await response.aclose()
    except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
        sent = not isinstance(error, _NO_WAY) if content is None else watch.sent
        reason = f"{type(error).__name__}: {error}".removesuffix(": ").rstrip(".")
        if not sent:
            raise NeverDelivered(
                f"{_api_root(url)} could not be reached, so nothing was sent ({reason}). Check the "
                "network, the proxy settings and the base URL."
            ) from None
        raise UnknownOutcome(
            f"The request was sent to {_api_root(url)}, but no usable reply came ({reason})."
        ) from None
    # Of its items: the Headers themselves look each name up anew.
    return Reply(response.status_code, dict(response.headers.items()), body)


class _Watch:
    """Sees whether a request was sent."""

    def __init__(self) -> None:
        self.sent = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "http11.send_request_headers.started":
            # A CONNECT is for the proxy.
            self.sent = self.sent or info["request"].method != b"CONNECT"


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise httpx.StreamError(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
    return bytes(body)


def _api_root(url: str) -> str:
    return url.partition("/replicate/v1/")[0].removesuffix(CHAT_PATH)
