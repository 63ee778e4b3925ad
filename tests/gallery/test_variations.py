"""A grid of variations, the best of which a second model edits; neither is paid for twice."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import State

from flows.variations import best_of, variations
from prefect_cometapi import BatchItem, ItemStatus, SavedFile
from prefect_cometapi.simulator import Simulator, service
from prefect_cometapi.simulator.catalogue import CATALOGUE
from tests.gallery.galleries import artifacts_of, own
from tests.servers import configure

SCHNELL, PRO = "black-forest-labs/flux-schnell", "black-forest-labs/flux-2-pro"
EDITOR = "black-forest-labs/flux-kontext-pro"


async def vary(folder: Path, *, retries: int = 0, **more: Any) -> State[str]:
    """A run of the flow, of two models and two seeds; a failure is told by its state."""
    flow = variations.with_options(retries=retries, retry_delay_seconds=0)
    parameters: Any = {"prompt": "A boat", "aspect_ratios": ["3:2"], "storage": str(folder), **more}
    if "scope" in more:
        parameters["scope"] = own(more["scope"], folder)
    state: State[str] = await flow(**parameters, return_state=True)
    return state


async def test_each_combination_is_made_and_the_largest_is_edited(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    state = await vary(tmp_path, aspect_ratios=["1:1", "16:9"])
    made = list(cometapi_simulator.predictions.values())
    grid = [each for each in made if each.model != EDITOR]
    assert {(e.model, e.input["aspect_ratio"], e.input["seed"]) for e in grid} == {
        (model, ratio, seed)
        for model in (SCHNELL, PRO)
        for ratio in ("1:1", "16:9")
        for seed in (1, 2)
    }
    (edit,) = [each for each in made if each.model == EDITOR]
    files = list(tmp_path.glob("variations/*/*.webp"))
    largest = max(files, key=lambda path: path.stat().st_size)
    assert len(files) == 8
    given = base64.b64decode(edit.input["input_image"].partition(",")[2])
    assert given == largest.read_bytes()
    assert edit.id in Path(await state.aresult()).name
    (table,) = await artifacts_of(state, "variations")
    assert str(table.data).count(await state.aresult()) == 1
    assert table.description == "8 saved"


async def test_its_table_is_an_artifact_that_can_be_turned_off(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, artifacts=False)
    state = await vary(tmp_path)
    assert Path(await state.aresult()).is_file()
    assert not await artifacts_of(state, "variations")


async def test_no_text_of_a_user_is_read_as_markdown(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    link = "[A boat](https://evil.example)"
    state = await vary(tmp_path, prompt=link, edit=f"!{link}")
    (table,) = await artifacts_of(state, "variations")
    assert "evil" not in f"{table.data} {table.description}"


def makes_nothing(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Let predictions of a model succeed without an output."""
    changed = {**CATALOGUE, model: replace(CATALOGUE[model], output="null")}
    monkeypatch.setattr(service, "CATALOGUE", changed)


async def test_a_success_without_an_output_is_not_the_best_one(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes_nothing(monkeypatch, SCHNELL)
    state = await vary(tmp_path)
    assert state.is_completed()
    (table,) = await artifacts_of(state, "variations")
    assert str(table.data).count("no output") == 2


async def test_an_edit_without_an_output_is_told_and_paid_for_once(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes_nothing(monkeypatch, EDITOR)
    state = await vary(tmp_path, retries=1)
    assert state.is_failed()
    assert "made no output" in str(state.message)
    assert cometapi_simulator.counts.creates == 5


async def test_the_same_scope_again_pays_nothing(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    first, again = [await vary(tmp_path, scope="boats") for _ in range(2)]
    assert await first.aresult() == await again.aresult()
    assert cometapi_simulator.counts.creates == 5
    another = await vary(tmp_path, scope="boats", edit="A boat in a bottle")
    assert await another.aresult() != await first.aresult()
    assert cometapi_simulator.counts.creates == 6  # the edit alone


async def test_a_retry_after_a_failed_edit_pays_for_no_picture_again(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    # The editor's create is not accepted at first: nothing is left of it but the retry.
    cometapi_simulator.script("create", ["ok", "ok", "ok", "ok", "400"])
    state = await vary(tmp_path, retries=1)
    assert state.is_completed()
    assert cometapi_simulator.counts.charged == 5


async def test_one_that_fails_leaves_the_others_to_choose_from(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed", "refused"])
    assert (await vary(tmp_path)).is_completed()
    assert cometapi_simulator.counts.charged == 5


async def test_what_failed_is_made_again_only_when_asked_for_and_only_once(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.set_fault("prediction.failed", 1.0)
    for retry_failed, creates in ((False, 4), (False, 4), (True, 8)):
        await vary(tmp_path, retries=1, scope="boats", retry_failed=retry_failed)
        assert cometapi_simulator.counts.creates == creates


async def test_an_edit_that_failed_is_made_again_only_when_asked_for(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["ok", "ok", "ok", "ok", "failed"])
    for retry_failed, creates in ((False, 5), (False, 5), (True, 6)):
        state = await vary(tmp_path, retries=1, scope="boats", retry_failed=retry_failed)
        assert state.is_completed() == retry_failed
        assert cometapi_simulator.counts.creates == creates


async def test_without_a_picture_there_is_no_edit(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.set_fault("prediction.failed", 1.0)
    state = await vary(tmp_path)
    assert state.is_failed()
    assert ": 4 failed" in str(state.message)
    assert cometapi_simulator.counts.creates == 4


async def test_what_the_retry_may_still_save_is_waited_for_before_the_choice(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files that can not be fetched are "paid, not saved" until they can.
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_DOWNLOAD_TIMEOUT", "0.5")
    cometapi_simulator.script("file", ["ok", "ok", "ok", *["500"] * 50])
    state = await vary(tmp_path)
    assert state.is_failed()
    assert "nothing is open any more" in str(state.message)
    assert cometapi_simulator.counts.creates == 4


async def test_a_grid_that_is_too_large_is_refused_for_free(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    state = await vary(tmp_path, seeds=list(range(40)))
    assert state.is_failed()
    assert "Nothing was sent" in str(state.message)
    assert cometapi_simulator.counts.creates == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.randoms())
def test_the_choice_is_the_same_in_any_order(sizes: list[int], source: Any) -> None:
    items = [
        BatchItem(
            number=number,
            status=ItemStatus.SAVED,
            model=SCHNELL,
            files=[
                SavedFile(
                    location="", name="", output="output", media_type="", size=size, sha256=""
                )
            ],
        )
        for number, size in enumerate(sizes)
    ]
    best = best_of(items)
    source.shuffle(items)
    assert best_of(items) is best
    assert best.files[0].size == max(sizes)
    assert best.number == sizes.index(max(sizes))
