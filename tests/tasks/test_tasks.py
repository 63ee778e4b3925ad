"""The tasks as flows use them: sync and async, named, and uncached."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.objects import TaskRun

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    InvalidInput,
    Prediction,
    PredictionFailed,
    PredictionStatus,
    StorageError,
    acancel_prediction,
    acreate_prediction,
    aget_prediction,
    apoll_prediction,
    asave_outputs,
    cancel_prediction,
    create_prediction,
    generate,
    get_prediction,
    poll_prediction,
    save_outputs,
)
from prefect_cometapi.simulator import Simulator
from tests.servers import BOAT, MODEL

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_sync_flow_creates_polls_and_saves(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    @flow
    def boat() -> tuple[Prediction, list[Any]]:
        prediction = create_prediction(credentials, MODEL, BOAT)
        assert get_prediction(credentials, prediction.id).id == prediction.id
        prediction = poll_prediction(credentials, prediction, timeout=30)
        return prediction, save_outputs(credentials, prediction, tmp_path, prefix="boats")

    prediction, files = boat()
    assert prediction.status is PredictionStatus.SUCCEEDED
    assert [Path(file.location) for file in files] == [
        tmp_path / "boats" / f"{prediction.id}-0.webp"
    ]
    assert Path(files[0].location).stat().st_size == files[0].size
    assert cometapi_simulator.counts.charged == 1


async def test_an_async_flow_does_the_same(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    @flow
    async def boat() -> list[Any]:
        prediction = await acreate_prediction(credentials, MODEL, BOAT)
        assert (await aget_prediction(credentials, prediction)).id == prediction.id
        prediction = await apoll_prediction(credentials, prediction.id, timeout=30)
        return await asave_outputs(credentials, prediction, tmp_path)

    files = await boat()
    assert files[0].media_type == "image/webp"
    assert cometapi_simulator.counts.charged == 1


def test_generate_from_submitted_and_mapped_tasks(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    @flow
    def many() -> list[Generation]:
        futures = [generate.submit(credentials, MODEL, BOAT, tmp_path, sample=n) for n in (0, 1)]
        return [future.result() for future in futures]

    made = many()
    assert len({one.prediction.id for one in made}) == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert cometapi_simulator.counts.charged == 2


async def test_cancel_says_whether_it_was_accepted(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["endless"] * 2)
    cometapi_simulator.script("cancel", ["ok", "html"])

    @flow
    async def change_of_mind() -> list[bool]:
        answers = []
        for sample in (0, 1):
            prediction = await acreate_prediction(credentials, MODEL, BOAT, sample=sample)
            answers.append((await acancel_prediction(credentials, prediction)).accepted)
        return answers

    assert await change_of_mind() == [True, False]


def test_cancel_of_an_unusable_id_sends_nothing(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    with pytest.raises(InvalidInput, match="not a prediction id"):
        cancel_prediction(credentials, "../predictions")
    assert not cometapi_simulator.requests


def test_a_prediction_of_another_service_is_refused(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    elsewhere = Prediction(
        id="abc", model=MODEL, status=PredictionStatus.STARTING, api_root="https://other.example"
    )
    for call in (poll_prediction, get_prediction, cancel_prediction):
        with pytest.raises(InvalidInput, match=r"other\.example"):
            call(credentials, elsewhere)
    with pytest.raises(InvalidInput, match=r"other\.example"):
        save_outputs(credentials, elsewhere, "x")
    assert not cometapi_simulator.requests


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf")])
def test_an_unusable_time_out_is_refused(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, timeout: float
) -> None:
    with pytest.raises(InvalidInput, match="positive number of seconds"):
        poll_prediction(credentials, "abc", timeout=timeout)
    assert not cometapi_simulator.requests


async def test_task_runs_are_named_after_model_id_and_sample(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    @flow
    async def boat() -> Prediction:
        prediction = await acreate_prediction(credentials, MODEL, BOAT, sample=3)
        prediction = await apoll_prediction(credentials, prediction)
        await asave_outputs(credentials, prediction, tmp_path)
        return prediction

    state = await boat(return_state=True)
    prediction = await state.aresult()
    names = {run.name for run in await task_runs(state.state_details.flow_run_id)}
    assert names == {
        f"create {MODEL} sample 3",
        f"poll {MODEL} {prediction.id}",
        f"save {MODEL} {prediction.id}",
    }


async def task_runs(flow_run_id: Any) -> list[TaskRun]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    async with get_client() as client:
        for _ in range(100):  # the server learns of task runs through events, a little later
            runs = await client.read_task_runs(flow_run_filter=only)
            if len(runs) >= 3:
                break
            await asyncio.sleep(0.1)
    return runs


def test_polls_are_never_cached(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["endless"])

    @flow(persist_result=True)
    def impatient() -> int:
        prediction = create_prediction(credentials, MODEL, BOAT)
        before = cometapi_simulator.counts.polls
        get_prediction(credentials, prediction)
        get_prediction(credentials, prediction)
        return cometapi_simulator.counts.polls - before

    assert impatient() == 2


def test_a_failed_prediction_fails_the_flow_with_its_reason(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["failed"])

    @flow
    def boat() -> None:
        generate(credentials, MODEL, BOAT, tmp_path)

    with pytest.raises(PredictionFailed) as raised:
        boat()
    assert raised.value.prediction is not None
    assert raised.value.prediction.id in str(raised.value)


def test_results_hold_no_credentials(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    import pickle

    @task
    def hand_on(made: Generation) -> bytes:
        return pickle.dumps(made)

    @flow
    def boat() -> bytes:
        return hand_on(generate(credentials, MODEL, BOAT, tmp_path))

    assert cometapi_simulator.api_key.encode() not in boat()


def test_storage_is_checked_where_the_files_will_go(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    (tmp_path / "taken").write_text("in the way")
    with pytest.raises(StorageError, match="Nothing was sent"):
        generate(credentials, MODEL, BOAT, tmp_path, prefix="taken")
    assert cometapi_simulator.counts.creates == 0


@pytest.mark.parametrize("scope", ["", "  ", 5, "x" * 201])
def test_an_unusable_scope_is_refused(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, scope: Any
) -> None:
    # An empty text is what an unset variable looks like; it must not become everybody's scope.
    with pytest.raises(InvalidInput, match="scope is"):
        create_prediction.fn(credentials, MODEL, BOAT, scope=scope)
    assert not cometapi_simulator.requests


def test_a_block_name_instead_of_credentials_is_told(cometapi_simulator: Simulator) -> None:
    name: Any = "default"
    for call in (get_prediction, cancel_prediction, poll_prediction):
        with pytest.raises(InvalidInput, match="load a block first"):
            call(name, "abc")
    with pytest.raises(InvalidInput, match="load a block first"):
        create_prediction(name, MODEL, BOAT)


def test_outputs_are_saved_from_a_prediction_not_from_an_id(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    prediction_id: Any = "abc"
    with pytest.raises(InvalidInput, match="as poll_prediction"):
        save_outputs(credentials, prediction_id, "pictures")
