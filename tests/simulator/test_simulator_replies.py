"""Predictions over the wire: shapes, states by the clock, rules of input."""

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from prefect_cometapi import simulator
from prefect_cometapi.simulator.catalogue import CATALOGUE, DATA_URI_LIMIT, invalid_fields
from prefect_cometapi.simulator.predictions import draw_times

SCHNELL = "black-forest-labs/flux-schnell"
SCHEMAS = Path(__file__).parent.parent / "data" / "replicate.schemas.json"


class Clock:
    now = 1_773_314_838.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(clock: Clock, request: pytest.FixtureRequest) -> Iterator[simulator.Simulator]:
    options = getattr(request, "param", {})
    with simulator.run(clock=clock, output_ttl=60, **options) as running:
        yield running


@pytest.fixture
def client(service: simulator.Simulator) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {service.api_key}"}
    with httpx.Client(base_url=service.url, headers=headers) as client:
        yield client


def create(client: httpx.Client, model: str = SCHNELL, **given: Any) -> httpx.Response:
    body = {"input": {"prompt": "a paper boat", **given}}
    return client.post(f"/replicate/v1/models/{model}/predictions", json=body)


def query(client: httpx.Client, key: str) -> Any:
    return client.get(f"/replicate/v1/predictions/{key}").raise_for_status().json()


def schema(name: str) -> Any:
    def read(part: Any) -> Any:
        if isinstance(part, list):
            return [read(each) for each in part]
        if not isinstance(part, dict):
            return part
        read_ = {key: read(each) for key, each in part.items()}
        return {**read_, "type": [part["type"], "null"]} if part.get("nullable") else read_

    value = read(json.loads(SCHEMAS.read_text())["schemas"][name])
    # `version` is one of "any string" and "hidden", so that "hidden" is never just one of them.
    for part in value["properties"].values():
        if "oneOf" in part:
            part["anyOf"] = part.pop("oneOf")
    return value


def test_a_prediction_lives_by_the_clock(client: httpx.Client, clock: Clock) -> None:
    queue, run = draw_times(0, 1, 1.5)
    reply = create(client, num_outputs=2, seed=7)
    value = reply.json()
    assert (reply.status_code, value["status"], value["output"]) == (201, "starting", None)
    assert re.fullmatch(r"[a-z0-9]{26}", value["id"])
    assert value["created_at"] == "2026-03-12T11:27:18.250Z"
    seen = [value]
    for moment in (queue * 1.01, run * 0.5, run * 0.51):
        clock.now += moment
        seen.append(query(client, value["id"]))
    starting, early, half, done = seen
    assert [each["status"] for each in seen] == ["starting", *["processing"] * 2, "succeeded"]
    assert starting["logs"] == "" < early["logs"] < half["logs"] < done["logs"]
    assert " 50%|█████     | 2/4" in half["logs"]
    assert "metrics" not in half
    assert done["metrics"] == {"predict_time": pytest.approx(run, abs=1e-4), "image_count": 2}
    assert done["input"] == {"prompt": "a paper boat", "num_outputs": 2, "seed": 7}
    files = [httpx.get(url) for url in done["output"]]
    assert [file.headers["content-type"] for file in files] == ["image/webp"] * 2

    clock.now += 59
    assert query(client, value["id"])["output"] == done["output"]
    clock.now += 2
    gone = query(client, value["id"])
    assert gone["data_removed"] is True
    assert (gone["output"], gone["input"], gone["logs"]) == (None, {}, "")
    assert httpx.get(done["output"][0]).status_code == 404

    response = schema("schemas_prediction_response")
    for each in (*seen, gone):
        jsonschema.validate(each, response)
        for name in ("created_at", "started_at", "completed_at"):
            assert name not in each or datetime.fromisoformat(each[name]).utcoffset() is not None


def test_what_we_send_is_what_replicate_takes() -> None:
    jsonschema.validate({"input": {"prompt": "x"}}, schema("schemas_prediction_request"))


