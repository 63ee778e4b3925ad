"""The tasks as flows use them: sync and async, named, uncached, and paid once per run."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.objects import TaskRun

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    InputRejected,
    InvalidInput,
    Prediction,
    PredictionFailed,
    PredictionStatus,
    StorageError,
    SubmissionInDoubt,
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

pytestmark = pytest.mark.usefixtures("prefect_server")

MODEL = "black-forest-labs/flux-schnell"
INPUT: dict[str, Any] = {"prompt": "A paper boat"}


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()


def test_a_sync_flow_creates_polls_and_saves(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    @flow
    def boat() -> tuple[Prediction, list[Any]]:
        prediction = create_prediction(credentials, MODEL, INPUT)
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
        prediction = await acreate_prediction(credentials, MODEL, INPUT)
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
        futures = [generate.submit(credentials, MODEL, INPUT, tmp_path, sample=n) for n in (0, 1)]
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
            prediction = await acreate_prediction(credentials, MODEL, INPUT, sample=sample)
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
        prediction = await acreate_prediction(credentials, MODEL, INPUT, sample=3)
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


# --- paid once --------------------------------------------------------------------------------


def test_a_retried_flow_pays_once(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    seen: list[str] = []

    @flow(retries=2, retry_delay_seconds=0)
    def boat() -> Generation:
        seen.append(create_prediction(credentials, MODEL, INPUT).id)
        made = generate(credentials, MODEL, {"prompt": "Another boat"}, tmp_path)
        seen.append(made.prediction.id)
        if len(seen) < 6:
            raise RuntimeError("something else went wrong")
        return made

    boat()
    assert len(seen) == 6
    assert len(set(seen)) == 2
    assert cometapi_simulator.counts.creates == cometapi_simulator.counts.charged == 2


def test_a_retried_task_pays_once_and_saves_in_the_end(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("file", ["404"] * 3)

    @flow
    def boat() -> Generation:
        return generate.with_options(retries=1)(credentials, MODEL, INPUT, tmp_path)

    assert boat().files
    assert cometapi_simulator.counts.charged == 1


def test_a_subflow_and_its_parent_share_what_they_paid_for(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    @flow
    def child() -> str:
        return create_prediction(credentials, MODEL, INPUT).id

    @flow
    def parent() -> set[str]:
        return {child(), child(), create_prediction(credentials, MODEL, INPUT).id}

    assert len(parent()) == 1
    assert cometapi_simulator.counts.charged == 1
    assert len(parent()) == 1  # another run is another purchase
    assert cometapi_simulator.counts.charged == 2


async def test_equal_creates_at_the_same_moment_are_one(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    @flow
    async def racers() -> list[Prediction]:
        return list(
            await asyncio.gather(*(acreate_prediction(credentials, MODEL, INPUT) for _ in range(8)))
        )

    assert len({prediction.id for prediction in await racers()}) == 1
    assert cometapi_simulator.counts.creates == 1


def test_a_named_scope_is_shared_by_separate_runs(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    @flow
    def nightly() -> str:
        return create_prediction(credentials, MODEL, INPUT, scope="2026-11-22").id

    assert nightly() == nightly()
    assert cometapi_simulator.counts.charged == 1


def test_samples_and_inputs_are_separate_purchases(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    @flow
    def four() -> set[str]:
        return {
            create_prediction(credentials, MODEL, {"prompt": prompt}, sample=sample).id
            for prompt in ("a", "b")
            for sample in (0, 1)
        }

    assert len(four()) == 4
    assert cometapi_simulator.counts.charged == 4


def test_outside_a_flow_each_call_is_a_purchase_of_its_own(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    assert (
        create_prediction(credentials, MODEL, INPUT).id
        != create_prediction(credentials, MODEL, INPUT).id
    )
    assert cometapi_simulator.counts.charged == 2


def test_a_lost_reply_stays_in_doubt_when_the_run_is_retried(
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
) -> None:
    cometapi_simulator.script("create", ["lost"])
    messages: list[str] = []

    @flow(retries=1)
    def boat() -> None:
        try:
            create_prediction(credentials, MODEL, INPUT)
        except SubmissionInDoubt as error:
            messages.append(str(error))
            raise

    with pytest.raises(SubmissionInDoubt):
        boat()
    assert cometapi_simulator.counts.creates == 1
    assert len(messages) == 2
    key = messages[0].rpartition("ledger abandon ")[2].split(".")[0]
    assert f"ledger resubmit {key}" in messages[1]


def test_what_was_refused_may_be_tried_again(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("create", ["422"])

    @flow
    def corrected() -> str:
        with pytest.raises(InputRejected):
            create_prediction(credentials, MODEL, INPUT)
        return create_prediction(credentials, MODEL, INPUT).id

    assert corrected()
    assert cometapi_simulator.counts.charged == 1


def test_polls_are_never_cached(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["endless"])

    @flow(persist_result=True)
    def impatient() -> int:
        prediction = create_prediction(credentials, MODEL, INPUT)
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
        generate(credentials, MODEL, INPUT, tmp_path)

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
        return hand_on(generate(credentials, MODEL, INPUT, tmp_path))

    assert cometapi_simulator.api_key.encode() not in boat()


# --- killed -----------------------------------------------------------------------------------

KILLED = """
    import sys
    from prefect import flow
    from prefect_cometapi import CometAPICredentials, generate

    @flow
    def boat():
        made = generate(
            CometAPICredentials.from_env(),
            "black-forest-labs/flux-schnell",
            {"prompt": "A boat that is killed"},
            sys.argv[1],
            scope="killed-run",
        )
        print("made", made.prediction.id)

    boat()
