"""The key goes to the API's own origin, in one header, and nowhere else: no host, no log."""

from __future__ import annotations

import asyncio
import base64
import logging
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, portal, simulator
from prefect_cometapi.errors import CometAPIError, OutputError, SubmissionInDoubt
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.simulator import FAULTS
from prefect_cometapi.stores import Folder
from tests.servers import (
    BOAT,
    ID,
    KEY,
    MODEL,
    PNG,
    Answer,
    Request,
    Server,
    client_for,
    closed_port,
    configure,
    made_of,
    picture,
    prediction,
    reply,
    serve,
)

#: The key as it might be found: as it is, and as the inside of a Basic header or a dump.
SPELLINGS = (KEY, base64.b64encode(KEY.encode()).decode().rstrip("="), KEY.encode().hex())
REDIRECTS = (301, 302, 303, 307, 308)


def holds_key(data: object) -> bool:
    text = data.decode("latin-1") if isinstance(data, bytes | bytearray) else str(data)
    return any(spelling in text for spelling in SPELLINGS)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, create_timeout=1, query_timeout=1)
    configure(monkeypatch, reconnect_timeout=0.1, submit_timeout=1)


@pytest.fixture
def attacker() -> Iterator[Server]:
    """Somebody else's server. It answers whatever it is asked for, and remembers every byte."""

    def welcome(request: Request) -> Answer:
        if request.method == "GET" and "file" in request.target:
            return picture(request)
        return reply(prediction(output=["text"]))

    with serve(welcome) as server:
        yield server
        assert not holds_key(server.received)
        assert [each for each in server.requests if "authorization" in each.headers] == []


def save(api: Server, made: Prediction, folder: Path) -> list[SavedFile]:
    return portal.call(save_outputs, client_for(api.url), made, Folder(folder))


# --- other hosts ------------------------------------------------------------------------------


def test_urls_in_replies_are_not_called(attacker: Server, tmp_path: Path) -> None:
    def handler(_: Request) -> Answer:
        root = f"{attacker.url}/v1/predictions/{ID}"
        urls = {"get": root, "cancel": f"{root}/cancel", "stream": root, "web": root}
        return reply(prediction(output=[f"{attacker.url}/file.png"], urls=urls), 201)

    with serve(handler) as api:
        client = client_for(api.url)
        created = client.create_prediction(MODEL, BOAT)
        found = client.get_prediction(created.id)
        client.cancel_prediction(created.id)
        (saved,) = save(api, found, tmp_path)
        assert Path(saved.location).read_bytes() == PNG
        assert len(api.requests) == 3
        assert all(r.headers["authorization"] == f"Bearer {KEY}" for r in api.requests)
    # Nothing but the output was fetched there, and without the key.
    assert [request.target for request in attacker.requests] == ["/file.png"]


@pytest.mark.parametrize("status", REDIRECTS)
def test_redirects_of_the_api_are_not_followed(status: int, attacker: Server) -> None:
    def handler(request: Request) -> Answer:
        return Answer(status, b"", {"location": attacker.url + request.target})

    with serve(handler) as api:
        client = client_for(api.url)
        with pytest.raises(CometAPIError):
            client.create_prediction(MODEL, BOAT)
        assert len(api.of("POST")) == 1
        with pytest.raises(CometAPIError):
            client.get_prediction(ID)
        assert not client.cancel_prediction(ID).accepted
        with pytest.raises(CometAPIError):
            asyncio.run(client.acheck_key())
    assert attacker.requests == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_of_downloads_carry_no_key(status: int, attacker: Server, tmp_path: Path) -> None:
    def handler(_: Request) -> Answer:
        return Answer(status, b"", {"location": f"{attacker.url}/file.png"})

    with serve(handler) as api:
        (saved,) = save(api, made_of(f"{api.url}/file.png", api.url), tmp_path)
        assert Path(saved.location).read_bytes() == PNG
        assert not holds_key(api.received)
    assert [request.target for request in attacker.requests] == ["/file.png"]


def test_a_download_that_comes_back_to_the_api_carries_no_key(
    attacker: Server, tmp_path: Path
) -> None:
    # A redirect that ends on a route where a key would mean something.
    def handler(_: Request) -> Answer:
        return Answer(200, PNG)

    with serve(handler) as api:

        def away(request: Request) -> Answer:
            return Answer(302, b"", {"location": f"{api.url}/replicate/v1/predictions/{ID}"})

        with serve(away) as between:
            save(api, made_of(f"{between.url}/file.png", api.url), tmp_path)
        assert [request.target for request in api.requests] == [f"/replicate/v1/predictions/{ID}"]
        assert not holds_key(api.received)
    assert attacker.requests == []


