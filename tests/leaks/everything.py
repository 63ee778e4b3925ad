"""Runs every process of the leak test, and collects every byte that they wrote or sent anywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx

from tests.leaks.api import Front, front
from tests.leaks.recorder import Recorder, recording
from tests.leaks.search import CANARY, MARK, REFUSED, files_below, finds, rows_of, search
from tests.processes import ROOT, wait_until
from tests.servers import Answer, Server, serve

KEYS = {"env": f"sk-env-{MARK}", "block": f"sk-blk-{MARK}", "inline": f"sk-inl-{MARK}"}
PATIENCE = 180


@dataclass
class Process:
    """A process of the test, with all that it wrote and sent to Prefect's server."""

    name: str
    folder: Path
    popen: subprocess.Popen[bytes]
    recorder: Recorder

    @property
    def seen(self) -> list[str]:
        found: list[str] = json.loads((self.folder / "work/seen.json").read_text())
        return found


@dataclass
class Happened:
    """Everything there is to search, by where it is; and what else there is to ask."""

    api: Front
    lure: Server
    processes: dict[str, Process] = field(default_factory=dict)
    places: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def _searched(self) -> dict[str, dict[str, dict[str, str]]]:
        return {place: search(content) for place, content in self.places.items()}

    def found(self, mark: str, *, but: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
        """Where a mark is, and how."""
        return {
            place: found[mark]
            for place, found in self._searched.items()
            if found[mark] and not (but and place.startswith(but))
        }


# --- the machinery ----------------------------------------------------------------------------


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def process(folder: Path, port: int, words: list[str], **variables: str) -> Iterator[Process]:
    """A process of its own, whose way to Prefect's server is recorded."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "COMETAPI_"))}
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir(parents=True)
    with recording(port) as recorder:
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "home"),
            "PREFECT_HOME": str(folder / "home/.prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{recorder.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "httpx,httpcore.http11,prefect_cometapi",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            **variables,
        }
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            popen = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder / "work",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            try:
                yield Process(folder.name, folder, popen, recorder)
            finally:
                if popen.poll() is None:
                    popen.terminate()
                    try:
                        popen.wait(20)
                    except subprocess.TimeoutExpired:
                        popen.kill()
                        popen.wait(20)


SETTINGS = {
    f"PREFECT_INTEGRATIONS_COMETAPI_{name}": value
    for name, value in {
        "CREATE_TIMEOUT": "5",
        "QUERY_TIMEOUT": "5",
        "RECONNECT_TIMEOUT": "0.3",
        "SUBMIT_TIMEOUT": "0.5",
        "DOWNLOAD_TIMEOUT": "5",
        "POLL_MIN": "0.1",
        "POLL_MAX": "0.3",
        "RETRY_AFTER_CAP": "0.2",
    }.items()
}


def run_everything(base: Path, stack: ExitStack) -> Happened:
    """A server, the blocks, and then the rest, two at a time: SQLite keeps more of them waiting."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # Of this process, nothing is recorded: it is what the others talk to.
    server = stack.enter_context(
        process(
            base / "server",
            port,
            ["-m", "prefect", "server", "start", "--port", str(port)],
            PREFECT_API_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{base}/server/prefect.db",
            PREFECT_LOGGING_SERVER_LEVEL="DEBUG",
            PREFECT_LOGGING_ROOT_LEVEL="INFO",
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_LOGGING_EXTRA_LOGGERS="",
        )
    )
    lure = stack.enter_context(serve(lambda _: Answer(200, b"not for you")))
    api = stack.enter_context(front(lure.url))
    happened = Happened(api, lure, {"server": server})
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/api"), "a server", PATIENCE)
    common = {"COMETAPI_BASE_URL": api.server.url, "LURE": lure.url, **SETTINGS}
    env = {"COMETAPI_KEY": KEYS["env"]}
    block = {"PREFECT_INTEGRATIONS_COMETAPI_LEDGER": "block://local-file-system/ledger"}

    def start(name: str, *words: str, **variables: str) -> Process:
        module = ["-m", f"tests.leaks.{words[0]}", *words[1:]]
        started = stack.enter_context(
            process(base / name, port, module, RUN_NAME=name, **common, **variables)
        )
        happened.processes[name] = started
        return started

    def finish(*names: str) -> None:
        for name in names:
            happened.processes[name].popen.wait(PATIENCE)

    refused = f"sk-ref-{REFUSED}"
    saved = {"BLOCK_KEY": KEYS["block"], "INLINE_KEY": KEYS["inline"], "REFUSED_KEY": refused}
    start("setup", "blocks", **saved)
    finish("setup")
    start("env", "flows", "env", "gallery", **env)
    start("block", "flows", "block", "gallery", **block)
    finish("env", "block")
    start("env-stopped", "flows", "env", "stopped", PYTHONASYNCIODEBUG="1", **env)
    start("block-stopped", "flows", "block", "stopped", PYTHONASYNCIODEBUG="1", **block)
    for name in ("env", "block"):
        wait_until(
            partial(api.polled.__contains__, f"prediction.endless {name}"), "a poll", PATIENCE
        )
        happened.processes[f"{name}-stopped"].popen.send_signal(signal.SIGINT)
    finish("env-stopped", "block-stopped")
    start("rejected", "rejected", REFUSED_KEY=refused)
    start("on-purpose", "on_purpose", COMETAPI_KEY=f"sk-cnr-{CANARY}")
    finish("rejected", "on-purpose")
    shown = read_from(f"http://127.0.0.1:{port}/api")
    happened.places = {**shown, **everything(happened)}
    return happened


ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "events": ({"filter": {}}, "events/filter"),
    "artifacts": ({}, "artifacts/filter"),
    "logs": ({}, "logs/filter"),
    "flow runs": ({}, "flow_runs/filter"),
    "task runs": ({}, "task_runs/filter"),
    "variables": ({}, "variables/filter"),
    "deployments": ({}, "deployments/filter"),
    "blocks": ({}, "block_documents/filter"),
}


