"""What a prediction or a batch has made is seen in Prefect, when the service and even the storage
are gone.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, runtime
from prefect.filesystems import RemoteFileSystem

from prefect_cometapi import (
    CometAPICredentials,
    PredictionJob,
    PredictionRequest,
    agenerate,
    create_prediction,
    generate,
    iter_predictions,
    poll_prediction,
    run_predictions,
    save_outputs,
)
from prefect_cometapi.previews import IMAGE_MOST
from prefect_cometapi.simulator import Simulator
from tests.artifacts.pages import Page
from tests.artifacts.shown import artifacts_of, only, picture, shown_by
from tests.servers import BOAT, MODEL, configure
from tests.storages import FolderOfObjects

pytestmark = pytest.mark.usefixtures("prefect_server")

KEY = "cometapi-prediction-a-gallery-black-forest-labs-flux-schnell"


def boats(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Boat {n}"} for n in range(number)]


# --- one prediction ---------------------------------------------------------------------------


def test_one_picture_is_an_image(credentials: CometAPICredentials, tmp_path: Path) -> None:
    made = []
    shown = shown_by(lambda: made.append(generate(credentials, MODEL, BOAT, tmp_path)))
    shutil.rmtree(tmp_path)
    [artifact] = shown
    assert (artifact.key, artifact.type) == (KEY, "image")
    assert max(picture(artifact.data).size) >= 500
    assert len(artifact.data) <= IMAGE_MOST
    said = Page(artifact.description).said.split("\n")
    assert said[0] == "A paper boat"
    assert said[1].startswith("black-forest-labs/flux-schnell, ran ")
    assert said[2] == made[0].files[0].location


def test_so_it_is_for_each_of_the_tasks_that_save(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    def step_by_step() -> None:
        prediction = poll_prediction(credentials, create_prediction(credentials, MODEL, BOAT))
        save_outputs(credentials, prediction, tmp_path)

    def as_a_job() -> None:
        job = PredictionJob(credentials=credentials, model=MODEL, input=BOAT, storage=str(tmp_path))
        run = job.trigger()
        run.wait_for_completion()
        run.fetch_result()

    for work in (step_by_step, as_a_job):
        [artifact] = shown_by(work)
        assert (artifact.key, artifact.type) == (KEY, "image")
        assert "A paper boat" in artifact.description


def test_many_at_once_share_a_key(credentials: CometAPICredentials, tmp_path: Path) -> None:
    runs = []

    @flow(name="a gallery")
    async def working() -> None:
        runs.append(str(runtime.flow_run.id))
        await asyncio.gather(*(agenerate(credentials, MODEL, each, tmp_path) for each in boats(6)))

    asyncio.run(working())
    shown = artifacts_of(runs[0])
    assert {(each.key, each.type) for each in shown} == {(KEY, "image")}
    assert sorted(Page(each.description).said.split("\n")[0] for each in shown) == [
        f"Boat {n}" for n in range(6)
    ]


def test_several_pictures_are_a_small_gallery(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    input = {**BOAT, "num_outputs": 4}
    [artifact] = shown_by(lambda: generate(credentials, MODEL, input, tmp_path))
    assert artifact.key == KEY
    assert [picture(each["src"]).format for each in artifact.page.images] == ["WEBP"] * 4


@pytest.mark.parametrize(
    ("model", "files", "pictures"),
    [
        ("simulator/text", ["txt"], 0),
        ("simulator/number", ["json"], 0),
        ("simulator/object", ["webp", "webp", "json"], 2),
    ],
)
def test_what_is_no_picture_is_a_plain_row(
    model: str, files: list[str], pictures: int, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    [artifact] = shown_by(lambda: generate(credentials, model, BOAT, tmp_path))
    assert len(artifact.page.images) == pictures
    rows = artifact.page.rows[-len(files) :]
    assert [row[3].rpartition(".")[2] for row in rows] == files


def test_a_picture_without_a_file_of_its_own_is_shown_too(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    [artifact] = shown_by(lambda: generate(credentials, "simulator/data-uri", BOAT, tmp_path))
    assert picture(artifact.data).size == (96, 96)


@pytest.mark.parametrize("model", ["simulator/nothing"])
def test_without_files_nothing_is_shown(
    model: str, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    assert shown_by(lambda: generate(credentials, model, BOAT, tmp_path)) == []


def test_nor_for_one_that_failed(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    assert shown_by(lambda: generate(credentials, MODEL, BOAT, tmp_path)) == []


def test_what_an_earlier_attempt_saved_is_shown_as_well(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    for _ in range(2):
        [artifact] = shown_by(
            lambda: generate(credentials, MODEL, BOAT, tmp_path, scope=tmp_path.name)
        )
        assert picture(artifact.data)
    assert cometapi_simulator.counts.charged == 1


@pytest.mark.filterwarnings("error::FutureWarning")
def test_outside_of_a_run_nothing_is_tried(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    assert generate.fn(credentials, MODEL, BOAT, tmp_path).files
    assert run_predictions.fn(credentials, MODEL, boats(2), tmp_path).summary == "2 saved"


@pytest.mark.parametrize("kind", ["folder", "files", "objects"])
def test_pictures_are_read_back_from_every_kind_of_storage(
    kind: str, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    storage: Any = {
        "folder": tmp_path,
        "files": RemoteFileSystem(basepath=f"memory://{tmp_path.name}"),
        "objects": FolderOfObjects(root=str(tmp_path)),
    }[kind]
    shown = shown_by(lambda: generate(credentials, MODEL, BOAT, storage))
    assert picture(only(shown, "prediction").data)
    shown = shown_by(lambda: run_predictions(credentials, MODEL, boats(3), storage))
    assert len(only(shown, "gallery").page.images) == 3


# --- a batch ----------------------------------------------------------------------------------


@pytest.mark.cometapi_simulator(run_time=0.05)
def test_a_batch_is_a_gallery_of_its_first_pictures(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    inputs = [
        PredictionRequest(input={"prompt": f"Boat <{n}> | boat"}, key=f"row-{n}") for n in range(30)
    ]
    shown = shown_by(lambda: run_predictions(credentials, MODEL, inputs, tmp_path, prefix="night"))
    gallery = only(shown, "gallery")
    assert gallery.key == "cometapi-gallery-a-gallery-black-forest-labs-flux-schnell"
    assert gallery.description == "24 pictures of 30 files"
    assert len(gallery.data.encode()) <= 256_000
    page = gallery.page
    assert "The first 24 of 30 files." in page.said
    assert f"In {tmp_path}/night/." in page.said
    assert len({each["src"] for each in page.images}) == 24
    assert all(picture(each["src"]) for each in page.images)
    assert page.rows[-24:][5][:3] == ["6", "row-5", "Boat <5> | boat"]


def test_so_is_one_that_is_read_item_by_item(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    shown = shown_by(lambda: list(iter_predictions(credentials, MODEL, boats(3), tmp_path)))
    assert len(only(shown, "gallery").page.images) == 3
    assert only(shown, "summary").page.headings[0] == "3 saved, of 3 items"


def test_what_was_saved_before_is_in_the_gallery_again(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    for _ in range(2):
        shown = shown_by(
            lambda: run_predictions(credentials, MODEL, boats(3), tmp_path, scope=tmp_path.name)
        )
        assert len(only(shown, "gallery").page.images) == 3
    assert cometapi_simulator.counts.charged == 3
    assert ["paid for by an earlier run", "3"] in only(shown, "summary").page.rows


def test_pictures_come_before_what_is_none(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    texts = [PredictionRequest(input=each, model="simulator/text") for each in boats(30)]
    inputs = [*texts, PredictionRequest(input={"prompt": "The last one is a picture"})]
    shown = shown_by(lambda: run_predictions(credentials, MODEL, inputs, tmp_path))
    gallery = only(shown, "gallery")
    assert len(gallery.page.images) == 1
    assert gallery.page.rows[2][1] == "The last one is a picture"


def test_without_a_storage_there_is_no_gallery(credentials: CometAPICredentials) -> None:
    shown = shown_by(lambda: run_predictions(credentials, MODEL, boats(2), None))
    assert [each.kind for each in shown] == ["summary"]


# --- what is not to be shown ------------------------------------------------------------------


def test_artifacts_can_be_turned_off(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, artifacts=False)

    def work() -> None:
        generate(credentials, MODEL, BOAT, tmp_path)
        run_predictions(credentials, MODEL, boats(2), tmp_path)
        run_predictions(credentials, MODEL, boats(3), tmp_path, dry_run=True)

    assert shown_by(work) == []


def test_so_can_pictures(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, thumbnails=False)

    def work() -> None:
        generate(credentials, MODEL, BOAT, tmp_path)
        run_predictions(credentials, MODEL, boats(2), tmp_path)

    shown = shown_by(work)
    assert [each.kind for each in shown] == ["prediction", "summary", "gallery"]
    assert not any("data:" in each.data or "Pillow" in each.data for each in shown)
    assert len(only(shown, "gallery").page.rows) == 3


def test_without_pillow_it_is_said_how_to_get_pictures(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_cometapi.thumbnails.can_be_made", lambda: False)

    def work() -> None:
        generate(credentials, MODEL, BOAT, tmp_path)
        run_predictions(credentials, MODEL, boats(2), tmp_path)
        generate(credentials, "simulator/text", BOAT, tmp_path)

    *with_pictures, _, text = shown_by(work)
    *with_pictures, gallery = [each for each in shown_by(work) if each.kind != "summary"][:2]
    for each in (*with_pictures, gallery):
        assert each.page.images == []
        assert 'pip install "prefect-cometapi[images]"' in each.page.said
    assert "Pillow" not in text.data
