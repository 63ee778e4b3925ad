"""A create is paid for once: it is sent again only where it certainly was not accepted."""

from __future__ import annotations

import asyncio
import gzip
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Literal

import pytest

from prefect_cometapi import portal, simulator
from prefect_cometapi.client import MAX_REPLY_BYTES, CometAPIClient
from prefect_cometapi.errors import (
    AccountError,
    CometAPIError,
    InputRejected,
    InvalidInput,
    ModelNotFound,
    NeverDelivered,
    PredictionNotFound,
    RateLimited,
    RequestRejected,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.models import Cancellation, Prediction, PredictionStatus
from prefect_cometapi.simulator import FAULTS, Simulator
from tests.servers import (
    BOAT,
    ID,
    KEY,
    MODEL,
    Answer,
    Request,
    client_for,
    closed_port,
    prediction,
    reply,
    serve,
)

SETTING = "PREFECT_INTEGRATIONS_COMETAPI_"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "CONNECT_TIMEOUT": 2,
        "CREATE_TIMEOUT": 2,
        "QUERY_TIMEOUT": 2,
        "RECONNECT_TIMEOUT": 1.5,
        "SUBMIT_TIMEOUT": 8,
    }.items():
        monkeypatch.setenv(SETTING + name, str(seconds))


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator.run(run_time=0.02, retry_after=0.3, api_key=KEY) as running:
        yield running


def client_of(sim: Simulator) -> CometAPIClient:
    return client_for(sim.url, sim.api_key)


async def until_finished(client: CometAPIClient, prediction_id: str) -> Prediction:
    for _ in range(200):
        found = await client.aget_prediction(prediction_id)
        if found.finished:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("the simulator never finished")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


# --- the plain way ----------------------------------------------------------------------------


def test_create_and_get_in_sync_code(sim: Simulator) -> None:
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    assert (created.model, created.api_root, created.input) == (MODEL, sim.url, BOAT)
    assert created.submitted_at is not None
    found = client.get_prediction(created.id)
    assert (found.id, found.model) == (created.id, MODEL)
    assert list(sim.predictions) == [created.id]
    (request,) = [each for each in sim.requests if each.operation == "create"]
    assert request.json == {"input": BOAT}
    assert request.path == f"/replicate/v1/models/{MODEL}/predictions"
    assert request.headers["content-type"] == "application/json"


async def test_create_and_get_in_async_code(sim: Simulator) -> None:
    client = client_of(sim)
    created = await client.acreate_prediction(MODEL, BOAT)
    found = await until_finished(client, created.id)
    assert found.status is PredictionStatus.SUCCEEDED
    assert len(found.output) == 1
    assert sim.counts.accepted == 1


@pytest.mark.parametrize("shape", ["plain", "enveloped", "mixed"])
def test_every_shape_of_reply_is_understood(
    shape: Literal["plain", "enveloped", "mixed"],
) -> None:
    with simulator.run(run_time=0.01, shape=shape) as sim:
        client = client_of(sim)
        ids = [client.create_prediction(MODEL, BOAT | {"seed": n}).id for n in range(4)]
        found = asyncio.run(until_finished(client, ids[-1]))
        assert found.status is PredictionStatus.SUCCEEDED
        assert ids == list(sim.predictions)


@pytest.mark.parametrize("status", ["200", "202"])
def test_any_2xx_is_a_success(sim: Simulator, status: str) -> None:
    sim.script("create", [status])
    assert client_of(sim).create_prediction(MODEL, BOAT).id in sim.predictions


def test_cancel_in_sync_code(sim: Simulator) -> None:
    sim.script("prediction", ["endless"])
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    cancellation = client.cancel_prediction(created.id)
    assert cancellation.accepted
    assert cancellation.prediction is not None
    assert cancellation.prediction.status is PredictionStatus.CANCELED
    assert sim.predictions[created.id].status == "canceled"