def read_from(url: str) -> dict[str, bytes]:
    """What people are shown, page by page, once the last event has arrived."""

    def read(name: str) -> bytes:
        body, route = ROUTES[name]
        pages: list[bytes] = []
        for offset in range(0, 20_000, 200):
            sent = body if name == "events" else {**body, "limit": 200, "offset": offset}
            reply = httpx.post(f"{url}/{route}", json=sent, trust_env=False, timeout=30)
            assert reply.status_code == 200, reply.text
            pages.append(reply.content)
            following = reply.json().get("next_page") if name == "events" else None
            while following:
                reply = httpx.get(following, trust_env=False, timeout=30)
                pages.append(reply.content)
                following = reply.json()["next_page"]
            if name == "events" or len(reply.json()) < 200:
                break
        return b"\n".join(pages)

    wait_until(lambda: finds(read("events"), CANARY), "the events", 30)
    return {f"shown by Prefect: {name}": read(name) for name in ROUTES}


def everything(happened: Happened) -> dict[str, bytes]:
    """All bytes that there are, by place."""
    places = {"sent to the lure": bytes(happened.lure.received)}
    for each in happened.processes.values():
        for name, content in files_below(each.folder).items():
            places[f"file of {each.name}: {name.removeprefix(f'{each.folder}/')}"] = content
        for number, sent in enumerate(each.recorder.sent):
            kind = "frames" if "GET " in sent.line and sent.body else "request"
            place = f"{kind} of {each.name}: {sent.line} ({number})"
            places[place] = sent.head + b"\r\n\r\n" + sent.body
    database = happened.processes["server"].folder / "prefect.db"
    for table, rows in rows_of(database).items():
        places[f"table {table}"] = rows
    for name in ("env", "env-stopped", "on-purpose"):  # the others load blocks with keys
        places[f"sent back to {name}"] = happened.processes[name].recorder.received
    for number, request in enumerate(happened.api.server.requests):
        kind = "file" if request.target.startswith("/files") else "API"
        place = f"{kind} request {number}: {request.method} {request.target.partition('?')[0]}"
        head, _, body = request.raw.partition(b"\r\n\r\n")
        if kind == "API":
            lines = head.split(b"\r\n")
            lines = [line for line in lines if not line.lower().startswith(b"authorization:")]
            head = b"\r\n".join(lines)
        places[place] = head + b"\r\n\r\n" + body
    return places
