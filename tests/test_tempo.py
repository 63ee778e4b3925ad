"""Who waits learns from the others of its model, in this process and in those before it; and what
is remembered never fails or delays a prediction.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.variables import Variable

from prefect_cometapi import (
    CometAPICredentials,
    Prediction,
    PredictionTimeout,
    lifecycle,
    remembered,
    tempo,
)
from prefect_cometapi.portal import background_loop
from prefect_cometapi.settings import CometAPISettings
from tests.processes import ran, wait_until
from tests.servers import (
    KEY,
    MODEL,
    SETTING,
    Answer,
    Request,
    Server,
    client_for,
    closed_port,
    configure,
    prediction,
    reply,
    serve,
)

#: Not on this machine; a proxy leads there.
REMOTE = "http://api.comet.test"


class Service:
    """Predictions that all take the same time, and how often each was polled."""

    def __init__(self, run_time: float, times: bool = True, model: str = MODEL) -> None:
        self.run_time, self.times, self.model = run_time, times, model
        self.created: dict[str, datetime] = {}
        self.polls = Counter[str]()

    def __call__(self, request: Request) -> Answer:
        now = datetime.now(UTC)
        if request.method == "POST":
            made = f"p{len(self.created)}-{uuid4()}"
            self.created[made] = now
            return self.shown(made, now)
        made = urlsplit(request.target).path.rpartition("/")[2]
        if request.headers["authorization"] != f"Bearer {KEY}" or made not in self.created:
            return Answer(404)
        self.polls[made] += 1
        return self.shown(made, now)

    def shown(self, made: str, now: datetime) -> Answer:
        created = self.created[made]
        end = created + timedelta(seconds=self.run_time)
        more: dict[str, object] = {"status": "processing"}
        if now >= end:
            more = {"status": "succeeded", "output": "text"}
            if self.times:
                more["completed_at"] = end.isoformat()
        more |= {"id": made, "model": self.model, "created_at": created.isoformat()}
        return reply(prediction(**more), 201)


@contextmanager
def running(service: Service) -> Iterator[Server]:
    with serve(service) as server:
        yield server


async def waited(url: str, *, timeout: float = 30.0, **known: Any) -> Prediction:
    client = CometAPICredentials(api_key=KEY, base_url=url, allow_insecure=True).get_client()
    made = await client.acreate_prediction(MODEL, {"prompt": "A boat"})
    return await lifecycle.wait(client, made.model_copy(update=known), timeout=timeout)


def everybody() -> tempo._Everybody:
    return tempo._everybody[background_loop()]


@pytest.mark.parametrize("times", [True, False], ids=["told-by-the-service", "seen-by-polls"])
async def test_the_next_ones_take_fewer_polls(times: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.02)
    service = Service(0.8, times)
    with running(service) as server:
        for _ in range(4):
            await waited(server.url)
    first, *_, last = service.polls.values()
    assert first >= 8
    assert last <= 0.7 * first


async def test_who_waits_already_learns_from_who_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that was planned with nothing known is planned anew."""
    configure(monkeypatch, poll_min=2)  # so the first poll of an unknown model comes after 8 s
    with running(Service(0.0)) as server:
        begun = time.monotonic()
        late = asyncio.create_task(waited(server.url))
        await asyncio.sleep(0.5)
        long_ago = datetime.now(UTC) - timedelta(seconds=10)
        await waited(server.url, submitted_at=long_ago)  # which is asked for at once
        await late
        assert time.monotonic() - begun < 6


async def test_nobody_is_left_behind_who_waits_no_more() -> None:
    with running(Service(1000.0)) as server:
        before = everybody().number if background_loop() in tempo._everybody else 0
        waits = [asyncio.create_task(waited(server.url)) for _ in range(3)]
        waits.append(asyncio.create_task(waited(server.url, timeout=0.3)))
        with pytest.raises(PredictionTimeout):
            await waits.pop()
        assert everybody().number == before + 3
        for each in waits:
            each.cancel()
        assert await asyncio.gather(*waits, return_exceptions=True)
        assert everybody().number == before
        root = client_for(server.url).api_root
        assert [t for key, t in everybody().tempos.items() if key[0] == root and t._waits] == []


async def test_the_deadline_is_kept_where_the_next_poll_would_be_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, poll_min=50)
    service = Service(1000.0)
    with running(service) as server:
        begun = time.monotonic()
        with pytest.raises(PredictionTimeout):
            await waited(server.url, timeout=0.5)
        assert time.monotonic() - begun < 20
    assert list(service.polls.values()) == [1], "at least one, also where it is early"


async def test_of_whom_nobody_knows_the_age_is_asked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, poll_min=50)
    with running(Service(0.0)) as server:
        client = client_for(server.url)
        made = await client.acreate_prediction(MODEL, {"prompt": "A boat"})
        unknown = Prediction(id=made.id, model=MODEL, status="starting", api_root=client.api_root)
        begun = time.monotonic()
        assert (await lifecycle.wait(client, unknown)).finished
        assert time.monotonic() - begun < 20