async def test_cancel_in_async_code(sim: Simulator) -> None:
    sim.script("prediction", ["endless"])
    client = client_of(sim)
    created = await client.acreate_prediction(MODEL, BOAT)
    assert (await client.acancel_prediction(created.id)).accepted
    assert sim.counts.cancels == 1


@pytest.mark.parametrize(
    "fault",
    sorted(f.short for f in FAULTS.values() if f.operation == "cancel" and f.short != "hang"),
)
def test_a_cancel_that_fails_says_so_and_is_not_repeated(sim: Simulator, fault: str) -> None:
    sim.script("prediction", ["endless"])
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    sim.script("cancel", [fault])
    cancellation = client.cancel_prediction(created.id)
    assert isinstance(cancellation, Cancellation)
    assert not cancellation.accepted
    assert cancellation.message
    assert sim.counts.cancels == 1


def test_a_cancel_of_what_has_ended_is_not_called_accepted(sim: Simulator) -> None:
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    asyncio.run(until_finished(client, created.id))
    cancellation = client.cancel_prediction(created.id)
    assert not cancellation.accepted
    assert "already ended as succeeded" in cancellation.message


@pytest.mark.parametrize("model", ["flux", "a/b/c", "../x", "a/..", "", "a/b?c", "a b/c", None])
def test_a_model_id_that_can_not_be_one_is_never_sent(sim: Simulator, model: str) -> None:
    with pytest.raises(InvalidInput):
        client_of(sim).create_prediction(model, BOAT)
    assert sim.requests == []


