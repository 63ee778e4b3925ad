"""Processes that want the same at the same moment pay for it once, and end with the same."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableUpdate
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_cometapi import operations, portal, simulator
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.records import open_ledger
from prefect_cometapi.simulator import Simulator
from tests.homes import LEDGER
from tests.processes import ROOT, answers, ran, started, wait_until
from tests.servers import ID, MODEL, Answer, Request, prediction, reply, serve

pytestmark = pytest.mark.slow


#: Some racers in processes of their own, which all start when the last of them is ready.
RACERS = """
import json, os, sys

from prefect_cometapi import CometAPICredentials, portal
from prefect_cometapi.observer import Observer
from prefect_cometapi.orders import Order
from prefect_cometapi.submission import submit

racers, order = map(json.loads, sys.argv[1:])

def race():
    try:
        client = CometAPICredentials.from_env().get_client()
        return {"id": portal.call(submit, client, Order(**order), observer=Observer()).id}
    except Exception as error:
        return {"error": type(error).__name__, "says": str(error)}

waiting, starter = os.pipe()
children = []
for _ in range(racers):
    if not (child := os.fork()):
        os.close(starter)
        os.read(waiting, 1)
        os.write(1, (json.dumps(race()) + "\\n").encode())
        os._exit(0)
    children.append(child)
os.close(starter)
for child in children:
    os.waitpid(child, 0)
"""


EVERYWHERE = [
    *(("sqlite", "server"), ("sqlite", "local"), ("sqlite", "remote")),
    *(("postgres", "server"), ("postgres", "local")),
]


@pytest.fixture(params=[("sqlite", "local"), ("postgres", "server")], ids="-".join)
def ledger(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The environment for processes on a Prefect server, which is this process' as well, with a
    home for the ledger."""
    database, home = request.param
    server = "prefect_environment" if database == "sqlite" else "postgres_environment"
    environment = dict(request.getfixturevalue(server))
    name, folder = f"racers-{uuid4().hex[:12]}", tmp_path / "ledger"
    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        if home == "local":
            LocalFileSystem(basepath=str(folder)).save(name)
            environment[LEDGER] = f"block://local-file-system/{name}"
        elif home == "remote":
            monkeypatch.chdir(tmp_path)  # all that fsspec's local files can be relative to
            RemoteFileSystem(basepath="local://ledger", settings={"auto_mkdir": True}).save(name)
            environment[LEDGER] = f"block://remote-file-system/{name}"
        yield environment


def way_to(url: str, **others: str) -> dict[str, str]:
    return {"COMETAPI_BASE_URL": url, "COMETAPI_KEY": "sk-of-a-racer", **others}