def test_downloads_carry_no_key_even_to_the_apis_own_origin(tmp_path: Path) -> None:
    with simulator.run(run_time=0.001, api_key=KEY) as sim:
        client = client_for(sim.url)
        made = client.create_prediction(MODEL, BOAT | {"num_outputs": 3})
        while not made.finished:
            made = client.get_prediction(made.id)
        assert len(portal.call(save_outputs, client, made, Folder(tmp_path))) == 3
        headers = sim.headers_of("file")
        assert len(headers) == 3
        for each in headers:
            assert not holds_key(each)
            assert not {"authorization", "cookie", "x-api-key"} & set(each)
        assert all(holds_key(each) for each in sim.headers_of("create"))


def test_the_key_is_in_one_header_only() -> None:
    with serve(lambda _: reply(prediction())) as api:
        client = client_for(api.url)
        client.create_prediction(MODEL, BOAT)
        client.get_prediction(ID)
        client.cancel_prediction(ID)
        for request in api.requests:
            assert request.raw.count(KEY.encode()) == 1
            assert not holds_key(request.target)
            assert not holds_key(request.body)


def test_two_keys_do_not_mix() -> None:
    with serve(lambda _: reply(prediction())) as api:
        clients = {key: client_for(api.url, key) for key in ("sk-one", "sk-two")}
        for _ in range(3):
            for client in clients.values():
                client.get_prediction(ID)
        sent = [request.headers["authorization"] for request in api.requests]
        assert sent == ["Bearer sk-one", "Bearer sk-two"] * 3
        assert api.connections == 1  # though they share a connection


# --- logs, messages, pickles ------------------------------------------------------------------