@pytest.mark.parametrize("value", [{"x": float("nan")}, {"x": object()}, {1: 2}, "text", None])
def test_an_input_that_is_no_json_is_never_sent(sim: Simulator, value: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        client_of(sim).create_prediction(MODEL, value)
    assert sim.requests == []


@pytest.mark.parametrize("bad", ["a/b", "", "..", "a?b", "x" * 200, "é"])
def test_an_id_that_can_not_be_one_is_never_sent(sim: Simulator, bad: str) -> None:
    with pytest.raises(InvalidInput):
        client_of(sim).get_prediction(bad)
    with pytest.raises(InvalidInput):
        client_of(sim).cancel_prediction(bad)
    assert sim.requests == []


# --- creates that go wrong --------------------------------------------------------------------

#: What a create's fault is, to its caller. The rest of the table: the 429s, and what works.
CREATE_FAULTS: dict[str, type[CometAPIError]] = {
    "400": InputRejected,
    "401": AccountError,
    "402": AccountError,
    "403": AccountError,
    "422": InputRejected,
    "500-invalid-request": InputRejected,
    "503-model-not-found": ModelNotFound,
    "html": RequestRejected,
    "redirect": RequestRejected,
    **{
        f"{status}{done}": SubmissionInDoubt
        for status in (500, 502, 503, 504, 520, 524)
        for done in ("", "-accepted")
    },
    "lost": SubmissionInDoubt,
    "dropped": SubmissionInDoubt,
    "hang": SubmissionInDoubt,
    "cut-off": SubmissionInDoubt,
    "bad-json": SubmissionInDoubt,
    "no-id": SubmissionInDoubt,
}
THROTTLED = ["429-seconds", "429-date", "429-body", "429-text", "429-reset"]


def test_the_table_has_every_fault_of_a_create() -> None:
    known = {fault.short for fault in FAULTS.values() if fault.operation == "create"}
    assert known == {*CREATE_FAULTS, *THROTTLED, "200", "202"}


@pytest.mark.parametrize(("fault", "error"), CREATE_FAULTS.items())
def test_a_create_that_fails_is_sent_once(
    sim: Simulator, fault: str, error: type[CometAPIError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "CREATE_TIMEOUT", "0.5")
    sim.script("create", [fault])
    with pytest.raises(error) as caught:
        client_of(sim).create_prediction(MODEL, BOAT)
    assert sim.counts.creates == 1
    assert sim.counts.accepted == int(FAULTS[f"create.{fault}"].accepted)
    if sim.counts.accepted:
        assert caught.type is SubmissionInDoubt  # nothing else may say so of a paid one
    assert MODEL in str(caught.value)


def test_a_create_in_doubt_says_what_to_do(sim: Simulator) -> None:
    sim.script("create", ["lost"])
    with pytest.raises(SubmissionInDoubt) as caught:
        client_of(sim).create_prediction(MODEL, BOAT)
    message = str(caught.value)
    assert sim.url in message
    assert "may have been accepted and paid for" in message
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", message)


@pytest.mark.parametrize("fault", THROTTLED)
async def test_a_429_waits_as_asked_and_then_succeeds(sim: Simulator, fault: str) -> None:
    sim.script("create", [fault])
    client, told = client_of(sim), list[str]()
    client.notify = told.append
    started = time.monotonic()
    await client.acreate_prediction(MODEL, BOAT)
    assert time.monotonic() - started >= 0.29
    assert (sim.counts.creates, sim.counts.accepted) == (2, 1)
    assert len(told) == 1
    assert "again in" in told[0]


@pytest.mark.parametrize("form", ["retry-after", "ratelimit-reset"])
@pytest.mark.parametrize("hours", [-5, 5])
def test_a_429_waits_as_the_server_meant_whatever_this_machines_clock_says(
    hours: int, form: str
) -> None:
    came: list[float] = []

    def handler(_: Request) -> Answer:
        came.append(time.monotonic())
        if len(came) > 1:
            return reply(prediction(), 201)
        now = float(int(time.time())) + hours * 3600
        until = formatdate(now + 1, usegmt=True) if form == "retry-after" else f"{now + 1:.0f}"
        return Answer(429, b"", {"date": formatdate(now, usegmt=True), form: until})

    with serve(handler) as server:
        client_for(server.url).create_prediction(MODEL, BOAT)
    assert len(came) == 2
    assert 1.0 <= came[1] - came[0] < 4.0


def test_a_429_that_never_ends_is_raised_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING + "SUBMIT_TIMEOUT", "1")
    with simulator.run(retry_after=0.2, faults={"create.429-body": 1.0}) as sim:
        with pytest.raises(RateLimited) as caught:
            client_of(sim).create_prediction(MODEL, BOAT)
        assert caught.value.retry_after == pytest.approx(0.2)
        assert sim.counts.accepted == 0
        assert sim.counts.creates >= 2


def test_a_429_that_asks_for_more_than_the_cap_waits_no_longer_than_that(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "RETRY_AFTER_CAP", "0.2")
    with simulator.run(retry_after=3000, api_key=KEY) as sim:
        sim.script("create", ["429-seconds"])
        started = time.monotonic()
        client_of(sim).create_prediction(MODEL, BOAT)
        assert time.monotonic() - started < 5


def test_a_closed_port_is_never_delivered_and_tried_again_for_a_while() -> None:
    client, told = client_for(f"http://127.0.0.1:{closed_port()}"), list[str]()
    client.notify = told.append
    started = time.monotonic()
    with pytest.raises(NeverDelivered, match="could not be reached, so nothing was sent"):
        client.create_prediction(MODEL, BOAT)
    assert time.monotonic() - started < 1.5 + 3
    assert told


def test_a_create_is_delivered_once_the_service_is_back() -> None:
    port = closed_port()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(client_for(f"http://127.0.0.1:{port}").create_prediction, MODEL, BOAT)
        time.sleep(0.3)
        with simulator.run(port=port) as sim:
            assert coming.result(10).id in sim.predictions
            assert sim.counts.accepted == 1


def test_a_host_that_does_not_exist_is_never_delivered() -> None:
    with pytest.raises(NeverDelivered):
        client_for("https://no-such-host.invalid").create_prediction(MODEL, BOAT)


def test_a_tls_handshake_that_hangs_is_never_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING + "CONNECT_TIMEOUT", "0.5")
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "0.1")
    with serve(lambda _: reply(prediction())) as server:  # waits for the end of a plain request
        client = client_for(f"https://127.0.0.1:{server.port}")
        with pytest.raises(NeverDelivered):
            client.create_prediction(MODEL, BOAT)
        assert server.requests == []


