"""A create is paid for once: it is sent again only where it certainly was not accepted."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from prefect_cometapi import simulator
from prefect_cometapi.errors import (
    AccountError,
    CometAPIError,
    InputRejected,
    ModelNotFound,
    NeverDelivered,
    RateLimited,
    RequestRejected,
    SubmissionInDoubt,
)
from prefect_cometapi.simulator import FAULTS, Simulator
from tests.servers import (
    BOAT,
    KEY,
    MODEL,
    Answer,
    Request,
    client_for,
    client_of,
    closed_port,
    configure,
    prediction,
    reply,
    serve,
)

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
    configure(monkeypatch, create_timeout=0.5)
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
    configure(monkeypatch, submit_timeout=1)
    with simulator.run(retry_after=0.2, faults={"create.429-body": 1.0}) as sim:
        with pytest.raises(RateLimited) as caught:
            client_of(sim).create_prediction(MODEL, BOAT)
        assert caught.value.retry_after == pytest.approx(0.2)
        assert sim.counts.accepted == 0
        assert sim.counts.creates >= 2


def test_a_429_that_asks_for_more_than_the_cap_waits_no_longer_than_that(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, retry_after_cap=0.2)
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
    configure(monkeypatch, connect_timeout=0.5, reconnect_timeout=0.1)
    with serve(lambda _: reply(prediction())) as server:  # waits for the end of a plain request
        client = client_for(f"https://127.0.0.1:{server.port}")
        with pytest.raises(NeverDelivered):
            client.create_prediction(MODEL, BOAT)
        assert server.requests == []


def test_a_server_that_speaks_no_tls_is_never_delivered(sim: Simulator) -> None:
    with pytest.raises(NeverDelivered):
        client_for(sim.url.replace("http:", "https:")).create_prediction(MODEL, BOAT)
    assert sim.counts.creates == 0


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
