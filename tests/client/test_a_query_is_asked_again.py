"""A query is asked again while that may help, within limits of time and size."""

from __future__ import annotations

import gzip
import time

import pytest

from prefect_cometapi.errors import AccountError, PredictionNotFound, UnknownOutcome
from prefect_cometapi.sending import MAX_REPLY_BYTES
from prefect_cometapi.simulator import FAULTS, Simulator
from tests.servers import BOAT, ID, MODEL, Answer, client_for, client_of, configure, serve


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
    configure(monkeypatch, query_timeout=0.5, reconnect_timeout=8)
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
    configure(monkeypatch, query_timeout=0.3, reconnect_timeout=0.5)
    created = client_of(sim).create_prediction(MODEL, BOAT)
    sim.set_fault("query.hang", 1.0)
    started = time.monotonic()
    with pytest.raises(UnknownOutcome, match="no usable reply"):
        client_of(sim).get_prediction(created.id)
    assert time.monotonic() - started < 5


def test_a_reply_that_trickles_in_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each byte comes within any read time-out; the whole does not.
    configure(monkeypatch, query_timeout=0.5, reconnect_timeout=0.1)
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
    configure(monkeypatch, reconnect_timeout=0.1, query_timeout=20)
    body = b" " * (MAX_REPLY_BYTES + 1024 * 1024)
    answer = (
        Answer(200, gzip.compress(body, 1), {"content-encoding": "gzip"})
        if packed
        else Answer(200, body)
    )
    with serve(lambda _: answer) as server, pytest.raises(UnknownOutcome, match="larger than"):
        client_for(server.url).get_prediction(ID)
