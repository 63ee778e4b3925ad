"""A batch tells where each file came from, its origin too; killed and run again it has told of all,
and of each once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_cometapi import (
    BatchStopped,
    InvalidInput,
    ItemStatus,
    PredictionRequest,
    Provenance,
)
from prefect_cometapi.provenance import SUFFIX
from tests.batches import SCRIPT, TEXT, Batches, boats
from tests.processes import ran, started, wait_until, with_key
from tests.servers import SETTING
from tests.storages import FolderOfObjects


def told_in(folder: Path) -> dict[str, Provenance]:
    """What is told, by the file that it is told of, which has to be there."""
    found = {}
    for path in folder.glob(f"*{SUFFIX}"):
        one = Provenance.model_validate_json(path.read_text("utf-8"))
        assert (folder / one.file.name).stat().st_size == one.file.size
        found[one.file.name] = one
    return found


def outputs(batches: Batches) -> set[str]:
    return {name for name in batches.outputs() if not name.endswith(SUFFIX)}


def rows(count: int) -> list[PredictionRequest]:
    return [
        PredictionRequest(
            input={"prompt": f"boat {number}"},
            key=f"row-{number}",
            origin={"template": "boat {n}", "row": number},
        )
        for number in range(count)
    ]


def test_each_item_is_told_of_with_its_origin(batches: Batches) -> None:
    result = batches.run(rows(5), provenance=True)
    told = told_in(batches.folder)
    assert set(told) == outputs(batches)
    for item in result.items:
        one = told[item.files[0].name]
        assert one.prompt == f"boat {item.number}"
        assert one.origin == item.origin == {"template": "boat {n}", "row": item.number}
        assert (one.key, one.scope) == (item.key, batches.scope)
        assert (one.prediction_id, one.record_key) == (item.prediction_id, item.record_key)


async def test_so_does_the_async_twin(batches: Batches) -> None:
    await batches.arun(boats(2), provenance=True)
    assert set(told_in(batches.folder)) == outputs(batches)


def test_item_by_item_it_is_there_before_the_item_is(batches: Batches) -> None:
    for item in batches.iterate(boats(3), provenance=True):
        assert item.files[0].name in told_in(batches.folder)


def test_unasked_nobody_is_told(batches: Batches) -> None:
    batches.run(boats(2))
    assert told_in(batches.folder) == {}


def test_a_second_run_writes_what_is_missing_and_leaves_the_rest(batches: Batches) -> None:
    batches.run(boats(2), provenance=True)
    batches.run(boats(4))
    first = told_in(batches.folder)
    assert len(first) == 2
    result = batches.run(boats(4), provenance=True)
    told = told_in(batches.folder)
    assert set(told) == outputs(batches)
    assert {name: told[name] for name in first} == first
    later = [one for name, one in told.items() if name not in first]
    assert {one.prompt for one in later} == {"boat 2", "boat 3"}
    assert [one.saved_at for one in later] == [None, None]
    assert (result.created, result.found, batches.service.counts.creates) == (0, 4, 4)


def test_another_prompt_under_the_same_key_is_not_told_as_its_own(batches: Batches) -> None:
    batches.run(rows(1))
    other = [rows(1)[0].model_copy(update={"input": {"prompt": "a car"}})]
    batches.run(other, provenance=True)
    [told] = told_in(batches.folder).values()
    assert (told.prompt, told.input, told.prompt_excerpt) == (None, None, "boat 0")


def test_without_storage_there_is_nothing_to_tell_of(batches: Batches) -> None:
    with pytest.raises(InvalidInput, match="storage is None"):
        batches.run(boats(1), storage=None, provenance=True)
    assert batches.service.counts.creates == 0


class NoNotes(FolderOfObjects):
    """Takes outputs and records, and while it does not want to, no provenance."""

    _block_type_slug = "no-notes-of-batches"
    _unwilling: bool = True

    async def upload_from_path(self, from_path: str | Path, to_path: str, **more: object) -> str:
        if self._unwilling and to_path.endswith(SUFFIX):
            raise PermissionError("no notes here")
        return await super().upload_from_path(from_path, to_path, **more)


def test_a_storage_that_takes_none_is_told_of_and_nothing_is_lost(batches: Batches) -> None:
    block = NoNotes(root=str(batches.folder))
    result = batches.fail(boats(3), storage=block, provenance=True).result
    assert result.counts == {ItemStatus.NOT_SAVED: 3}
    assert "no notes here" in result.failures[0].error
    assert len(outputs(batches)) == 3
    block._unwilling = False
    result = batches.run(boats(3), storage=block, provenance=True)
    assert (result.summary, result.created) == ("3 saved", 0)
    assert set(told_in(batches.folder)) == outputs(batches)


def test_it_does_not_pay_on_for_files_that_it_can_not_tell_of(batches: Batches) -> None:
    block = NoNotes(root=str(batches.folder))
    error = batches.fail(boats(60), storage=block, provenance=True, in_flight=5)
    assert isinstance(error, BatchStopped)
    assert batches.service.counts.creates < 30


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.3)
def test_killed_and_run_again_all_are_told_of(
    batches: Batches, prefect_environment: dict[str, str]
) -> None:
    environment = {**with_key(prefect_environment, batches.service), SETTING + "POLL_MIN": "0.05"}
    count, options = 24, {"provenance": True, "in_flight": 8}
    arguments = (count, str(batches.folder), batches.scope, options)
    batches.folder.mkdir()
    with started(SCRIPT, *arguments, env=environment) as process:
        wait_until(lambda: len(told_in(batches.folder)) >= 5)
        process.kill()
    before = told_in(batches.folder)
    [last] = ran(SCRIPT, *arguments, env=environment)
    saved = [item for item in last["items"] if item["status"] == "saved"]
    assert len(saved) >= count - 8  # what was being sent just then is in doubt
    told = told_in(batches.folder)
    assert set(told) == {file["name"] for item in saved for file in item["files"]}
    assert len({one.prompt for one in told.values()}) == len(told)
    assert set(before) <= set(told)
    assert {one.model for one in told.values()} == {TEXT}


def test_what_was_saved_before_keeps_its_names_where_it_can_not_be_told_of(
    batches: Batches,
) -> None:
    block = NoNotes(root=str(batches.folder))
    before = batches.run(boats(2), storage=block).items
    result = batches.fail(boats(2), storage=block, provenance=True, stop_after_failures=1).result
    assert result.counts == {ItemStatus.NOT_SAVED: 2}
    for was, item in zip(before, result.items, strict=True):
        assert item.found
        assert item.prediction_id == was.prediction_id
        assert (item.record_key, item.files) == (was.record_key, was.files)
    assert batches.service.counts.creates == 2
    block._unwilling = False
    assert batches.run(boats(2), storage=block, provenance=True).summary == "2 saved"
