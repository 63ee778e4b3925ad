"""Without a record there is no POST: a ledger that can not be used, or read, stops before anything
is paid; and what a record holds is enough to find it again, and nothing that is secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_cometapi import CometAPICredentials, lifecycle, portal, prefect_api
from prefect_cometapi.errors import LedgerError, PredictionFailed, SubmissionInDoubt
from prefect_cometapi.ledger import PREFIX, SCHEMA
from prefect_cometapi.orders import Order
from prefect_cometapi.records import RecordStore
from prefect_cometapi.simulator import Simulator
from tests.homes import LEDGER, Home, create
from tests.processes import wait_until
from tests.servers import (
    ID,
    KEY,
    MODEL,
    PNG,
    Answer,
    Request,
    closed_port,
    prediction,
    reply,
    serve,
)
from tests.stopping import Relay

pytestmark = pytest.mark.slow

SIGNATURE = "3b5a9f0c2d7e8146"
PRESIGNED = f"https://bucket.s3.amazonaws.com/chair.png?X-Amz-Signature={SIGNATURE}"


@pytest.fixture
def scope(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}"[-100:] + uuid4().hex


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_api, "CALL_TIMEOUT", 2.0)


# --- a ledger that can not be reached ---------------------------------------------------------


async def _hangs(_: Request) -> Answer:
    await asyncio.sleep(60)
    return Answer()


def _says_no_to_reads(request: Request) -> Answer:
    return reply({"detail": "Not found"}, 404) if request.method == "GET" else reply("hello")


SERVERS: dict[str, Callable[[Request], Any]] = {
    "500": lambda _: reply({"detail": "database is locked"}, 500),
    "503": lambda _: reply({}, 503),
    "401": lambda _: reply({"detail": "Unauthorized"}, 401),
    "404": lambda _: reply({"detail": "Not found"}, 404),
    "web-page": lambda _: Answer(200, b"<html>", {"content-type": "text/html"}),
    "other-json": lambda _: reply({"hello": "world"}),
    "redirect": lambda _: Answer(307, headers={"location": "http://127.0.0.1:9/"}),
    "dropped": lambda _: Answer(end="drop"),
    "hangs": _hangs,
    "knows-nothing-and-takes-anything": _says_no_to_reads,
}


@pytest.mark.parametrize("name", ["down", *SERVERS])
def test_a_server_that_can_not_be_used(
    name: str, scope: str, cometapi_simulator: Simulator
) -> None:
    def stops(url: str) -> None:
        with temporary_settings({PREFECT_API_URL: url}):
            with pytest.raises(LedgerError, match="Nothing was sent"):
                create(scope)
            with pytest.raises(LedgerError, match="Nothing was sent"):
                create(scope, on_in_doubt="resubmit")

    if name == "down":
        stops(f"http://127.0.0.1:{closed_port()}/api")
    else:
        with serve(SERVERS[name]) as server:
            stops(f"{server.url}/api")
            assert server.requests
    assert not cometapi_simulator.requests


@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_stands_still_for_a_while_is_waited_for(
    scope: str,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prefect_api, "CALL_TIMEOUT", 60.0)
    monkeypatch.setattr(prefect_api, "SLOW", 0.2)
    server = urlsplit(PREFECT_API_URL.value() or "")
    relay = Relay((str(server.hostname), server.port or 0))
    relay.freeze()
    api = f"http://127.0.0.1:{relay.port}/api"
    with temporary_settings({PREFECT_API_URL: api}), ThreadPoolExecutor() as pool:
        creating = pool.submit(copy_context().run, create, scope)
        wait_until(lambda: "has not answered for 0.2 s" in caplog.text)
        assert not cometapi_simulator.requests
        relay.thaw()
        made = creating.result(60)
    relay.close()
    assert list(cometapi_simulator.predictions) == [made.id]


class Moody(WritableFileSystem):
    """A storage that fails in a way of its own."""

    _block_type_name = "Moody file system for tests"
    _block_type_slug = "moody-file-system"

    root: str
    mood: str

    async def read_path(self, path: str) -> bytes:
        if "ledger" not in path and self.mood == "only its records fail":
            return Path(self.root, Path(path).name).read_bytes()
        match self.mood:
            case "raises" | "only its records fail":
                raise PermissionError(f"AccessDenied: {path}")
            case "no answer":
                raise TimeoutError
            case "same words for an outage and an absence":
                raise ConnectionError("could not get the object")
            case "reads its own writes never":
                raise FileNotFoundError(path)
            case "says nothing":
                return None  # type: ignore[return-value]
        raise AssertionError

    async def write_path(self, path: str, content: bytes) -> None:
        Path(self.root, Path(path).name).write_bytes(content)


@pytest.mark.parametrize(
    "mood",
    [
        "raises",
        "no answer",
        "same words for an outage and an absence",
        "reads its own writes never",
        "says nothing",
        "only its records fail",
    ],
)
@pytest.mark.usefixtures("prefect_server")
def test_a_storage_that_can_not_be_used(
    mood: str,
    scope: str,
    tmp_path: Path,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"moody-{uuid4().hex[:12]}"
    Moody(root=str(tmp_path), mood=mood).save(name)
    monkeypatch.setenv(LEDGER, f"block://moody-file-system/{name}")
    for on_in_doubt in ("raise", "resubmit"):
        with pytest.raises(LedgerError, match="Nothing was sent"):
            create(scope, on_in_doubt=on_in_doubt)
    assert not cometapi_simulator.requests


@pytest.mark.usefixtures("prefect_server")
def test_a_storage_block_that_is_not_there(
    scope: str, cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER, "block://local-file-system/never-saved")
    with pytest.raises(LedgerError, match=r"never-saved.*could not be loaded"):
        create(scope)
    assert not cometapi_simulator.requests


@pytest.mark.usefixtures("prefect_server")
def test_a_folder_that_can_not_be_written_to(
    scope: str, tmp_path: Path, cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known after the create goes into the log, and the claim keeps others from paying."""
    (tmp_path / "cometapi-ledger").write_text("in the way")
    name = f"ledger-{uuid4().hex[:12]}"
    LocalFileSystem(basepath=str(tmp_path)).save(name)
    monkeypatch.setenv(LEDGER, f"block://local-file-system/{name}")
    with pytest.raises(LedgerError, match="Nothing was sent"):
        create(scope)
    assert not cometapi_simulator.requests