@pytest.mark.parametrize("service", [{"shape": "enveloped"}], indirect=True)
def test_the_envelope(client: httpx.Client, clock: Clock, service: simulator.Simulator) -> None:
    service.script("prediction", ["ok", "failed", "ok"])
    first, second, third = (create(client).json()["data"] for _ in range(3))
    assert "task_id" not in first, "the lesser envelope"
    assert second["task_id"] == second["data"]["id"]
    key = first["id"]
    waiting = {query(client, key)["data"]["status"]}
    queue, run = draw_times(0, 1, 1.5)
    for _ in range(2):
        clock.now += queue * 0.4
        waiting.add(query(client, key)["data"]["status"])
    assert waiting == {"NOT_START", "SUBMITTED", "QUEUED"}
    clock.now += queue * 0.3
    assert query(client, key)["data"]["status"] == "IN_PROGRESS"
    cancel = client.post(f"/replicate/v1/predictions/{third['data']['id']}/cancel").json()
    assert cancel["data"]["status"] == "CANCELLED"
    assert cancel["data"]["data"]["status"] == "canceled"
    clock.now += run + 30
    done, failed = query(client, key)["data"], query(client, second["task_id"])["data"]
    assert (done["status"], done["progress"], done["platform"]) == ("SUCCESS", "100%", "replicate")
    assert done["data"]["output"][0].endswith("out-0.webp")
    assert (failed["status"], failed["fail_reason"]) == ("FAILURE", "CUDA out of memory")


@pytest.mark.parametrize("service", [{"shape": "mixed"}], indirect=True)
def test_shapes_take_turns(client: httpx.Client) -> None:
    assert ["data" in create(client).json() for _ in range(6)] == [False, True] * 3


def test_cancel(client: httpx.Client, clock: Clock, service: simulator.Simulator) -> None:
    key, other = create(client).json()["id"], create(client).json()["id"]
    path = f"/replicate/v1/predictions/{key}/cancel"
    assert client.post(path).json()["status"] == "canceled"
    clock.now += 30
    assert query(client, key)["status"] == "canceled"
    assert client.post(path.replace(key, other)).json()["status"] == "succeeded", "too late"
    assert client.post(path.replace(key, "nobody")).status_code == 404
    assert service.counts.cancels == 3
    assert service.predictions[key].status == "canceled"


OUTPUTS: dict[str, Callable[[Any, str], bool]] = {
    "simulator/text-tokens": lambda out, _: "".join(out) == "A simulated answer to: a paper boat",
    "simulator/text": lambda out, _: out == "A simulated answer to: a paper boat",
    "simulator/object": lambda out, root: out["more"]["mask"].startswith(f"{root}/files/"),
    "simulator/number": lambda out, _: isinstance(out, float),
    "simulator/data-uri": lambda out, _: out.startswith("data:image/png;base64,"),
    "simulator/nothing": lambda out, _: out is None,
    "simulator/url": lambda out, root: out.startswith(f"{root}/files/"),
    "black-forest-labs/flux-kontext-pro": lambda out, _: out.endswith("/out-0.png"),
    "black-forest-labs/flux-2-pro": lambda out, _: out.endswith("/out-0.webp"),
    "black-forest-labs/flux-schnell": lambda out, _: len(out) == 1,
    "stability-ai/sdxl": lambda out, _: out[0].endswith("/out-0.png"),
}


@pytest.mark.parametrize("model", CATALOGUE)
def test_each_kind_of_output(
    model: str, client: httpx.Client, clock: Clock, service: simulator.Simulator
) -> None:
    key = create(client, model).json()["id"]
    clock.now += 50
    done = query(client, key)
    assert done["status"] == "succeeded"
    assert OUTPUTS[model](done["output"], service.url)
    assert f"| `{model}` |" in str(simulator.__doc__)


