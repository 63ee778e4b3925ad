"""What the same lost replies cost with other clients, each in an environment of its own.

They are used as they come: with their default time-outs and retries, one call a prediction.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import venv
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.prefect_server import ROOT, clean_environment
from benchmarks.proxy import Message, Watcher, proxy
from benchmarks.tables import markdown
from prefect_cometapi import simulator

#: The client, what it is installed as, and the script that calls it.
CLIENTS = (
    ("replicate 2.0.0b4", "replicate==2.0.0b4", "peer_replicate.py"),
    ("fal-client", "fal-client", "peer_fal.py"),
    ("prefect-cometapi", "", "peer_ours.py"),
)
_LOSSES = ("lost", "hang", "cut-off", *(f"{status}-accepted" for status in (500, 502, 503, 504)))
#: A share of the replies that is lost, and each loss alone for every reply: name, rates, how many.
SCENARIOS: dict[str, tuple[dict[str, float], int]] = {
    "one reply in five is lost": ({f"create.{loss}": 0.2 / len(_LOSSES) for loss in _LOSSES}, 200),
    **{f"each reply: {loss}": ({f"create.{loss}": 1.0}, 10) for loss in _LOSSES},
    "each reply: 504, nginx's page": ({"create.504-accepted": 1.0}, 10),
}
_NGINX = (
    b"<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n"
    b"<center><h1>504 Gateway Time-out</h1></center>\r\n<hr><center>nginx</center>\r\n"
    b"</body>\r\n</html>\r\n"
)
_NOTE = """\
Each create is carried out and charged for, and then its reply is lost: the connection closes
without a byte (lost) or within the body (cut-off), nothing comes until the client's own time-out
(hang), or an error page comes instead. "One in five" draws from all seven with the same seed for
each client. Default settings, one call a prediction, nothing retried by the caller.
replicate talks to the simulator as it is. fal-client speaks another protocol: a front translates
the path, the body and the key of its submit route, and the reply, and passes losses on as they
are. It sends again after a gateway's page only where that says "nginx", as its own ingress does.
prefect-cometapi is `acreate_prediction` in a flow."""


@dataclass
class Cell:
    """One client in one scenario."""

    client: str
    scenario: str
    predictions: int
    service: simulator.Simulator
    url: str = ""

    def row(self, told: dict[str, Any]) -> dict[str, Any]:
        """What it cost."""
        each = Counter(str(seen.input["prompt"]) for seen in self.service.predictions.values())
        return {
            "client": self.client,
            "replies": self.scenario,
            "predictions": self.predictions,
            "creates": self.service.counts.creates,
            "charged": self.service.counts.charged,
            "most for one": max(each.values(), default=0),
            **told,
        }


class Front(Watcher):
    """Translates fal-client's submit route, or puts nginx's page where a gateway's was empty."""

    def __init__(self, *, fal: bool, nginx: bool) -> None:
        self.fal, self.nginx = fal, nginx

    async def request(self, request: Message) -> Message:
        """The create as the simulator knows it."""
        if not self.fal:
            return request
        body = json.dumps({"input": request.json}).encode()
        head = (
            f"POST /replicate/v1/models{request.path}/predictions HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer sim-key\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return Message(head.split("\r\n")[0], {}, head.encode(), body)

    async def response(self, request: Message, response: Message) -> bytes:
        """The reply as fal-client knows it, where it came through."""
        head, body = response.raw_head, response.body
        if self.nginx and response.status == 504:
            head, body = b"HTTP/1.1 504 Gateway Time-out\r\ncontent-type: text/html\r\n", _NGINX
        elif self.fal and response.status == 201 and response.whole:
            made, root = response.json, f"http://localhost{request.path}/requests"
            links = {f"{name}_url": root for name in ("response", "status", "cancel")}
            body = json.dumps({"request_id": made["id"], **links}).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        else:
            return response.raw
        return head + b"content-length: %d\r\n\r\n" % len(body) + body


class Peers:
    """Runs all clients in all scenarios at once, in a thread: most of it is waiting."""

    def __init__(self, folder: Path, prefect_port: int) -> None:
        self._folder, self._prefect_port = folder, prefect_port
        self._rows: list[dict[str, Any]] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def rows(self) -> list[dict[str, Any]]:
        """Waits for the measurements."""
        self._thread.join()
        if self._error:
            raise self._error
        return self._rows

    def _work(self) -> None:
        try:
            asyncio.run(self._all())
        except Exception as error:
            self._error = error

    async def _all(self) -> None:
        async with AsyncExitStack() as stack:
            for rows in await asyncio.gather(*(self._client(stack, *each) for each in CLIENTS)):
                self._rows += rows

    async def _client(
        self, stack: AsyncExitStack, client: str, wanted: str, script: str
    ) -> list[dict[str, Any]]:
        """All scenarios of one client, in one process of its own."""
        cells = []
        for scenario, (rates, predictions) in SCENARIOS.items():
            service = stack.enter_context(simulator.run(seed=3, run_time=0.05, faults=rates))
            cell = Cell(client, scenario, predictions, service)
            front = Front(fal="fal" in script, nginx="nginx" in scenario)
            port = int(service.url.rpartition(":")[2])
            cell.url = f"http://127.0.0.1:{await stack.enter_async_context(proxy(port, front))}"
            cells.append(cell)
        python = Path(sys.executable)
        if wanted:
            python = await asyncio.to_thread(self._environment, script, wanted)
        order, report = self._folder / f"{script}.order.json", self._folder / f"{script}.json"
        asked = {cell.scenario: {"url": cell.url, "many": cell.predictions} for cell in cells}
        order.write_text(json.dumps(asked))
        await self._run(script, python, str(ROOT / "benchmarks" / script), str(order), str(report))
        told = json.loads(report.read_text())
        name = f"{client} {told['version']}" if told["version"] not in client else client
        return [{**cell.row(told[cell.scenario]), "client": name} for cell in cells]

    def _environment(self, script: str, wanted: str) -> Path:
        """The Python of an environment with a client in it."""
        folder = self._folder / f"environment-{script.removesuffix('.py')}"
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
            asyncio.run(self._run(script, python, "-m", "pip", "-q", "install", wanted))
        return python

    async def _run(self, name: str, python: Path, *arguments: str) -> None:
        environment = clean_environment(
            self._folder / f"home-{name}",
            PREFECT_API_URL=f"http://127.0.0.1:{self._prefect_port}/api",
            PREFECT_LOGGING_TO_API_ENABLED="false",
            PYTHONPATH=str(ROOT),
        )
        with (self._folder / f"{name}.log").open("a") as log:
            process = await asyncio.create_subprocess_exec(
                str(python), *arguments, env=environment, stdout=log, stderr=log
            )
            if await process.wait():
                raise RuntimeError(f"{name} failed; see {log.name}.")

    @staticmethod
    def table(rows: list[dict[str, Any]]) -> str:
        """Charges by client and scenario."""
        head = ["replies", "client", "predictions", "charged", "charged a prediction"]
        head += ["most for one", "the caller got"]
        order = list(SCENARIOS)
        body: list[list[object]] = [
            [
                *(row["replies"], row["client"], row["predictions"], row["charged"]),
                f"{row['charged'] / row['predictions']:.2f}",
                row["most for one"],
                ", ".join(f"{many} {name}" for name, many in sorted(row["got"].items())),
            ]
            for row in sorted(rows, key=lambda row: order.index(row["replies"]))
        ]
        return f"{markdown(head, body)}\n\n{_NOTE}"