# --- records that can not be read -------------------------------------------------------------

LATER = {"schema_version": SCHEMA + 1}
SPOILT: dict[str, object] = {
    "empty": b"",
    "null": None,
    "half": b'{"schema_version": 1, "scope": "s", "mod',
    "bytes": bytes(range(256)),
    "zeros": b"\0" * 500,
    "text": "in doubt",
    "number": 0,
    "list": [],
    "nothing-in-it": {},
    "another-thing": {"scope": "s", "hello": "world"},
    "unknown-outcome": {"outcome": "paused"},
    "id-of-another-kind": {"prediction_id": 5},
    "of-a-later-version": {**LATER, "create": {"id": ID}, "scope": None},
}


@pytest.fixture
def _soon_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordStore, "torn_patience", 0.3)


@pytest.mark.usefixtures("_soon_whole")
@pytest.mark.parametrize("name", SPOILT)
def test_a_record_that_can_not_be_read_is_in_doubt(
    name: str, home: Home, scope: str, cometapi_simulator: Simulator
) -> None:
    create(scope)
    [(key, record)] = home.records(scope).items()
    assert record is not None
    content = SPOILT[name]
    home.spoil(key, {**record.as_json(), **content} if isinstance(content, dict) else content)
    if content in ({}, SPOILT["another-thing"]):
        home.spoil(key, content)
    for _ in range(2):
        with pytest.raises(SubmissionInDoubt, match="can not be read") as raised:
            create(scope)
        assert raised.value.record_key == key
    assert list(home.records(scope)) == [key]
    assert cometapi_simulator.counts.creates == 1
    create(scope, on_in_doubt="resubmit")
    assert cometapi_simulator.counts.creates == 2


