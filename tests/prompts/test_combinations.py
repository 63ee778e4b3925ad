"""Every combination of choices is an input, made as it is needed; a classic mistake is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from prefect_cometapi import InvalidInput, combinations

BOAT = {"prompt": "A boat"}


def test_every_combination_is_made() -> None:
    made = list(combinations(BOAT, seed=[1, 2], aspect_ratio=("1:1", "16:9")))
    assert [each.input for each in made] == [
        {"prompt": "A boat", "seed": seed, "aspect_ratio": ratio}
        for seed in (1, 2)
        for ratio in ("1:1", "16:9")
    ]
    assert made[3].origin == {
        "kind": "combination",
        "choices": {"seed": 2, "aspect_ratio": "16:9"},
    }
    assert made[0].model is None


def test_models_are_choices_too() -> None:
    made = list(combinations(BOAT, model=["a/b", "c/d"], seed=[1]))
    assert [each.model for each in made] == ["a/b", "c/d"]
    assert made[1].input == {"prompt": "A boat", "seed": 1}
    assert made[1].origin["choices"] == {"model": "c/d", "seed": 1}


def test_choices_take_the_place_of_what_is_shared() -> None:
    [made] = combinations({"prompt": "A boat", "seed": 1}, seed=[2], input=["picture"])
    assert made.input == {"prompt": "A boat", "seed": 2, "input": "picture"}


def test_without_choices_there_is_one() -> None:
    [made] = combinations(BOAT)
    assert made.input == BOAT


def test_they_are_made_as_they_are_needed() -> None:
    thousand = range(1000)
    many = combinations(BOAT, a=thousand, b=thousand, c=thousand, d=thousand)
    assert next(many).input == {"prompt": "A boat", "a": 0, "b": 0, "c": 0, "d": 0}


def test_long_choices_are_told_by_their_beginning() -> None:
    [made] = combinations({}, input_image=["data:" + "x" * 100_000])
    assert len(made.input["input_image"]) > 100_000
    assert len(str(made.origin)) < 1_000


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"seed": []}, "its list is empty"),
        ({"seed": iter(())}, "its list is empty"),
        ({"aspect_ratio": "1:1"}, "such as aspect_ratio=['1:1']"),
        ({"seed": 5}, "such as seed=[5]"),
        ({"seed": {"a": 1}}, "they are a list"),
        ({"seed": None}, "they are a list"),
        ({"seed": itertools.count()}, "more than 10,000 choices"),
        ({"model": ["flux"]}, "owner/name"),
        ({"model": [5]}, "owner/name"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_can_not_be_right_is_refused_at_once(choices: Any, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        combinations(BOAT, **choices)
    assert reason in str(refused.value)


def test_an_input_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="not an object of parameters"):
        combinations("A boat", seed=[1])  # type: ignore[arg-type]
