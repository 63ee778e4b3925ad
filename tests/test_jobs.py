"""The job block works end to end, trigger to result, sync and async, made in code and saved."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.blocks.abstract import JobBlock, JobRun
from prefect.blocks.core import Block
from prefect.utilities.dispatch import get_registry_for_type
from pydantic import ValidationError

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    InvalidInput,
    PredictionFailed,
    PredictionJob,
    PredictionRun,
    StorageError,
)
from prefect_cometapi.simulator import Simulator

MODEL = "black-forest-labs/flux-schnell"


@pytest.fixture
def job(cometapi_simulator: Simulator, tmp_path: Path) -> PredictionJob:
    return PredictionJob(
        credentials=CometAPICredentials.from_env(),
        model=MODEL,
        input={"prompt": "A paper boat", "output_format": "png"},
        storage=str(tmp_path / "pictures"),
        prefix="boats",
    )


def test_it_is_what_prefect_calls_a_job(job: PredictionJob) -> None:
    assert isinstance(job, JobBlock)
    assert issubclass(PredictionRun, JobRun)


def test_what_it_is_built_from_is_no_block_to_create() -> None:
    known = (get_registry_for_type(Block) or {}).values()
    assert [block for block in known if issubclass(PredictionJob, block)] == [PredictionJob]


def test_what_a_form_leaves_around_a_line_is_taken_off(job: PredictionJob) -> None:
    typed = {"model": f" {MODEL}\n", "storage": "pictures\n", "prefix": "boats \n"}
    made = PredictionJob(**{**dict(job), **typed})
    assert (made.model, made.storage, made.prefix) == (MODEL, "pictures", "boats")


def test_without_a_flow_in_sync_code(job: PredictionJob) -> None:
    run = job.trigger()
    run.wait_for_completion()
    made: Generation = run.fetch_result()
    assert made.files[0].media_type == "image/png"
    assert Path(made.files[0].location).is_file()


async def test_without_a_flow_in_async_code(job: PredictionJob) -> None:
    run = await job.trigger()
    await run.wait_for_completion()
    made = await run.fetch_result()
    assert Path(made.files[0].location).is_file()
    typed: PredictionRun = await job.atrigger()
    await typed.await_for_completion()
    assert (await typed.afetch_result()).files


@pytest.mark.usefixtures("prefect_server")
def test_from_a_saved_block_in_a_sync_flow(
    job: PredictionJob, cometapi_simulator: Simulator
) -> None:
    job.credentials.save("for-the-job", overwrite=True)
    saved: Any = CometAPICredentials.load("for-the-job")
    job.credentials = saved
    job.save("boat", overwrite=True)

    @flow(retries=1, retry_delay_seconds=0)
    def nightly(attempts: list[str]) -> Generation:
        loaded: Any = PredictionJob.load("boat")
        run = loaded.trigger({"prompt": "Another boat"})
        attempts.append(run.prediction.id)
        run.wait_for_completion()
        if len(attempts) == 1:
            raise RuntimeError("something else went wrong")
        made: Generation = run.fetch_result()
        return made

    attempts: list[str] = []
    made = nightly(attempts)
    (prediction,) = cometapi_simulator.predictions.values()
    assert prediction.input == {"prompt": "Another boat", "output_format": "png"}
    assert Path(made.files[0].location).is_file()


@pytest.mark.usefixtures("prefect_server")
async def test_from_a_saved_block_in_an_async_flow_and_a_sync_task(job: PredictionJob) -> None:
    await job.asave("async-boat", overwrite=True)

    @task
    def in_a_sync_task() -> Generation:
        loaded: Any = PredictionJob.load("async-boat")
        run = loaded.trigger(sample=1)
        run.wait_for_completion()
        made: Generation = run.fetch_result()
        return made

    @flow
    async def nightly() -> list[Generation]:
        loaded: Any = await PredictionJob.aload("async-boat")
        run = await loaded.trigger()
        await run.wait_for_completion()
        return [await run.fetch_result(), in_a_sync_task()]

    made = await nightly()
    assert len({one.prediction.id for one in made}) == 2


@pytest.mark.usefixtures("prefect_server")
async def test_the_innermost_run_decides_between_sync_and_async(job: PredictionJob) -> None:
    await job.asave("nested-boat", overwrite=True)

    @flow
    def inner() -> Generation:
        loaded: Any = PredictionJob.load("nested-boat")
        run = loaded.trigger(sample=2)
        run.wait_for_completion()
        made: Generation = run.fetch_result()
        return made

    @task
    async def between() -> Generation:
        return inner()

    @flow
    async def outer() -> tuple[Generation, str]:
        loaded: Any = await PredictionJob.aload("nested-boat")
        # A thread has no running loop: sync code, whatever run it belongs to.
        run = await asyncio.to_thread(loaded.trigger, None, 3)
        return await between(), run.prediction.id

    made, other = await outer()
    assert made.files
    assert made.prediction.id != other


def test_failures_are_raised_by_waiting(job: PredictionJob, cometapi_simulator: Simulator) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    run = job.trigger()
    with pytest.raises(PredictionFailed, match=run.prediction.id):
        run.wait_for_completion()


def test_results_of_an_unfinished_run_are_refused(
    job: PredictionJob, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["endless"])
    run = job.trigger()
    with pytest.raises(InvalidInput, match="Poll it until it is done"):
        run.fetch_result()


def test_storage_is_checked_before_anything_is_paid(
    job: PredictionJob, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    job.storage = str(tmp_path / "file" / "below")
    with pytest.raises(StorageError):
        job.trigger()
    assert cometapi_simulator.counts.creates == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "flux"),
        ("model", "../x/y"),
        ("prefix", "../up"),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("input", [1]),
    ],
)
def test_a_job_that_can_not_work_can_not_be_made(
    job: PredictionJob, field: str, value: Any
) -> None:
    with pytest.raises(ValidationError, match=field):
        PredictionJob(**{**dict(job), field: value})