def order(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": {"prompt": "A boat"}, "scope": str(tmp_path)[-100:], **options}


def records(environment: dict[str, str], scope: str) -> list[Record | None]:
    home = open_ledger(environment.get(LEDGER, "prefect-server"))
    found = portal.call(home.records, scope).values()
    return sorted(found, key=lambda record: record.attempt if record else 0)


@pytest.mark.parametrize("racers", [2, 8])
@pytest.mark.parametrize("ledger", EVERYWHERE, ids="-".join, indirect=True)
def test_all_end_with_the_same(
    racers: int, ledger: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    ids = ran(
        RACERS, racers, wanted := order(tmp_path), env=ledger | way_to(cometapi_simulator.url)
    )
    assert len(ids) == racers
    assert ids == [ids[0]] * racers, ids
    assert cometapi_simulator.counts.creates == 1
    assert list(cometapi_simulator.predictions) == [ids[0]["id"]]
    [record] = records(ledger, wanted["scope"])
    assert record is not None
    assert record.prediction_id == ids[0]["id"]


def test_a_service_that_answers_late_is_waited_for(ledger: dict[str, str], tmp_path: Path) -> None:
    async def late(request: Request) -> Answer:
        if request.method == "POST":
            await asyncio.sleep(3)
        return reply(prediction(status="processing"))

    with serve(late) as server:
        ids = ran(RACERS, 4, order(tmp_path), env=ledger | way_to(server.url))
        assert ids == [{"id": ID}] * 4
        assert len(server.of("POST")) == 1


def test_what_was_lost_is_in_doubt_for_all(
    ledger: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("create", ["lost"])
    ends = ran(RACERS, 4, order(tmp_path), env=ledger | way_to(cometapi_simulator.url))
    assert [end.get("error") for end in ends] == ["SubmissionInDoubt"] * 4, ends
    assert cometapi_simulator.counts.creates == 1


def test_all_may_resubmit_and_it_is_sent_once_more(
    ledger: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("create", ["lost"])
    again = order(tmp_path, on_in_doubt="resubmit")
    ids = ran(RACERS, 4, again, env=ledger | way_to(cometapi_simulator.url))
    assert ids == [ids[0]] * 4, ids
    assert cometapi_simulator.counts.creates == 2
    first, second = records(ledger, again["scope"])
    assert first is not None
    assert first.outcome is Outcome.RESUBMITTED
    assert second is not None
    assert second.prediction_id == ids[0]["id"]


def test_what_was_refused_is_sent_by_the_next(
    ledger: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("create", ["422"])
    ends = ran(RACERS, 4, order(tmp_path), env=ledger | way_to(cometapi_simulator.url))
    (refused,) = [end for end in ends if "error" in end]
    assert refused["error"] == "InputRejected"
    assert len({end["id"] for end in ends if "id" in end}) == 1
    assert cometapi_simulator.counts.charged == 1


# --- killed and cut off -----------------------------------------------------------------------


@contextmanager
def unreachable() -> Iterator[int]:
    """A port to which connections are begun and never made: its line is full."""
    with socket.socket() as listener, ExitStack() as line:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = line.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_killed_between_the_claim_and_the_post(
    ledger: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order(tmp_path)
    with unreachable() as port:
        env = ledger | way_to(f"http://127.0.0.1:{port}")
        with started(RACERS, 1, wanted, env=env) as winner:
            wait_until(lambda: records(ledger, wanted["scope"]), "a claim")
            ran(KILL_CHILDREN, winner.pid, env=ledger)
    with simulator.run(port=port, run_time=0.05) as service:
        with started(RACERS, 2, wanted, env=env) as others:
            wait_until(lambda: others.poll() is not None or grow_old(wanted["scope"]), "patience")
            ends = answers(others)
        assert [end.get("error") for end in ends] == ["SubmissionInDoubt"] * 2, ends
        assert service.counts.creates == 0
        # A person looks into the dashboard, and finds nothing there.
        monkeypatch.setenv(LEDGER, env.get(LEDGER, "prefect-server"))
        assert operations.resubmit_predictions(scope=wanted["scope"]).done
        ids = ran(RACERS, 2, wanted, env=env)
        assert ids == [ids[0]] * 2, ids
        assert service.counts.creates == 1


KILL_CHILDREN = """
import os, signal, sys
from pathlib import Path

parent = int(sys.argv[1])
children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
assert children
for child in map(int, children):
    os.kill(child, signal.SIGKILL)
"""


def grow_old(scope: str) -> bool:
    """Let the claims of a scope look as if they were made an hour ago."""
    home = open_ledger("prefect-server")
    for key, record in portal.call(home.records, scope).items():
        assert record is not None
        old = record.model_copy(update={"sent_at": datetime.now(UTC) - timedelta(hours=1)})
        with get_client(sync_client=True) as client:
            client.update_variable(VariableUpdate(name=key, value=old.as_json()))
    return True


@pytest.mark.parametrize(
    ("racers", "answers_lost"),
    [
        pytest.param(2, 1, id="once"),
        pytest.param(1, 1000, id="each-time", marks=pytest.mark.long),
    ],
)
def test_the_answer_to_a_claim_is_lost(
    racers: int,
    answers_lost: int,
    ledger: dict[str, str],
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    origin = ledger["PREFECT_API_URL"].removesuffix("/api")
    lost = 0

    async def forward(request: Request) -> Answer:
        nonlocal lost
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.request(
                request.method,
                origin + request.target,
                content=request.body,
                headers={"content-type": request.headers.get("content-type", "application/json")},
            )
        if (request.method, request.target) == ("POST", "/api/variables/") and lost < answers_lost:
            lost += 1
            return Answer(end="drop")
        kind = {"content-type": answer.headers.get("content-type", "text/plain")}
        return Answer(answer.status_code, answer.content, kind)

    with serve(forward) as proxy:
        env = ledger | way_to(cometapi_simulator.url, PREFECT_API_URL=f"{proxy.url}/api")
        ids = ran(RACERS, racers, order(tmp_path), env=env)
    assert lost
    assert ids == [ids[0]] * racers, ids
    assert "id" in ids[0], ids
    assert cometapi_simulator.counts.creates == 1


# --- the same key -----------------------------------------------------------------------------


def test_another_key_another_machine_and_another_version_find_it(
    ledger: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(ROOT / "prefect_cometapi", newer / "prefect_cometapi")
    about = newer / "prefect_cometapi-99.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: prefect-cometapi\nVersion: 99.0\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = ledger | way_to(cometapi_simulator.url)
    others = {
        "rotated key": env | {"COMETAPI_KEY": "sk-rotated"},
        "other machine": env | {"PREFECT_HOME": str(elsewhere), "HOME": str(elsewhere)},
        "other version": env | {"PYTHONPATH": str(newer)},
    }
    wanted = order(tmp_path)
    [first] = ran(RACERS, 1, wanted, env=env)
    found = {
        name: ran(RACERS, 1, wanted, env=other, cwd=elsewhere)[0] for name, other in others.items()
    }
    assert found == dict.fromkeys(others, first)
    assert cometapi_simulator.counts.creates == 1
    used = ran(WHICH, env=others["other version"], cwd=elsewhere)
    assert used == ["99.0", str(newer / "prefect_cometapi" / "__init__.py")]
    assert (
        len({request["authorization"] for request in cometapi_simulator.headers_of("query")}) == 2
    )


WHICH = """
import json
from importlib.metadata import version
import prefect_cometapi

print(json.dumps(version("prefect-cometapi")))
print(json.dumps(prefect_cometapi.__file__))
"""
