"""What goes back to the client: whole answers, and answers that break off."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HTML = b"<!doctype html><html><head><title>CometAPI</title></head><body>CometAPI</body></html>"
_ZEROS = bytes(256 * 1024)


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer, and how far it gets.

    Attributes:
        status: The HTTP status; 0 means that not a byte is sent.
        body: What is sent.
        media_type: Its content type.
        headers: Further headers.
        padding: Zero bytes that follow the body.
        missing: Bytes that Content-Length promises and nobody sends.
        chunked: Send no Content-Length.
        end: Whether the answer ends well, is cut by closing the connection, or stands still.
    """

    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    padding: int = 0
    missing: int = 0
    chunked: bool = False
    end: Literal["whole", "close", "hang"] = "whole"


def json_reply(value: Any, status: int = 200, *headers: tuple[str, str]) -> Reply:
    """A JSON answer."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, body, headers=headers)


def html_reply(status: int = 200) -> Reply:
    """The page that the service answers on a wrong path, usually with status 200."""
    return Reply(status, HTML, "text/html; charset=utf-8")


def gateway_error(
    status: int, code: str, message: str, request_id: str, *headers: tuple[str, str]
) -> Reply:
    """An error in the service's own envelope."""
    error = {
        "message": f"{message} (request id: {request_id})",
        "type": "comet_api_error",
        "param": "",
        "code": code,
    }
    return json_reply({"error": error}, status, *headers)


def problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    """An error as Replicate words it (RFC 9457)."""
    reply = json_reply({"title": title, "detail": detail, "status": status, **more}, status)
    return Reply(status, reply.body, "application/problem+json")


def task_not_exist(status: int) -> Reply:
    """The answer to a query for an id that the service does not know (yet)."""
    value = {"code": "task_not_exist", "message": "task_not_exist", "data": None}
    return json_reply(value, status)


async def deliver(
    reply: Reply, request_id: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a reply over ASGI, as far as it goes."""
    if reply.status:
        headers = [("content-type", reply.media_type), ("x-request-id", request_id)]
        if not reply.chunked:
            length = len(reply.body) + reply.padding + reply.missing
            headers.append(("content-length", str(length)))
        raw = [(name.encode(), value.encode()) for name, value in (*headers, *reply.headers)]
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        whole = reply.end == "whole"
        more = bool(reply.padding) or not whole
        await send({"type": "http.response.body", "body": reply.body, "more_body": more})
        for start in range(0, reply.padding, len(_ZEROS)):
            zeros = _ZEROS[: reply.padding - start]
            more = not whole or start + len(zeros) < reply.padding
            await send({"type": "http.response.body", "body": zeros, "more_body": more})
    if reply.end == "close":
        connection(scope).close()
    if reply.end != "whole":
        # Returning with the answer unfinished would make uvicorn send a 500 of its own.
        while (await receive())["type"] != "http.disconnect":
            pass


def connection(scope: Scope) -> asyncio.Transport:
    """The TCP connection of a request. ASGI has no word for it: see `server.Protocol`."""
    transport: asyncio.Transport = scope["state"]["transport"]
    return transport
