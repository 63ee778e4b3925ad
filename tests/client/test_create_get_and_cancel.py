"""Predictions are created, queried and canceled, and nothing else is ever sent."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from prefect_cometapi import simulator
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.models import Cancellation, Prediction, PredictionStatus
from prefect_cometapi.simulator import FAULTS, Simulator
from tests.servers import BOAT, MODEL, client_of


async def until_finished(client: CometAPIClient, prediction_id: str) -> Prediction:
    for _ in range(200):
        found = await client.aget_prediction(prediction_id)
        if found.finished:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("the simulator never finished")


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