def test_a_record_of_a_later_version_is_not_taken_for_one_of_this(
    home: Home, scope: str, cometapi_simulator: Simulator
) -> None:
    create(scope)
    [(key, record)] = home.records(scope).items()
    assert record is not None
    home.spoil(key, {**record.as_json(), **LATER})
    with pytest.raises(SubmissionInDoubt):
        create(scope)
    assert cometapi_simulator.counts.creates == 1


# --- what a record holds ----------------------------------------------------------------------


def test_records_hold_no_credential_and_no_input(
    home: Home, scope: str, cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    cometapi_simulator.script("create", ["ok", "lost"])
    secret = "the end of a long prompt"
    input = {"prompt": "A boat, " * 500 + secret, "image_prompt": PRESIGNED}
    create(scope, input=input)
    with pytest.raises(SubmissionInDoubt):
        create(scope, input=input, sample=1)
    keys = list(home.records(scope))
    assert len(keys) == 2
    for key in keys:
        raw = home.raw(key)
        assert "A boat, A boat" in raw
        for hidden in (KEY, SIGNATURE, secret, "image_prompt", "Bearer"):
            assert hidden not in raw
        assert '"schema_version":1' in raw.replace(" ", "")
        assert len(raw) < 2_000
        assert key.startswith(PREFIX)


def test_what_a_record_repeats_has_no_signatures(
    home: Home, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = prediction(status="failed", error=f"can not fetch {PRESIGNED}")
    with serve(lambda _: reply(failed)) as server:
        monkeypatch.setenv("COMETAPI_BASE_URL", server.url)
        monkeypatch.setenv("COMETAPI_KEY", KEY)
        made = create(scope, input={"prompt": f"Like {PRESIGNED}"})
        client = CometAPICredentials.from_env().get_client()
        with pytest.raises(PredictionFailed):
            portal.call(lifecycle.wait, client, made)
    [key] = home.records(scope)
    assert "bucket.s3.amazonaws.com" in home.raw(key)
    assert SIGNATURE not in home.raw(key)


@pytest.fixture
def forty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """A service whose prediction has forty outputs, until it has deleted them."""
    counts = {"creates": 0, "downloads": 0, "deleted": 0}

    def answer(request: Request) -> Answer:
        if request.target.startswith("/out"):
            counts["downloads"] += 1
            return Answer(200, PNG, {"content-type": "image/png"})
        counts["creates"] += request.method == "POST"
        if counts["deleted"]:
            return reply(prediction(data_removed=True))
        root = f"http://{request.headers['host']}"
        return reply(prediction(output=[f"{root}/out/{number}.png" for number in range(40)]))

    with serve(answer) as server:
        monkeypatch.setenv("COMETAPI_BASE_URL", server.url)
        monkeypatch.setenv("COMETAPI_KEY", KEY)
        yield counts


def save(scope: str, folder: Path) -> int:
    client = CometAPICredentials.from_env().get_client()
    order = Order(MODEL, {"prompt": "Forty boats"}, scope=scope)
    return len(portal.call(lifecycle.generate, client, order, folder).files)


def test_a_record_of_many_files_fits(
    home: Home, scope: str, forty: dict[str, int], tmp_path: Path
) -> None:
    for _ in range(2):
        assert save(scope, tmp_path / "pictures") == 40
    [record] = home.records(scope).values()
    assert record is not None
    assert record.outcome == "saved"
    assert forty["creates"] == 1


def test_many_files_are_not_fetched_again(
    home: Home, scope: str, forty: dict[str, int], tmp_path: Path
) -> None:
    if not home.in_files:
        pytest.skip("a Variable has room for a dozen files; said in docs/what-a-retry-costs.md")
    assert save(scope, tmp_path / "pictures") == 40
    forty["deleted"] = 1
    assert save(scope, tmp_path / "pictures") == 40
    assert forty["downloads"] == 40