"""


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=4.0)
def test_a_killed_process_is_taken_up_where_it_was(
    tmp_path: Path, cometapi_simulator: Simulator, prefect_environment: dict[str, str]
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), str(tmp_path / "pictures")]
    first = subprocess.Popen(command, env=prefect_environment)
    deadline = time.monotonic() + 120
    while cometapi_simulator.counts.polls == 0:
        assert time.monotonic() < deadline, "the first run never polled"
        assert first.poll() is None, "the first run ended by itself"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(
        command, env=prefect_environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert second.returncode == 0, second.stderr
    (prediction_id,) = cometapi_simulator.predictions
    assert f"made {prediction_id}" in second.stdout
    assert cometapi_simulator.counts.creates == 1
    assert len(list((tmp_path / "pictures").iterdir())) == 1


# --- what reviews found -----------------------------------------------------------------------


def test_a_failing_query_does_not_fail_a_run_that_comes_back(
    credentials: CometAPICredentials,
    tmp_path: Path,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_RECONNECT_TIMEOUT", "0.1")
    attempts: list[str] = []

    @flow(retries=1, retry_delay_seconds=0)
    def boat() -> Generation:
        attempts.append(create_prediction(credentials, MODEL, INPUT).id)
        if len(attempts) == 1:
            cometapi_simulator.script("query", ["503", "502"])
            raise RuntimeError("something else went wrong")
        return generate(credentials, MODEL, INPUT, tmp_path)

    assert boat().files
    assert cometapi_simulator.counts.charged == 1


def test_storage_is_checked_where_the_files_will_go(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    (tmp_path / "taken").write_text("in the way")
    with pytest.raises(StorageError, match="Nothing was sent"):
        generate(credentials, MODEL, INPUT, tmp_path, prefix="taken")
    assert cometapi_simulator.counts.creates == 0


@pytest.mark.parametrize("scope", ["", "  ", 5, "x" * 201])
def test_an_unusable_scope_is_refused(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, scope: Any
) -> None:
    # An empty text is what an unset variable looks like; it must not become everybody's scope.
    with pytest.raises(InvalidInput, match="scope is"):
        create_prediction.fn(credentials, MODEL, INPUT, scope=scope)
    assert not cometapi_simulator.requests


def test_a_block_name_instead_of_credentials_is_told(cometapi_simulator: Simulator) -> None:
    name: Any = "default"
    for call in (get_prediction, cancel_prediction, poll_prediction):
        with pytest.raises(InvalidInput, match="load a block first"):
            call(name, "abc")
    with pytest.raises(InvalidInput, match="load a block first"):
        create_prediction(name, MODEL, INPUT)


def test_outputs_are_saved_from_a_prediction_not_from_an_id(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    prediction_id: Any = "abc"
    with pytest.raises(InvalidInput, match="as poll_prediction"):
        save_outputs(credentials, prediction_id, "pictures")