def test_a_server_that_speaks_no_tls_is_never_delivered(sim: Simulator) -> None:
    with pytest.raises(NeverDelivered):
        client_for(sim.url.replace("http:", "https:")).create_prediction(MODEL, BOAT)
    assert sim.counts.creates == 0


# --- queries that go wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    sorted(
        fault.short
        for fault in FAULTS.values()
        if fault.operation == "query"
        and fault.short not in ("401", "402", "403", "null-data", "strange-status")
        and not fault.short.startswith(("hollow", "not-exist"))
    ),
)
def test_a_query_that_fails_is_asked_again(
    sim: Simulator, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "QUERY_TIMEOUT", "0.5")
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "8")
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    sim.script("query", [fault])
    assert client.get_prediction(created.id).id == created.id
    assert sim.counts.polls == 2


@pytest.mark.parametrize("fault", ["401", "402", "403"])
def test_a_query_that_the_account_may_not_make_is_not_repeated(sim: Simulator, fault: str) -> None:
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    sim.script("query", [fault])
    with pytest.raises(AccountError):
        client.get_prediction(created.id)
    assert sim.counts.polls == 1


@pytest.mark.parametrize("fault", ["null-data", "strange-status", "hollow", "hollow-other-words"])
def test_a_query_with_nothing_to_tell_yet_is_not_finished(sim: Simulator, fault: str) -> None:
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    sim.script("query", [fault])
    assert not client.get_prediction(created.id).finished
    assert sim.counts.polls == 1


def test_a_query_that_hangs_is_bounded(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING + "QUERY_TIMEOUT", "0.3")
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "0.5")
    created = client_of(sim).create_prediction(MODEL, BOAT)
    sim.set_fault("query.hang", 1.0)
    started = time.monotonic()
    with pytest.raises(UnknownOutcome, match="no usable reply"):
        client_of(sim).get_prediction(created.id)
    assert time.monotonic() - started < 5


def test_a_reply_that_trickles_in_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each byte comes within any read time-out; the whole does not.
    monkeypatch.setenv(SETTING + "QUERY_TIMEOUT", "0.5")
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "0.1")
    with serve(lambda _: Answer(200, b"{", length=1000, end="hang")) as server:
        started = time.monotonic()
        with pytest.raises(UnknownOutcome):
            client_for(server.url).get_prediction(ID)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("fault", ["not-exist-400", "not-exist-404"])
def test_a_query_that_does_not_find_is_not_repeated(sim: Simulator, fault: str) -> None:
    client = client_of(sim)
    created = client.create_prediction(MODEL, BOAT)
    sim.script("query", [fault])
    with pytest.raises(PredictionNotFound, match=created.id):
        client.get_prediction(created.id)
    assert sim.counts.polls == 1


def test_an_unknown_prediction_is_not_found(sim: Simulator) -> None:
    with pytest.raises(PredictionNotFound, match=ID):
        client_of(sim).get_prediction(ID)


@pytest.mark.parametrize("packed", [False, True])
def test_a_reply_over_the_limit_is_not_read_to_its_end(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "0.1")
    monkeypatch.setenv(SETTING + "QUERY_TIMEOUT", "20")
    body = b" " * (MAX_REPLY_BYTES + 1024 * 1024)
    answer = (
        Answer(200, gzip.compress(body, 1), {"content-encoding": "gzip"})
        if packed
        else Answer(200, body)
    )
    with serve(lambda _: answer) as server, pytest.raises(UnknownOutcome, match="larger than"):
        client_for(server.url).get_prediction(ID)


