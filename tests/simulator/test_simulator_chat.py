"""Chat completions answer what was asked, in the form that was asked for."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from prefect_cometapi import simulator
from prefect_cometapi.simulator.chat import complete


def ask(text: Any, seed: int = 0, **more: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return str(complete(body, seed, 0.0)["choices"][0]["message"]["content"])


def test_plain_text() -> None:
    lines = ask("Write five picture prompts in 16:9 about a paper boat.").splitlines()
    assert [line[:2] for line in lines] == ["1.", "2.", "3.", "4.", "5."]
    assert len({line[2:] for line in lines}) == 5
    assert all("a paper boat" in line for line in lines)
    assert ask("A 16:9 picture of a cat").startswith("a cat, ")


def test_equal_questions_get_equal_answers() -> None:
    text = "Give me 3 prompts about boats"
    assert ask(text) == ask(text)
    assert ask(text) != ask(text, seed=1) != ask(text, seed=2)
    assert ask([{"type": "text", "text": text}]) == ask(text)


def test_json_object() -> None:
    form = {"type": "json_object"}
    answer = json.loads(ask('Give 4 as {"ideas": [...]} about tea', response_format=form))
    assert len(answer["ideas"]) == 4
    assert len(json.loads(ask("tea", response_format=form))["prompts"]) == 3


def test_json_that_is_asked_for_in_words_alone() -> None:
    assert len(json.loads(ask('Give 4 as {"ideas": [...]} about tea'))["ideas"]) == 4


SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {"prompts": {"type": "array", "items": {"type": "string"}, "minItems": 12}},
        "required": ["prompts"],
        "additionalProperties": False,
    },
    {
        "$defs": {"idea": {"type": "object", "properties": {"text": {"type": "string"}}}},
        "type": "object",
        "properties": {
            "ideas": {"type": "array", "items": {"$ref": "#/$defs/idea"}, "maxItems": 2},
            "ratio": {"enum": ["1:1", "16:9"]},
            "kind": {"const": "picture"},
            "steps": {"type": "integer", "minimum": 2, "maximum": 4},
            "strength": {"type": "number", "maximum": 0},
            "bright": {"type": "boolean"},
            "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
            "maybe": {"type": ["null", "string"]},
        },
        "required": ["ideas", "ratio", "kind", "steps", "strength", "bright", "note", "maybe"],
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_json_schema(schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for seed in range(20):
        answer = json.loads(ask("Give me 5 prompts about boats", seed, response_format=form))
        jsonschema.validate(answer, schema)
    if "prompts" in answer:
        assert len(set(answer["prompts"])) == 12


def test_over_the_wire() -> None:
    with simulator.run() as service, httpx.Client(base_url=service.url) as client:
        assert client.post("/v1/chat/completions", json={}).status_code == 401
        client.headers["Authorization"] = "Bearer key"
        body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "boats"}]}
        value = client.post("/v1/chat/completions", json=body).json()
        assert (value["object"], value["model"]) == ("chat.completion", "gpt-5-mini")
        usage = value["usage"]
        parts = usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["total_tokens"] == parts > 0
        empty = client.post("/v1/chat/completions", json={"model": "m"})
        assert (empty.status_code, empty.json()["error"]["code"]) == (500, "invalid_request")
        stream = client.post("/v1/chat/completions", json={**body, "stream": True})
        assert stream.status_code == 400
        models = client.get("/v1/models").json()
        assert "gpt-5-mini" in [model["id"] for model in models["data"]]
        assert service.counts.chats == 4