class Everything(logging.Handler):
    """Every record of every logger, with all that it holds."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.loggers: set[str] = set()
        self.formatter = logging.Formatter("%(name)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        self.loggers.add(record.name.partition(".")[0])
        self.texts.append(f"{self.format(record)} {record.__dict__!r}")


@contextmanager
def listening() -> Iterator[Everything]:
    handler = Everything()
    # httpcore's loggers exist only once it is used; these are their names.
    names = {"httpx", "httpcore", "asyncio", "prefect", "prefect_cometapi"}
    names |= {f"httpcore.{part}" for part in ("connection", "http11", "proxy")}
    loggers = [logging.getLogger(name) for name in {*logging.root.manager.loggerDict, *names}]
    loggers.append(logging.root)
    before = [(each, each.level, each.disabled) for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.DEBUG)
        each.disabled = False
    try:
        yield handler
    finally:
        for each, level, disabled in before:
            each.removeHandler(handler)
            each.setLevel(level)
            each.disabled = disabled


@dataclass
class Happened:
    """What came out of a number of calls."""

    results: list[object] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    records: Everything = field(default_factory=Everything)


def live(folder: Path, patch: pytest.MonkeyPatch) -> Happened:
    """One of everything: what works, and every fault of every kind of request."""
    happened = Happened()
    with simulator.run(run_time=0.001, api_key=KEY, retry_after=0.05, oversize=1000) as sim:
        client = client_for(sim.url)
        client.notify = logging.getLogger("prefect_cometapi").warning
        made = client.create_prediction(MODEL, BOAT)
        while not made.finished:
            made = client.get_prediction(made.id)
        happened.results += [made, *portal.call(save_outputs, client, made, Folder(folder))]
        configure(patch, download_timeout=0.6)
        hasty = client_for(sim.url)
        calls: dict[str, Any] = {
            "create": lambda: client.create_prediction(MODEL, BOAT),
            "query": lambda: client.get_prediction(made.id),
            "cancel": lambda: client.cancel_prediction(made.id),
            "file": lambda: portal.call(save_outputs, hasty, made, Folder(folder)),
        }
        for fault in FAULTS.values():
            if fault.operation not in calls or fault.short == "hang":
                continue
            if fault.operation == "file" and fault.short in ("429-date", "502", "503", "504"):
                continue  # these are all the same to a download
            sim.script(fault.operation, [fault.short] * 3)
            try:
                happened.results.append(calls[fault.operation]())
            except CometAPIError as error:
                happened.errors.append(error)
            sim.clear_faults()
        for other in (client_for(sim.url, KEY + "-wrong"), client_for(nobody())):
            other.notify = client.notify
            try:
                other.create_prediction(MODEL, BOAT)
            except CometAPIError as error:
                happened.errors.append(error)
    return happened


def nobody() -> str:
    return f"http://127.0.0.1:{closed_port()}"


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> Happened:
    with pytest.MonkeyPatch.context() as patch, listening() as records:
        configure(patch, create_timeout=1, reconnect_timeout=0.1, submit_timeout=1)
        happened = live(tmp_path_factory.mktemp("pictures"), patch)
        happened.records = records
        return happened


@pytest.mark.slow
def test_no_logger_ever_logs_the_key(happened: Happened) -> None:
    records = happened.records
    assert {"httpx", "httpcore", "prefect_cometapi"} <= records.loggers
    assert len(records.texts) > 500
    assert [text for text in records.texts if holds_key(text)] == []


@pytest.mark.slow
def test_no_exception_shows_the_key(happened: Happened) -> None:
    kinds = {type(error) for error in happened.errors}
    assert SubmissionInDoubt in kinds
    assert any(issubclass(kind, OutputError) for kind in kinds)
    assert len(kinds) > 6
    assert len(happened.errors) > 30
    for error in happened.errors:
        assert not holds_key("".join(traceback.format_exception(error)))
        for one in chain_of(error):
            assert not holds_key(str(one))
            assert not holds_key(repr(one))
            assert not holds_key(repr(vars(one)))


@pytest.mark.slow
def test_no_traceback_with_local_variables_shows_the_key(happened: Happened) -> None:
    # What Sentry, rich and pytest --showlocals write.
    for error in happened.errors:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert not holds_key("".join(report.format()))


@pytest.mark.slow
@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_no_pickle_holds_the_key(happened: Happened, module: Any) -> None:
    # Prefect stores results and exceptions.
    assert happened.results
    for value in (*happened.results, *happened.errors):
        data = module.dumps(value)
        assert not holds_key(data)
        again = pickle.loads(data)  # noqa: S301
        assert type(again) is type(value)
        assert str(again) == str(value)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()  # a chain may lead back into itself
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("status", [400, 401, 403, 422, 429, 500, 502])
def test_a_service_that_repeats_the_key_is_not_quoted_with_it(status: int) -> None:
    def handler(request: Request) -> Answer:
        sent = request.headers["authorization"]
        return reply(
            {"error": {"message": f"invalid: {sent}", "code": sent}}, status, x_request_id=sent
        )

    with serve(handler) as api:
        client = client_for(api.url)
        client.notify = lambda _: None
        cancellation = client.cancel_prediction(ID)
        with pytest.raises(CometAPIError) as caught:
            client.create_prediction(MODEL, BOAT)
        assert len(api.requests) >= 2
    assert not holds_key(str(cancellation))
    assert not holds_key("".join(traceback.format_exception(caught.value)))
    assert not holds_key(pickle.dumps(caught.value))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_nothing_that_prefect_keeps_of_a_run_holds_the_key(tmp_path: Path) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State

    from prefect_cometapi import create_prediction, generate, poll_prediction

    with (
        simulator.run(run_time=0.02, api_key=KEY, retry_after=0.1) as sim,
        listening() as records,
    ):

        @flow(log_prints=True)
        def gallery(credentials: CometAPICredentials) -> list[object]:
            print(credentials)
            made = generate(credentials, MODEL, BOAT, str(tmp_path))
            created = create_prediction(credentials, MODEL, BOAT, sample=1)
            poll_prediction(credentials, created)
            sim.script("create", ["lost"])
            return [made, create_prediction(credentials, MODEL, BOAT, sample=2, return_state=True)]

        credentials = CometAPICredentials(api_key=SecretStr(KEY), base_url=sim.url)
        state: State[Any] = gallery(credentials, return_state=True)

    async def kept() -> list[str]:
        async with get_client() as client:
            run_id = state.state_details.flow_run_id
            assert run_id is not None
            run = await client.read_flow_run(run_id)
            tasks = await client.read_task_runs()
            logs = await client.read_logs()
            for _ in range(60):  # they are sent in the background
                if len(logs) > 3:
                    break
                await asyncio.sleep(1)
                logs = await client.read_logs()
            artifacts = await client.read_artifacts()
            variables = await client.read_variables()
            assert len(tasks) >= 4
            assert len(logs) > 3
            assert variables
            return [repr(each) for each in (run, *tasks, *logs, *artifacts, *variables)]

    assert [text for text in asyncio.run(kept()) if holds_key(text)] == []
    assert "prefect" in records.loggers
    assert [text for text in records.texts if holds_key(text)] == []
    assert not holds_key(cloudpickle.dumps(state))