def test_a_reply_packed_wrongly_is_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Answer(200, b"no gzip at all", {"content-encoding": "gzip"})
    with serve(lambda _: broken) as server:
        with pytest.raises(SubmissionInDoubt):
            client_for(server.url).create_prediction(MODEL, BOAT)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "head",
    [b"\xff\xfe garbage\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: \x00\r\n\r\n"],
)
def test_a_reply_that_is_no_http_is_an_unknown_outcome(head: bytes) -> None:
    def handler(_: Request) -> Answer:
        return Answer(raw=head, end="close")

    with serve(handler) as server:
        with pytest.raises(SubmissionInDoubt):
            client_for(server.url).create_prediction(MODEL, BOAT)
        assert len(server.requests) == 1


def test_the_request_id_is_in_the_message_and_on_the_error(sim: Simulator) -> None:
    sim.script("create", ["503-model-not-found", "422"])
    client = client_of(sim)
    with pytest.raises(ModelNotFound) as caught:
        client.create_prediction(MODEL, BOAT)
    assert caught.value.request_id
    assert caught.value.request_id in str(caught.value)
    with pytest.raises(InputRejected) as other:  # here it comes in a header
        client.create_prediction(MODEL, BOAT)
    assert other.value.request_id
    assert other.value.request_id in str(other.value)
    assert other.value.invalid_fields == ("input.output_format: must be another",)


# --- the brake and the gate -------------------------------------------------------------------


async def test_one_429_holds_back_every_other_request() -> None:
    with simulator.run(retry_after=1.0) as sim:
        client = client_of(sim)
        created = await client.acreate_prediction(MODEL, BOAT)
        sim.script("create", ["429-seconds"])
        slow = asyncio.create_task(client.acreate_prediction(MODEL, BOAT))
        await until(lambda: bool(sim.counts.by_status.get(429)))
        await client_of(sim).aget_prediction(created.id)  # another client, the same process
        await slow
        refused = next(each.time for each in sim.requests if each.status == 429)
        query = next(each.time for each in sim.requests if each.operation == "query")
        assert query - refused >= 0.95


async def test_a_429_holds_back_the_requests_that_wait_at_the_gate_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SETTING + "REQUESTS_IN_FLIGHT", "1")
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "10")
    came: list[float] = []

    async def handler(_: Request) -> Answer:
        came.append(time.monotonic())
        await asyncio.sleep(0.2)
        return (
            reply({"error": "slow"}, 429, retry_after="1")
            if len(came) == 1
            else reply(prediction())
        )

    with serve(handler) as server:
        client = client_for(server.url)
        await asyncio.gather(*(client.aget_prediction(f"{ID}{n}") for n in range(4)))
    assert len(came) == 5
    assert min(came[1:]) - came[0] >= 1.0


async def test_a_429_of_one_api_does_not_hold_back_another(sim: Simulator) -> None:
    with (
        simulator.run(retry_after=30, faults={"query.429-seconds": 1.0}) as other,
        pytest.raises(RateLimited),
    ):
        await client_of(other).aget_prediction(ID)
    started = time.monotonic()
    await client_of(sim).acreate_prediction(MODEL, BOAT)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["creates", "queries"])
@pytest.mark.parametrize("room", [1, 3])
def test_the_gates_bound_the_requests_in_flight(
    room: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "REQUESTS_IN_FLIGHT", str(room))
    monkeypatch.setenv(SETTING + "CREATE_TIMEOUT", "20")

    async def handler(request: Request) -> Answer:
        await asyncio.sleep(0.03)
        return reply(prediction(), 201 if request.method == "POST" else 200)

    with serve(handler) as server:
        client = client_for(server.url)  # shared by threads and by their loops

        def some(_: int) -> None:
            if kind == "creates":
                client.create_prediction(MODEL, BOAT)
            else:
                asyncio.run(client.aget_prediction(ID))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(some, range(16)))
        assert server.most_under_way == room
        assert len(server.requests) == 16


