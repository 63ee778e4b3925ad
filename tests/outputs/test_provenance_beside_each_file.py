"""With provenance=True, each saved file has a file beside it that tells where it came from; a file
that is saved stays saved where that can not be written.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    Outcome,
    PredictionJob,
    Provenance,
    StorageError,
    agenerate,
    asave_outputs,
    create_prediction,
    generate,
    poll_prediction,
    save_outputs,
)
from prefect_cometapi.provenance import SUFFIX
from prefect_cometapi.simulator import Simulator
from tests.homes import Home
from tests.servers import BOAT, MODEL, configure
from tests.storages import FolderOfObjects, names

pytestmark = pytest.mark.usefixtures("prefect_server", "hurry")


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05)


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()


def told_in(folder: Path) -> list[Provenance]:
    """What is told beside the files of a folder, which has to be true of them."""
    found = []
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        one = Provenance.model_validate_json(path.read_text("utf-8"))
        beside = path.with_name(path.name.removesuffix(SUFFIX))
        assert one.file.name == beside.relative_to(folder).as_posix()
        content = beside.read_bytes()
        assert one.file.size == len(content)
        assert one.file.sha256 == hashlib.sha256(content).hexdigest()
        found.append(one)
    return found


# --- who writes it ----------------------------------------------------------------------------


def by_save(credentials: CometAPICredentials, storage: Any, **more: Any) -> None:
    done = poll_prediction(credentials, create_prediction(credentials, MODEL, BOAT))
    save_outputs(credentials, done, storage, **more)


def by_generate(credentials: CometAPICredentials, storage: Any, **more: Any) -> None:
    generate(credentials, MODEL, BOAT, storage, **more)


@pytest.mark.parametrize("by", [by_save, by_generate])
def test_a_task_tells_of_its_flow_run(
    by: Any, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    runs: list[UUID] = []

    @flow
    def boat() -> None:
        from prefect import runtime

        runs.append(UUID(runtime.flow_run.id))
        by(credentials, tmp_path, prefix="day", provenance=True)

    boat()
    [told] = told_in(tmp_path)
    assert (told.model, told.prompt, told.input) == (MODEL, BOAT["prompt"], BOAT)
    assert told.seed_from == "logs"
    assert told.saved_by
    assert UUID(told.saved_by.flow_run_id) == runs[0]
    assert told.saved_by.task_run_id
    assert [UUID(run) for run in told.created_by_flow_runs or []] == runs
    assert told.submitted_at
    assert told.saved_at
    assert told.completed_at
    assert told.submitted_at < told.saved_at
    assert told.run_time is not None
    assert told.scope == f"flow-run:{runs[0]}"
    assert len(names(tmp_path)) == 2


def test_nobody_is_told_unasked(credentials: CometAPICredentials, tmp_path: Path) -> None:
    generate.fn(credentials, MODEL, BOAT, tmp_path)
    assert told_in(tmp_path) == []
    assert len(names(tmp_path)) == 1


async def test_the_async_twins_tell_the_same(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    made = await agenerate.fn(credentials, MODEL, BOAT, tmp_path / "a", provenance=True)
    await asave_outputs.fn(credentials, made.prediction, tmp_path / "b", provenance=True)
    [one], [other] = told_in(tmp_path / "a"), told_in(tmp_path / "b")
    assert one.model_copy(update={"saved_at": None, "written_at": None}) == other.model_copy(
        update={"saved_at": None, "written_at": None}
    )
    assert one.saved_by
    assert one.saved_by.flow_run_id is None


def test_so_does_the_job(credentials: CometAPICredentials, tmp_path: Path) -> None:
    job = PredictionJob(
        credentials=credentials, model=MODEL, input=BOAT, storage=str(tmp_path), provenance=True
    )
    run = job.trigger()
    run.wait_for_completion()
    run.fetch_result()
    assert [told.prompt for told in told_in(tmp_path)] == [BOAT["prompt"]]


def test_each_file_of_several_is_told_of(credentials: CometAPICredentials, tmp_path: Path) -> None:
    made = generate.fn(credentials, MODEL, BOAT | {"num_outputs": 3}, tmp_path, provenance=True)
    assert [told.file.output for told in told_in(tmp_path)] == [file.output for file in made.files]
    assert len(made.files) == 3


def test_pictures_and_signatures_are_not_repeated(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    picture = "data:image/png;base64,aGVsbG8="
    signed = "https://host/boat.png?signature=secret"
    model = "black-forest-labs/flux-2-pro"
    input = BOAT | {"input_images": [picture, signed], "seed": 7}
    generate.fn(credentials, model, input, tmp_path, provenance=True)
    [told] = told_in(tmp_path)
    assert told.input
    assert told.input["input_images"][0]["size"] == 5
    assert told.input["input_images"][1] == "https://host/boat.png"
    assert (told.seed, told.seed_from) == (7, "input")
    text = next(tmp_path.rglob(f"*{SUFFIX}")).read_text()
    assert "secret" not in text
    assert credentials.get_client().api_root in text
    assert str(credentials.api_key.get_secret_value() if credentials.api_key else "?") not in text


# --- a second run -----------------------------------------------------------------------------


def make(home: Home, credentials: CometAPICredentials, folder: Path, **more: Any) -> Generation:
    made: Generation = generate.fn(
        credentials, MODEL, BOAT, folder, scope=f"provenance {home.folder}", **more
    )
    return made


def test_it_writes_what_is_missing_as_far_as_is_known(
    home: Home, credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    make(home, credentials, folder)
    make(home, credentials, folder, provenance=True)
    [told] = told_in(folder)
    assert (told.prompt, told.saved_by, told.saved_at) == (BOAT["prompt"], None, None)
    assert told.run_time is not None
    assert told.seed is None  # its log is not kept
    assert cometapi_simulator.counts.creates == 1
    assert cometapi_simulator.counts.downloads == 1


def test_it_leaves_what_is_there(
    home: Home, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    make(home, credentials, folder, provenance=True)
    before = told_in(folder)
    make(home, credentials, folder, provenance=True)
    assert told_in(folder) == before
    assert before[0].saved_by is not None


def test_of_an_object_store_too(
    home: Home, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    folder = tmp_path / "objects"
    block: Any = FolderOfObjects(root=str(folder))
    make(home, credentials, block)
    make(home, credentials, block, provenance=True)
    [before] = told_in(folder)
    make(home, credentials, block, provenance=True)
    assert told_in(folder) == [before]


def test_another_input_under_the_same_key_is_not_told_as_its_own(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    words: dict[str, Any] = {"scope": f"provenance {tmp_path}", "key": "row-7"}
    generate.fn(credentials, MODEL, BOAT, tmp_path, **words)
    generate.fn(credentials, MODEL, {"prompt": "A car"}, tmp_path, provenance=True, **words)
    [told] = told_in(tmp_path)
    assert (told.prompt, told.input, told.key) == (None, None, "row-7")
    assert told.prompt_excerpt == BOAT["prompt"]


# --- where it can not be written --------------------------------------------------------------


class NoNotes(FolderOfObjects):
    """Takes pictures, and while it does not want to, no provenance."""

    _block_type_slug = "no-notes"
    _unwilling: bool = True

    async def upload_from_path(self, from_path: str | Path, to_path: str, **more: Any) -> str:
        if self._unwilling and to_path.endswith(SUFFIX):
            raise PermissionError("no notes here")
        return await super().upload_from_path(from_path, to_path, **more)


def test_the_file_stays_saved_and_the_next_run_writes_the_rest(
    home: Home, credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "objects"
    block: Any = NoNotes(root=str(folder))
    with pytest.raises(StorageError, match=r"are saved.*provenance.*no notes here.*free"):
        make(home, credentials, block, provenance=True)
    [record] = home.records(f"provenance {home.folder}").values()
    assert record
    assert record.outcome is Outcome.SAVED
    block._unwilling = False
    make(home, credentials, block, provenance=True)
    assert len(told_in(folder)) == 1
    assert cometapi_simulator.counts.downloads == 1


def test_a_file_that_is_fetched_again_is_told_again(
    home: Home, credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    make(home, credentials, folder, provenance=True)
    [before] = told_in(folder)
    (folder / before.file.name).unlink()
    make(home, credentials, folder, provenance=True)
    [told] = told_in(folder)
    assert told.written_at > before.written_at
    assert cometapi_simulator.counts.downloads == 2
