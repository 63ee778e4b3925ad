"""An input is sent as it was given, or refused before anything is sent."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.wire import encode_create
from tests.replies import SENT


@pytest.mark.parametrize(
    "input",
    [
        {},
        {"prompt": "Ein Boot, 紙の船 🛶", "n": 1, "f": 0.5, "none": None, "yes": True},
        {"input_images": ["https://a.example/b?c=1&d=2", "data:image/png;base64,AA=="]},
        MappingProxyType({"deep": {"er": [{"est": ()}]}}),
    ],
    ids=["empty", "kinds", "files", "any-mapping"],
)
def test_an_input_arrives_as_it_was_given(input: Mapping[str, Any]) -> None:
    body = json.loads(encode_create(input))
    assert body == {"input": json.loads(json.dumps(dict(input)))}


def circular() -> dict[str, Any]:
    loop: dict[str, Any] = {"list": []}
    loop["list"].append(loop)
    return loop


def bottomless() -> dict[str, Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return {"deep": deep}


NAN = float("nan")
REFUSED: dict[str, object] = {
    "none": None,
    "text": "a boat",
    "json-text": '{"prompt": "a boat"}',
    "list": [("prompt", "a boat")],
    "number": 5,
    "nan": {"seed": NAN},
    "nan-nested": {"a": [{"b": NAN}]},
    "infinite": {"a": {"b": float("inf")}},
    "minus-infinite": {"a": [float("-inf")]},
    "number-as-name": {1: "a"},
    "none-as-name": {None: "a"},
    "number-as-name-nested": {"a": {"b": [{1: "x"}]}},
    "number-as-name-in-a-tuple": {"a": ({True: "x"},)},
    "bytes": {"image": b"\x89PNG"},
    "datetime": {"when": SENT},
    "path": {"image": Path(__file__)},
    "set": {"a": {1, 2}},
    "surrogate": {"prompt": "\ud83d"},
    "surrogate-in-a-name": {"\ud83d": 1},
    "circular": circular(),
    "bottomless": bottomless(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_json_can_not_carry_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(InvalidInput, match="Nothing was sent"):
        encode_create(REFUSED[name])  # type: ignore[arg-type]