async def test_waiting_at_the_gate_does_not_count_as_time_of_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SETTING + "REQUESTS_IN_FLIGHT", "1")
    monkeypatch.setenv(SETTING + "CREATE_TIMEOUT", "0.6")

    async def handler(_: Request) -> Answer:
        await asyncio.sleep(0.15)
        return reply(prediction(), 201)

    with serve(handler) as server:
        client = client_for(server.url)
        await asyncio.gather(*(client.acreate_prediction(MODEL, BOAT) for _ in range(8)))
        assert len(server.requests) == 8


# --- connections ------------------------------------------------------------------------------


async def test_a_create_never_rides_on_a_connection_that_has_been_idle() -> None:
    with serve(lambda _: reply(prediction(), 201)) as server:
        client = client_for(server.url)
        await client.acreate_prediction(MODEL, BOAT)
        await client.acreate_prediction(MODEL, BOAT)
        assert server.connections == 1  # at once it may
        await asyncio.sleep(2.3)
        await client.acreate_prediction(MODEL, BOAT)
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_a_query_may_ride_on_one() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client = client_for(server.url)
        await client.aget_prediction(ID)
        await asyncio.sleep(2.3)
        await client.aget_prediction(ID)
        assert server.connections == 1


async def test_a_connection_that_the_server_closed_costs_no_create() -> None:
    with serve(lambda _: reply(prediction(), 201), idle=0.2) as server:
        client = client_for(server.url)
        for _ in range(3):
            await client.acreate_prediction(MODEL, BOAT)
            await asyncio.sleep(0.5)
        assert len(server.requests) == 3
        assert server.connections == 3


async def test_threads_and_loops_share_connections() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client = client_for(server.url)
        await client.aget_prediction(ID)
        await asyncio.to_thread(client.get_prediction, ID)
        await asyncio.to_thread(asyncio.run, client.aget_prediction(ID))
        await asyncio.to_thread(client_for(server.url).get_prediction, ID)
        assert server.connections == 1


def test_cookies_are_not_kept() -> None:
    with serve(lambda _: reply(prediction(), set_cookie="session=1; Path=/")) as server:
        client = client_for(server.url)
        for _ in range(2):
            client.get_prediction(ID)
            client.create_prediction(MODEL, BOAT)
            client.cancel_prediction(ID)
        assert len(server.requests) == 6
        assert [r for r in server.requests if "cookie" in r.headers] == []


def test_requests_say_who_sends_them_and_carry_the_key() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client = client_for(server.url)
        client.create_prediction(MODEL, BOAT)
        client.get_prediction(ID)
        client.cancel_prediction(ID)
        for request in server.requests:
            assert re.fullmatch(
                r"prefect-cometapi/\S+ \(python/3\.\S+\)", request.headers["user-agent"]
            )
            assert request.headers["authorization"] == f"Bearer {KEY}"
        assert [(request.method, request.target) for request in server.requests] == [
            ("POST", f"/replicate/v1/models/{MODEL}/predictions"),
            ("GET", f"/replicate/v1/predictions/{ID}"),
            ("POST", f"/replicate/v1/predictions/{ID}/cancel"),
        ]


def test_a_root_with_a_path_is_kept() -> None:
    with serve(lambda _: reply(prediction())) as server:
        client_for(f"{server.url}/gateway/v1/").get_prediction(ID)
        assert server.requests[0].target == f"/gateway/replicate/v1/predictions/{ID}"


# --- around -----------------------------------------------------------------------------------

Post = Callable[[], Awaitable[Prediction]]


async def test_around_may_write_down_what_happens_before_and_after(sim: Simulator) -> None:
    steps: list[str] = []

    async def around(post: Post) -> Prediction:
        steps.append(f"before {sim.counts.creates}")
        created = await post()
        steps.append(f"after {sim.counts.creates}")
        return created

    created = await client_of(sim).submit(MODEL, BOAT, around)
    assert created.id in sim.predictions
    assert steps == ["before 0", "after 1"]


