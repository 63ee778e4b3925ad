"""Artifacts have the same key night after night, so that Prefect's UI shows their history; what is
not the same work has another one.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from prefect import task

from prefect_cometapi import Shard, artifacts
from prefect_cometapi.artifact_keys import Kind, Numbers, Whose, base_of, key_of, part

FLUX = "black-forest-labs/flux-schnell"


@pytest.mark.parametrize(
    ("whose", "model", "scope", "key"),
    [
        (Whose("quickstart"), FLUX, "", "quickstart-black-forest-labs-flux-schnell"),
        (Whose("quickstart", "nightly"), FLUX, "2026-11-22", f"quickstart-nightly-{part(FLUX)}"),
        (Whose("Nightly catalogue"), "a/b", "", "nightly-catalogue-a-b"),
        (Whose("shop", "", "Run predictions"), "a/b", "", "shop-a-b"),
        (Whose("shop", "", "Generate"), "a/b", "", "shop-a-b"),
        (Whose("shop", "", "Make kettles"), "a/b", "", "shop-make-kettles-a-b"),
        (Whose("", "", "Make kettles"), "a/b", "", "make-kettles-a-b"),
        (Whose(), "a/b", "", "a-b"),
        (Whose("shop"), "a/b", Shard.all_of("a night", 8)[2].scope, "shop-a-b-shard-3-of-8"),
        (Whose("shop"), "a/b", "the other night", "shop-a-b"),
    ],
)
def test_a_key_is_made_of_what_stays(whose: Whose, model: str, scope: str, key: str) -> None:
    base = base_of(whose, model, scope)
    assert key_of(base, Kind.SUMMARY) == f"cometapi-summary-{key}"
    assert key_of(base, Kind.GALLERY, 2) == f"cometapi-gallery-{key}-2"


@pytest.mark.parametrize(
    "name",
    [
        "Nächtliche Bilder",
        "夜のギャラリー",
        "a" * 300,
        "emoji 🎨",
        "---",
        "half a \ud83d pair",
        "a/b:c@d#e?f",
        "a" * 41,
    ],
)
def test_prefect_takes_every_key(name: str) -> None:
    key = key_of(base_of(Whose(name, name, name), name), Kind.PREDICTION, 12)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)
    assert len(key) < 200


@pytest.mark.parametrize(
    ("one", "other"),
    [("Bilder für A", "Bilder fur A"), ("夜", "昼"), ("a" * 50 + "b", "a" * 50 + "c")],
)
def test_names_that_lose_something_stay_apart(one: str, other: str) -> None:
    assert part(one) != part(other)


def test_batches_of_a_run_are_numbered_in_their_order() -> None:
    numbers = Numbers()
    assert [numbers.take("run", "shop-a-b", task) for task in ("t1", "t2", "t3")] == [1, 2, 3]
    assert numbers.take("run", "shop-other-model", "t4") == 1
    assert numbers.take("another run", "shop-a-b", "t5") == 1


def test_a_task_that_is_tried_again_has_its_number() -> None:
    numbers = Numbers()
    assert [numbers.take("run", "a", task) for task in ("t1", "t2")] == [1, 2]
    assert numbers.take("run", "a", "t1", tried=2) == 1
    assert numbers.take("run", "a", "t2", tried=2) == 2
    assert numbers.take("run", "a", "t3") == 3


def test_so_has_each_of_several_batches_in_one_task() -> None:
    numbers = Numbers()
    assert [numbers.take("run", "a", "t1", tried) for tried in (1, 1, 2, 2)] == [1, 2, 1, 2]


def test_those_that_are_part_of_no_task_are_counted() -> None:
    numbers = Numbers()
    assert [numbers.take("run", "a") for _ in range(3)] == [1, 2, 3]


def test_a_process_that_sees_many_runs_forgets_the_oldest() -> None:
    numbers = Numbers()
    for run in range(Numbers.RUNS + 50):
        assert numbers.take(run, "a") == 1
    assert len(numbers._runs) == Numbers.RUNS
    assert numbers.take(Numbers.RUNS + 49, "a") == 2


@pytest.mark.usefixtures("prefect_server")
def test_tasks_without_a_flow_have_the_same_key_each_time() -> None:
    @task
    async def alone() -> list[str]:
        keys = [artifacts.Keys("owner/model", "scope") for _ in range(2)]
        return [await each.of(Kind.SUMMARY) for each in keys]

    first, second = asyncio.run(_twice(alone))
    assert first == second == ["cometapi-summary-alone-owner-model", f"{first[0]}-2"]


async def _twice(work: Any) -> list[list[str]]:
    return [await work(), await work()]
