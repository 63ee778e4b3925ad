"""Every item belongs to one shard of its scope, on every machine, and stays there."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest

from prefect_cometapi import PredictionRequest, Shard
from tests.processes import ran

SHARDS = Shard.all_of("night", 4)


def owner(item: object, shards: list[Shard] = SHARDS) -> int:
    """The number of the one shard that takes it."""
    [number] = [shard.number for shard in shards if shard.takes(item)]  # type: ignore[arg-type]
    return number


def test_each_takes_about_as_many() -> None:
    keyed = [PredictionRequest(input={}, key=f"row-{number}") for number in range(4000)]
    plain = [{"prompt": f"boat {number}"} for number in range(4000)]
    for items in (keyed, plain):
        shares = Counter(map(owner, items))
        assert len(shares) == 4
        assert all(900 < share < 1100 for share in shares.values())
    assert sum(len(list(shard.pick(keyed))) for shard in SHARDS) == 4000


def test_with_a_key_the_input_does_not_matter() -> None:
    for number in range(50):
        one = PredictionRequest(input={"prompt": "a boat"}, key=str(number))
        other = PredictionRequest(input={"prompt": "a ship"}, key=number, sample=1)
        assert owner(one) == owner(other)


def test_without_one_the_input_is_what_matters() -> None:
    for number in range(50):
        input = {"prompt": f"boat {number}", "seed": number}
        other = PredictionRequest(input=dict(reversed(input.items())), labels={"row": number})
        assert owner(input) == owner(other)


#: Written down: with another rule, what is paid for would be looked for in other shards.
WHERE = {"row-1": 2, "row-2": 4, "row-3": 3, "ä": 2, "": 4}


def test_where_an_item_belongs_never_changes() -> None:
    assert {key: owner(PredictionRequest(input={}, key=key)) for key in WHERE} == WHERE
    assert [owner({"prompt": f"boat {number}"}) for number in range(6)] == [1, 3, 4, 2, 3, 1]


def test_it_is_the_same_in_another_process() -> None:
    script = """
import json
from prefect_cometapi import Shard
items = [{"prompt": f"boat {number}"} for number in range(100)]
for shard in Shard.all_of("night", 4):
    print(json.dumps([shard.takes(item) for item in items]))
"""
    items = [{"prompt": f"boat {number}"} for number in range(100)]
    here = [[shard.takes(item) for item in items] for shard in SHARDS]
    assert ran(script, env={**os.environ, "PYTHONHASHSEED": "1"}) == here


@pytest.mark.parametrize(
    "odd", [5, None, "text", {1: 2, "a": 3}, {"a": {1, 2}}, {"a": float("nan")}]
)
def test_what_is_no_item_belongs_to_one_shard_which_refuses_it(odd: object) -> None:
    assert owner(odd) in range(1, 5)


def test_a_shard_travels_as_plain_data() -> None:
    [shard, *_] = SHARDS
    again = Shard.model_validate(json.loads(shard.model_dump_json()))
    assert again == shard
    assert again.scope == "night, shard 1 of 4"
    assert len({shard.scope for shard in SHARDS}) == 4
