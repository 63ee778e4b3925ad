"""A flow that makes pictures one by one shows them all in one gallery, when it says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, runtime

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    InvalidInput,
    acreate_gallery_artifact,
    agenerate,
    create_gallery_artifact,
    generate,
    run_predictions,
)
from tests.artifacts.shown import artifacts_of, only, picture, shown_by
from tests.servers import BOAT, MODEL, configure

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def made(credentials: CometAPICredentials, tmp_path: Path) -> Generation:
    generation: Generation = generate.fn(credentials, MODEL, BOAT, tmp_path)
    return generation


def test_sixteen_predictions_are_one_gallery(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    runs = []

    @flow(name="Boats")
    async def working() -> UUID | None:
        runs.append(str(runtime.flow_run.id))
        made = await asyncio.gather(
            *(
                agenerate(credentials, MODEL, {"prompt": f"Boat {n}"}, tmp_path, prefix="boats")
                for n in range(16)
            )
        )
        return await acreate_gallery_artifact(made, tmp_path, title="Boats <at> dawn")

    assert asyncio.run(working())
    gallery = only(artifacts_of(runs[0]), "gallery")
    assert gallery.key == "cometapi-gallery-boats"
    assert gallery.description == "<p>Boats &lt;at&gt; dawn: 16 pictures</p>"
    assert gallery.page.said.startswith("Boats <at> dawn")
    assert len([picture(each["src"]) for each in gallery.page.images]) == 16
    assert [row[1] for row in gallery.page.rows[-16:]] == [f"Boat {n}" for n in range(16)]


def test_so_are_items_of_batches(credentials: CometAPICredentials, tmp_path: Path) -> None:
    def work() -> None:
        items = run_predictions(credentials, MODEL, [BOAT, BOAT], tmp_path).items
        create_gallery_artifact(items[1:], tmp_path, key="the-best-of-them")

    [gallery] = [each for each in shown_by(work) if each.key == "the-best-of-them"]
    assert len(gallery.page.images) == 1
    assert gallery.page.rows[-1][1] == "A paper boat"


def test_prompts_are_left_out_where_they_are_not_to_be_told(
    made: Generation,
    credentials: CometAPICredentials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = run_predictions.fn(credentials, MODEL, [BOAT], tmp_path).items
    configure(monkeypatch, prompts=False)
    [gallery] = shown_by(lambda: create_gallery_artifact([made, *items], tmp_path))
    assert len(gallery.page.images) == 2
    assert "boat" not in gallery.page.said


@pytest.mark.filterwarnings("error::FutureWarning")
def test_there_is_none_outside_of_a_run(made: Generation, tmp_path: Path) -> None:
    assert create_gallery_artifact([made], tmp_path) is None


def test_nor_of_nothing(tmp_path: Path) -> None:
    assert shown_by(lambda: create_gallery_artifact([], tmp_path)) == []


def test_nor_where_the_storage_is_gone(made: Generation) -> None:
    assert shown_by(lambda: create_gallery_artifact([made], "block://s3-bucket/gone")) == []


def test_nor_where_artifacts_are_turned_off(
    made: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, artifacts=False)
    assert shown_by(lambda: create_gallery_artifact([made], tmp_path)) == []


@pytest.mark.parametrize("key", ["Boats", "a_b", "-a", "a--b", "", "é", "a" * 3 + "\n"])
def test_a_key_that_prefect_does_not_take_is_refused(
    key: str, made: Generation, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="lower case letters"):
        create_gallery_artifact([made], tmp_path, key=key)


@pytest.mark.parametrize("made", [["a path"], [None], [{"files": []}]])
def test_so_is_what_nobody_has_made(made: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="A gallery is made of what generate"):
        create_gallery_artifact(made, tmp_path)