@pytest.mark.parametrize("service", [{"public_url": "https://files.example/"}], indirect=True)
def test_files_behind_a_public_url(client: httpx.Client, clock: Clock) -> None:
    key = create(client).json()["id"]
    clock.now += 30
    (url,) = query(client, key)["output"]
    assert url.startswith(f"https://files.example/files/{key}/")
    assert client.get(httpx.URL(url).path).status_code == 200
    assert client.get(f"/files/{key}/out-1.webp").status_code == 404
    assert client.get(f"/files/{key}/out-0.png").status_code == 404


def test_errors_in_the_services_own_words(client: httpx.Client) -> None:
    path = f"/replicate/v1/models/{SCHNELL}/predictions"
    unknown = create(client, "black-forest-labs/flux-9")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "model_not_found")
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer"}):
        refused = client.post(path, json={"input": {}}, headers=headers)
        assert refused.status_code == 401
        assert re.search(r"\(request id: \w{28}\)$", refused.json()["error"]["message"])
    wrong = create(client, "black-forest-labs/flux-kontext-pro", output_format="webp")
    assert wrong.status_code == 422
    text = 'output_format must be one of the following: "jpg", "png"'
    assert wrong.json() == {
        "detail": f"- input.output_format: {text}\n",
        "status": 422,
        "title": "Input validation failed",
        "invalid_fields": [
            {
                "type": "enum",
                "field": "input.output_format",
                "description": text,
            }
        ],
    }
    assert client.post(path, content=b"{").status_code == 422
    missing = client.get("/replicate/v1/predictions/nobody")
    assert (missing.status_code, missing.json()["code"]) == (400, "task_not_exist")
    for lost in (client.get("/replicate/predictions"), client.put("/v1/models"), client.get(path)):
        assert (lost.status_code, lost.text[:14]) == (200, "<!doctype html")


@pytest.mark.parametrize("service", [{"api_key": "only-this"}], indirect=True)
def test_the_one_right_key(client: httpx.Client) -> None:
    assert create(client).status_code == 201
    client.headers["Authorization"] = "Bearer another"
    assert create(client).status_code == 401


@pytest.mark.parametrize(
    ("given", "types"),
    [
        (None, ["required"]),
        ({}, ["required"]),
        ({"prompt": 3}, ["invalid_type"]),
        ({"prompt": "x", "num_outputs": 5}, ["number_lte"]),
        ({"prompt": "x", "num_outputs": 0}, ["number_gte"]),
        ({"prompt": "x", "num_outputs": True}, ["invalid_type"]),
        ({"prompt": "x", "num_inference_steps": 4.5}, ["invalid_type"]),
        ({"prompt": "x", "aspect_ratio": "7:5", "seed": None}, ["enum", "invalid_type"]),
        ({"prompt": "x", "unknown": 1}, []),
    ],
)
def test_rules_of_input(given: Any, types: list[str]) -> None:
    assert [field["type"] for field in invalid_fields(CATALOGUE[SCHNELL], given)] == types


def test_rules_for_files() -> None:
    model = CATALOGUE["black-forest-labs/flux-2-pro"]
    long = "data:image/png;base64," + "A" * DATA_URI_LIMIT
    for uris, types in (
        (["https://x/y.png", "data:,x"], []),
        (["/etc/passwd"], ["format"]),
        ([long], ["string_lte"]),
        (["https://x"] * 9, ["number_lte"]),
        ("https://x", ["invalid_type"]),
    ):
        found = invalid_fields(model, {"prompt": "x", "input_images": uris})
        assert [field["type"] for field in found] == types


def test_times_are_drawn_around_the_median() -> None:
    times = [draw_times(3, number, 2.0) for number in range(1, 1001)]
    assert times == [draw_times(3, number, 2.0) for number in range(1, 1001)]
    assert times != [draw_times(4, number, 2.0) for number in range(1, 1001)]
    runs = sorted(run for _, run in times)
    assert math.isclose(runs[500], 2.0, rel_tol=0.1)
    assert runs[0] < 1.2
    assert runs[-1] > 3.5