@pytest.mark.parametrize("how", ["async", "on the background loop", "time-out"])
async def test_a_cancellation_in_the_middle_of_a_create_still_completes_around(how: str) -> None:
    arrived, written = threading.Event(), list[str]()

    async def handler(_: Request) -> Answer:
        arrived.set()
        await asyncio.sleep(0.5)
        return reply(prediction(status="starting"), 201)

    async def around(post: Post) -> Prediction:
        created = await post()
        await asyncio.sleep(0.2)
        written.append(created.id)
        return created

    with serve(handler) as server:
        client = client_for(server.url)

        async def create() -> object:
            if how == "time-out":
                async with asyncio.timeout(0.3):
                    return await client.submit(MODEL, BOAT, around)
            return await client.submit(MODEL, BOAT, around)

        task = asyncio.create_task(
            portal.acall(create) if how == "on the background loop" else create()
        )
        await asyncio.to_thread(arrived.wait, 5)
        if how != "time-out":
            task.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await task
        assert written == [ID]
        assert len(server.requests) == 1


async def test_a_cancellation_before_the_create_is_sent_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SETTING + "REQUESTS_IN_FLIGHT", "1")
    posted = asyncio.Event()

    async def handler(_: Request) -> Answer:
        await asyncio.sleep(0.4)
        return reply(prediction(), 201)

    async def around(post: Post) -> Prediction:
        posted.set()
        return await post()

    with serve(handler) as server:
        client = client_for(server.url)
        first = asyncio.create_task(client.acreate_prediction(MODEL, BOAT))
        await asyncio.sleep(0.15)
        second = asyncio.create_task(client.submit(MODEL, BOAT, around))
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        await asyncio.sleep(0.1)
        assert not posted.is_set()
        assert len(server.requests) == 1


# --- the key check ----------------------------------------------------------------------------


async def test_a_good_key_passes_the_check_and_costs_nothing(sim: Simulator) -> None:
    await client_of(sim).acheck_key()
    assert sim.counts.creates == 0


@pytest.mark.parametrize("status", [400, 404])
async def test_a_gateway_that_refuses_the_made_up_id_has_taken_the_key(status: int) -> None:
    with serve(lambda _: reply({"error": "no such thing"}, status)) as server:
        await client_for(server.url).acheck_key()


async def test_a_bad_key_fails_the_check(sim: Simulator) -> None:
    with pytest.raises(AccountError, match="missing or wrong"):
        await client_for(sim.url, "sk-another").acheck_key()


@pytest.mark.parametrize("status", [200, 404])
async def test_a_web_page_fails_the_check(status: int) -> None:
    page = Answer(status, b"<!doctype html><html></html>", {"content-type": "text/html"})
    with serve(lambda _: page) as server, pytest.raises(RequestRejected):
        await client_for(server.url).acheck_key()


async def test_nobody_there_fails_the_check() -> None:
    with pytest.raises(NeverDelivered):
        await client_for(f"http://127.0.0.1:{closed_port()}").acheck_key()


async def test_no_quota_fails_the_check_whatever_the_status() -> None:
    body = {"error": {"code": "insufficient_user_quota", "message": "user quota is not enough"}}
    with serve(lambda _: reply(body, 400)) as server, pytest.raises(AccountError):
        await client_for(server.url).acheck_key()


async def test_the_check_gets_over_a_hiccup(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "RECONNECT_TIMEOUT", "8")
    sim.script("query", ["502", "dropped", "429-seconds"])
    await client_of(sim).acheck_key()
    assert sim.counts.polls == 4


async def test_the_check_does_not_ask_for_ever(sim: Simulator) -> None:
    sim.set_fault("query.502", 1.0)
    started = time.monotonic()
    with pytest.raises(UnknownOutcome):
        await client_of(sim).acheck_key()
    assert time.monotonic() - started < 5
