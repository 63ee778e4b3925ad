"""What a language model wrote is kept before it is used: whoever asks again in the scope, after a
failure, in another process or at the same time, gets the same prompts, and so the same predictions.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prefect import flow

from prefect_cometapi import (
    InvalidInput,
    StorageError,
    generate_prompts,
    read_manifest,
    run_predictions,
)
from tests.batches import TEXT
from tests.prompts.conftest import BRIEF, Writing, prompts_of, said
from tests.storages import FolderOfObjects

# --- what comes out, and what is kept ---------------------------------------------------------


def test_so_many_different_prompts_come_back(
    writing: Writing, log: pytest.LogCaptureFixture
) -> None:
    made = writing.write(n=7, input={"aspect_ratio": "16:9"})
    assert len(set(prompts_of(made))) == 7
    assert {each.input["aspect_ratio"] for each in made} == {"16:9"}
    kept = writing.kept()
    assert [each["prompt"] for each in kept["prompts"]] == prompts_of(made)
    assert made[4].origin == {
        "kind": "language model",
        "model": "gpt-5-mini",
        "brief": BRIEF,
        "response_id": kept["prompts"][4]["response_id"],
        "number": 4,
    }
    assert str(made[4].origin["response_id"]).startswith("chatcmpl-")
    [question] = writing.questions()
    assert question["model"] == "gpt-5-mini"
    assert question["response_format"]["type"] == "json_schema"
    [line] = said(log)
    assert line == f"gpt-5-mini wrote 7 prompts ({kept['tokens']} tokens, in 1 answer)."
    assert kept["tokens"] > 0


def test_a_long_brief_is_whole_only_once(writing: Writing) -> None:
    brief = f"{BRIEF}, like https://host.example/a.png?sig=hush " + "and so on " * 1_000
    made = writing.write(brief=brief)
    assert writing.kept()["brief"] == brief
    assert all(len(str(each.origin)) < 1_000 and "hush" not in str(each) for each in made)
    assert {len(each.origin["brief_sha256"]) for each in made} == {64}


def test_who_asks_again_gets_the_same(writing: Writing, log: pytest.LogCaptureFixture) -> None:
    first = writing.write()
    assert writing.write() == first
    assert writing.asked == 1
    assert "Found the 6 prompts that gpt-5-mini has written" in said(log)[-1]
    assert str(writing.folder) in said(log)[-1]


async def test_the_async_twin_finds_them_too(writing: Writing) -> None:
    first = await writing.awrite()
    assert await asyncio.to_thread(writing.write) == first
    assert writing.asked == 1


@pytest.mark.parametrize(
    "other",
    [
        {"scope": "another"},
        {"brief": "Other boats"},
        {"n": 5},
        {"model": "deepseek-v3.2"},
        {"input": {"seed": 1}},
        {"sample": 1},
    ],
    ids=repr,
)
def test_who_asks_for_something_else_gets_that(other: dict[str, Any], writing: Writing) -> None:
    writing.write()
    writing.write(**other)
    assert writing.asked == 2
    assert len(writing.files()) == 2


def test_samples_are_different_prompts(writing: Writing) -> None:
    samples = [prompts_of(writing.write(sample=sample)) for sample in range(3)]
    assert len({tuple(each) for each in samples}) == 3


def test_many_are_asked_for_in_parts(writing: Writing) -> None:
    made = writing.write(n=120)
    assert len({prompt.casefold() for prompt in prompts_of(made)}) == 120
    assert 3 <= writing.asked <= 6
    assert "Write others" in writing.questions()[1]["messages"][1]["content"]


def test_equal_calls_at_the_same_time_are_one(writing: Writing) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: writing.write(), range(4)))
    assert made[1:] == made[:-1]
    assert writing.asked == 1


# --- storages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"prompts": []}'], ids=repr)
def test_a_file_that_can_not_be_read_is_an_error(torn: bytes, writing: Writing) -> None:
    writing.write()
    [file] = writing.files()
    file.write_bytes(torn)
    with pytest.raises(StorageError, match="can not be read") as raised:
        writing.write()
    assert file.name in str(raised.value)
    assert "Nothing was sent." in str(raised.value)
    assert writing.asked == 1


def test_a_storage_that_takes_nothing_is_found_out_first(writing: Writing) -> None:
    writing.folder.write_text("in the way")
    with pytest.raises(StorageError, match=r"Nothing was sent\."):
        writing.write()
    assert writing.asked == 0


def test_an_object_store_keeps_them(writing: Writing) -> None:
    block = FolderOfObjects(root=str(writing.folder))
    first = writing.write(storage=block)
    assert writing.write(storage=block) == first
    assert writing.asked == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"brief": ""},
        {"n": 0},
        {"input": "x"},
        {"input": {"prompt": "x"}},
        {"input": {"a": float("nan")}},
        {"scope": ""},
        {"scope": 5},
        {"scope": "half \ud83d"},
        {"sample": -1},
        {"sample": True},
        {"input": {1: "a"}},
        {"storage": 5},
        {"storage": "s3://bucket"},
        {"model": "two words"},
    ],
    ids=repr,
)
def test_what_can_not_be_right_is_refused_before_anything_is_sent(
    wrong: dict[str, Any], writing: Writing
) -> None:
    with pytest.raises(InvalidInput, match=r"Nothing was\s+sent"):
        writing.write(**wrong)
    assert writing.asked == 0
    assert writing.files() == []


# --- runs -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prefect_server")
def test_a_retried_run_asks_no_one_and_pays_for_nothing(writing: Writing) -> None:
    seen: list[tuple[list[str], list[str | None]]] = []

    @flow(retries=1, retry_delay_seconds=0)
    def gallery() -> None:
        requests = generate_prompts(writing.credentials, BRIEF, 4, storage=writing.folder)
        result = run_predictions(writing.credentials, TEXT, requests, writing.folder)
        made = [item.prediction_id for item in result.items]
        seen.append((prompts_of(requests), made))
        assert result.manifest
        origins = [item.origin for item in read_manifest(writing.folder, result.manifest)]
        assert origins == [each.origin for each in requests]
        if len(seen) == 1:
            raise RuntimeError("after everything was paid for")

    gallery()
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert writing.asked == 1
    assert writing.service.counts.charged == 4