# --- remembered -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "record_key", "setting", "expected"),
    [
        pytest.param("https://api.example", "k", True, True, id="in-the-ledger"),
        pytest.param("https://api.example", None, True, False, id="perhaps-no-server"),
        pytest.param("https://api.example", "k", False, False, id="turned-off"),
        pytest.param("http://127.0.0.1:8123", "k", True, False, id="the-simulator"),
        pytest.param("http://localhost:8123", "k", True, False, id="the-simulator-by-name"),
    ],
)
def test_what_is_remembered(
    root: str, record_key: str | None, setting: bool, expected: bool
) -> None:
    of = Prediction(id="p", model=MODEL, status="starting", api_root=root, record_key=record_key)
    assert tempo.remembers(CometAPISettings(remember_pace=setting), of) is expected


def test_names_are_what_prefect_takes_and_one_for_each_model_of_each_service() -> None:
    roots = ("https://a.example", "https://b.example")
    models = ("owner/name", "owner/Name", "owner-name", "größe/日本", "x" * 300)
    names = [remembered.name_of(root, model) for root in roots for model in models]
    assert len(set(names)) == len(names)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert len(name) < 100


def test_what_is_written_is_short_and_read_again() -> None:
    value = remembered.as_json("https://api.example", MODEL, [1234.5678, 0.012345, 9.0] * 33)
    assert len(json.dumps(value)) < 2000
    assert remembered.from_json(value)[:3] == [1230.0, 0.0123, 9.0]
    assert remembered.from_json(json.dumps(value))[:3] == [1230.0, 0.0123, 9.0]


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "{", 5, [], {}, {"run_times": None}, {"run_times": "5"}),
        *({"run_times": [odd]} for odd in (-1, math.nan, math.inf, 1e9, "5", None, True, [5])),
    ],
    ids=repr,
)
def test_what_somebody_else_wrote_there_is_not_believed(value: object) -> None:
    assert remembered.from_json(value) == []


RUN = """
import asyncio, json, sys, time
from prefect import flow
from prefect.variables import Variable
from prefect_cometapi import CometAPICredentials, agenerate

model, number, folder, wait_for = map(json.loads, sys.argv[1:])

@flow
async def boats():
    credentials = CometAPICredentials.from_env(allow_insecure=True)
    inputs = [{"prompt": f"boat {i}"} for i in range(number)]
    await asyncio.gather(*(agenerate(credentials, model, each, folder) for each in inputs))

asyncio.run(boats())
deadline = time.monotonic() + 60
while wait_for and Variable.get(wait_for) is None and time.monotonic() < deadline:
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_the_next_run_of_a_flow_takes_fewer_polls(
    prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    model = f"{MODEL}-{uuid4().hex[:8]}"
    service = Service(3.0, model=model)
    name = remembered.name_of(REMOTE, model)
    with running(service) as server:
        environment = prefect_environment | {
            "COMETAPI_KEY": KEY,
            "COMETAPI_BASE_URL": REMOTE,
            "HTTP_PROXY": server.url,
            "NO_PROXY": "127.0.0.1",
        }
        ran(RUN, model, 4, str(tmp_path), name, env=environment)
        first = list(service.polls.values())
        found = Variable.get(name)
        assert isinstance(found, dict)
        assert found["run_times"] == pytest.approx([3.0] * 4, abs=0.1)
        ran(RUN, model, 1, str(tmp_path), "", env=environment)
        *_, second = service.polls.values()
        assert second < sum(first) / len(first) * 0.7

        off = environment | {SETTING + "REMEMBER_PACE": "false"}
        ran(RUN, model, 1, str(tmp_path / "off"), "", env=off)
        *_, third = service.polls.values()
        assert third > second


def away(request: Request) -> Answer:
    return Answer(500)


def silent(request: Request) -> Answer:
    return Answer(end="hang")


def strange(request: Request) -> Answer:
    return reply({"name": "x", "value": {"run_times": "none"}, "tags": []})


@pytest.mark.parametrize(
    "handler", [away, silent, strange, None], ids=["away", "silent", "strange", "refusing"]
)
async def test_a_server_that_does_not_tell_fails_and_delays_nothing(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, poll_min=0.05)
    monkeypatch.setattr(remembered, "READ_TIMEOUT", 20.0)  # busy machines are slow to ask
    service = Service(0.5)
    with running(service) as server, serve(handler or away) as prefect:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        port = prefect.port if handler else closed_port()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            root = f"http://{uuid4().hex}.comet.test"
            done = await waited(root, record_key="cometapi-x", scope="x")
            assert done.finished
            if handler:  # it was asked, sooner or later
                await asyncio.to_thread(wait_until, lambda: prefect.requests)


async def test_what_is_learned_is_written_when_the_last_has_left(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, poll_min=0.05)
    monkeypatch.setattr(remembered, "WRITE_TIMEOUT", 90.0)  # SQLite may stand still for a minute
    root = f"http://{uuid4().hex}.comet.test"
    with running(Service(0.5)) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await asyncio.gather(*(waited(root, record_key="cometapi-x", scope="x") for _ in range(3)))
        value: Any = None
        for _ in range(2000):
            if value := await Variable.aget(remembered.name_of(root, MODEL)):
                break
            await asyncio.sleep(0.05)
    assert (value["api_root"], value["model"]) == (root, MODEL)
    assert value["run_times"] == pytest.approx([0.5] * 3, abs=0.1)
