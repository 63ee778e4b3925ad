"""A run pays once, however often it is retried or asks, and also when it is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    Generation,
    InputRejected,
    Prediction,
    SubmissionInDoubt,
    acreate_prediction,
    create_prediction,
    generate,
)
from prefect_cometapi.simulator import Simulator
from tests.processes import ran, started, wait_until
from tests.servers import BOAT, MODEL, configure

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_retried_flow_pays_once(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    seen: list[str] = []

    @flow(retries=2, retry_delay_seconds=0)
    def boat() -> Generation:
        seen.append(create_prediction(credentials, MODEL, BOAT).id)
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
        return generate.with_options(retries=1)(credentials, MODEL, BOAT, tmp_path)

    assert boat().files
    assert cometapi_simulator.counts.charged == 1


def test_a_subflow_and_its_parent_share_what_they_paid_for(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    @flow
    def child() -> str:
        return create_prediction(credentials, MODEL, BOAT).id

    @flow
    def parent() -> set[str]:
        return {child(), child(), create_prediction(credentials, MODEL, BOAT).id}

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
            await asyncio.gather(*(acreate_prediction(credentials, MODEL, BOAT) for _ in range(8)))
        )

    assert len({prediction.id for prediction in await racers()}) == 1
    assert cometapi_simulator.counts.creates == 1


def test_a_named_scope_is_shared_by_separate_runs(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    @flow
    def nightly() -> str:
        return create_prediction(credentials, MODEL, BOAT, scope="2026-11-22").id

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
        create_prediction(credentials, MODEL, BOAT).id
        != create_prediction(credentials, MODEL, BOAT).id
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
            create_prediction(credentials, MODEL, BOAT)
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
            create_prediction(credentials, MODEL, BOAT)
        return create_prediction(credentials, MODEL, BOAT).id

    assert corrected()
    assert cometapi_simulator.counts.charged == 1


# --- killed -----------------------------------------------------------------------------------

KILLED = """
import json, sys
from prefect import flow
from prefect_cometapi import CometAPICredentials, generate

model, input, folder = map(json.loads, sys.argv[1:])

@flow
def boat():
    made = generate(CometAPICredentials.from_env(), model, input, folder, scope="killed-run")
    print(json.dumps(made.prediction.id))

boat()
"""


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=4.0)
def test_a_killed_process_is_taken_up_where_it_was(
    tmp_path: Path, cometapi_simulator: Simulator, prefect_environment: dict[str, str]
) -> None:
    words = (KILLED, MODEL, BOAT, str(tmp_path / "pictures"))
    with started(*words, env=prefect_environment) as first:
        wait_until(lambda: cometapi_simulator.counts.polls, "a first poll")
        assert first.poll() is None, "the first run ended by itself"
    assert ran(*words, env=prefect_environment) == list(cometapi_simulator.predictions)
    assert cometapi_simulator.counts.creates == len(cometapi_simulator.predictions) == 1
    assert len(list((tmp_path / "pictures").iterdir())) == 1


def test_a_failing_query_does_not_fail_a_run_that_comes_back(
    credentials: CometAPICredentials,
    tmp_path: Path,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, reconnect_timeout=0.1)
    attempts: list[str] = []

    @flow(retries=1, retry_delay_seconds=0)
    def boat() -> Generation:
        attempts.append(create_prediction(credentials, MODEL, BOAT).id)
        if len(attempts) == 1:
            cometapi_simulator.script("query", ["503", "502"])
            raise RuntimeError("something else went wrong")
        return generate(credentials, MODEL, BOAT, tmp_path)

    assert boat().files
    assert cometapi_simulator.counts.charged == 1
