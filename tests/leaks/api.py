"""What stands in front of the simulator: it keeps every byte, signs URLs, and repeats keys."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlsplit

import httpx

from prefect_cometapi import simulator
from prefect_cometapi.simulator import FAULTS, Simulator
from tests.leaks.search import SIGNATURE
from tests.servers import Answer, Request, Server, serve

_CREATE = re.compile(r"/replicate/v1/models/.+/predictions")
_PREDICTION = re.compile(r"/replicate/v1/predictions/(\w+)")
_FILE = re.compile(rb'(/files/\w+/out-\d+\.\w+)"')


@dataclass
class Front:
    """The API as its users see it. The first word of a prompt says what goes wrong."""

    service: Simulator
    server: Server
    #: The prompts of predictions by their id.
    prompts: dict[str, str] = field(default_factory=dict)
    #: The prompts of predictions that were asked for.
    polled: set[str] = field(default_factory=set)
    #: The prompts of predictions that were canceled.
    canceled: set[str] = field(default_factory=set)
    _spoilt: set[str] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, request: Request) -> Answer:
        """Answer one request, with what its prompt asks for."""
        path = urlsplit(request.target).path
        found = _PREDICTION.match(path)
        case, operation = "", "other"
        if _CREATE.fullmatch(path):
            prompt, operation = json.loads(request.body)["input"]["prompt"], "create"
            case = prompt.split()[0]
        elif found:
            prompt = self.prompts.get(found[1], "")
            operation = "cancel" if path.endswith("/cancel") else "query"
            (self.canceled if operation == "cancel" else self.polled).add(prompt)
            case = prompt.split()[0] if prompt else ""
            if f"{operation} {found[1]}" in self._spoilt:
                case = ""  # once is enough
            self._spoilt.add(f"{operation} {found[1]}")
        elif path == "/v1/chat/completions":
            words = json.loads(request.body)["messages"][-1]["content"]
            case, operation = words.partition("Brief: ")[2].split()[0], "chat"
        elif path.startswith("/files/"):
            case, operation = parse_qs(urlsplit(request.target).query).get("case", [""])[0], "file"
        if case.startswith(f"{operation}-repeats-"):
            return repeating(request, case.rpartition("-")[2])
        async with self._turn:
            fault = FAULTS.get(case)
            concerned = fault and (operation, fault.operation)
            if fault and concerned in ((operation, operation), ("create", "prediction")):
                self.service.script(fault.operation, [fault.short])
            answer = await self._forwarded(request, operation)
        if operation == "create" and answer.status == 201 and answer.end == "keep":
            self.prompts[json.loads(answer.body)["id"]] = prompt
        return answer

    async def _forwarded(self, request: Request, operation: str) -> Answer:
        target = request.target
        if operation == "file" and "case=" in target:
            target = urlsplit(target).path
        headers = {k: v for k, v in request.headers.items() if k in ("authorization", "host")}
        body, response = b"", None
        try:
            async with (
                httpx.AsyncClient(trust_env=False, verify=False) as client,  # noqa: S501
                client.stream(
                    request.method,
                    self.service.url + target,
                    headers=headers,
                    content=request.body,
                ) as response,
            ):
                async for chunk in response.aiter_raw():
                    body += chunk
        except httpx.RemoteProtocolError:
            if response is None:
                return Answer(end="drop")
        assert response is not None
        kept = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "connection", "transfer-encoding")
        }
        declared = int(response.headers.get("content-length", len(body)))
        if "location" in kept:
            kept["location"] += f"{'&' if '?' in kept['location'] else '?'}signature={SIGNATURE}"
        whole = len(body) == declared
        if operation != "file" and whole:
            body, declared = self._signed(body), -1
        return Answer(
            response.status_code, body, kept, "keep" if whole else "reset", max(declared, len(body))
        )

    def _signed(self, body: bytes) -> bytes:
        try:
            case = json.loads(body)["input"]["prompt"].split()[0]
        except (ValueError, KeyError, TypeError):
            return body
        query = f"case={case}&X-Amz-Signature={SIGNATURE}".encode()
        return _FILE.sub(rb'\1?%s"' % query, body)


def repeating(request: Request, status: str) -> Answer:
    """A reply that repeats the key that came, wherever a gateway might."""
    sent = request.headers["authorization"]
    key = sent.removeprefix("Bearer ")
    value = {
        "error": {"message": f"invalid token: {sent}", "code": key, "param": quote(key, safe="")},
        "detail": f"No {key} here.",
        "id": None,
    }
    headers = {"x-request-id": key, "set-cookie": f"key={key}"}
    if status == "html":
        page = f"<html><title>{key}</title>{sent}</html>".encode()
        return Answer(500, page, {"content-type": "text/html", **headers})
    body = json.dumps(value).replace("/", "\\/").encode()  # as PHP writes it
    return Answer(int(status), body, {"content-type": "application/json", **headers})


@contextmanager
def front(lure_url: str) -> Iterator[Front]:
    """A simulator whose redirects lead to `lure_url`, and what stands in front of it."""
    made: list[Front] = []
    with (
        simulator.run(run_time=0.05, retry_after=0.1, oversize=1000, lure_url=lure_url) as service,
        serve(lambda request: made[0].answer(request)) as server,
    ):
        made.append(Front(service, server))
        yield made[0]
