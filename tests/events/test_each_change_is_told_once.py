"""Prefect's server is told each change of a prediction once, as part of the run, whatever is tried
again, and whoever notices it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from prefect_cometapi import (
    CometAPICredentials,
    CometAPIError,
    PredictionJob,
    SubmissionInDoubt,
    acreate_prediction,
    agenerate,
    apoll_prediction,
    cancel_prediction,
    cancel_predictions,
    collect_predictions,
    create_prediction,
    generate,
    poll_prediction,
    run_predictions,
    save_outputs,
)
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT
from tests.processes import wait_until
from tests.servers import BOAT, configure
from tests.told import events_of, in_a_flow, mark, read_events, related

pytestmark = pytest.mark.usefixtures("prefect_server")

OTHER = {"prompt": "A paper plane"}


def told(flow_run_id: object) -> list[str]:
    """The names of the events of a run, without what is the same in all."""
    return [names(event) for event in events_of(flow_run_id)]


def names(event: dict[str, Any]) -> str:
    return str(event["event"].removeprefix("cometapi.prediction."))


# --- as it goes well --------------------------------------------------------------------------


def test_a_prediction_that_is_saved(credentials: CometAPICredentials, tmp_path: Path) -> None:
    made: list[Any] = []
    run = in_a_flow(lambda: made.append(generate(credentials, TEXT, BOAT, tmp_path)))
    created, succeeded, saved = events = events_of(run)
    assert [names(event) for event in events] == ["created", "succeeded", "saved"]
    [generation] = made
    for event in events:
        resource = event["resource"]["prefect.resource.id"]
        assert resource == f"cometapi.prediction.{generation.prediction.id}"
        assert event["resource"]["cometapi.scope"] == f"flow-run:{run}"
        assert related(event, "flow-run") == [f"prefect.flow-run.{run}"]
        assert related(event, "model") == [f"cometapi://model/{TEXT}"]
        assert len(related(event, "task-run")) == len(related(event, "flow")) == 1
    assert [succeeded["follows"], saved["follows"]] == [created["id"], succeeded["id"]]
    assert succeeded["payload"]["run_time"] == generation.prediction.run_time
    assert saved["payload"]["bytes"] == generation.files[0].size


def test_three_tasks_and_the_job(credentials: CometAPICredentials, tmp_path: Path) -> None:
    def work() -> None:
        made = poll_prediction(credentials, create_prediction(credentials, TEXT, BOAT))
        save_outputs(credentials, made, tmp_path)
        storage = str(tmp_path)
        job = PredictionJob(credentials=credentials, model=TEXT, input=OTHER, storage=storage)
        run = job.trigger()
        run.wait_for_completion()
        run.fetch_result()

    assert told(in_a_flow(work)) == ["created", "succeeded", "saved"] * 2


async def test_the_async_twins_also_side_by_side(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    import asyncio

    from prefect import runtime

    @flow
    async def some_flow() -> str:
        made = await apoll_prediction(
            credentials, await acreate_prediction(credentials, TEXT, BOAT)
        )
        boats = [agenerate(credentials, TEXT, BOAT, tmp_path, sample=n + 1) for n in range(3)]
        await asyncio.gather(*boats)
        mark()
        return f"{runtime.flow_run.id} {made.id}"

    run, first = (await some_flow()).split()
    found = events_of(run)
    assert [names(each) for each in found[:2]] == ["created", "succeeded"]
    assert {each["resource"]["prefect.resource.id"] for each in found[:2]} == {
        f"cometapi.prediction.{first}"
    }
    assert sorted(names(each) for each in found[2:]) == sorted(
        ["created", "succeeded", "saved"] * 3
    )
    assert len({related(each, "task-run")[0] for each in found[2:]}) == 3


def test_the_deployment_is_related(credentials: CometAPICredentials) -> None:
    from prefect.flow_engine import run_flow

    @flow(name="events-of-a-deployment")
    def deployed() -> None:
        create_prediction(credentials, TEXT, BOAT)
        mark()

    with get_client(sync_client=True) as client:
        served: Any = deployed.to_deployment(name="nightly")
        deployment = served.apply()
        flow_run = client.create_flow_run_from_deployment(deployment)
    run_flow(deployed, flow_run=flow_run)
    [event] = events_of(flow_run.id)
    assert related(event, "deployment") == [f"prefect.deployment.{deployment}"]


# --- as it goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fate", "changes", "error"),
    [
        ("failed", ["created", "failed"], "PredictionFailed"),
        ("refused", ["created", "failed"], "ContentRefused"),
        ("aborted", ["created", "failed"], "PredictionFailed"),
        ("canceled", ["created", "canceled"], "PredictionCanceled"),
        ("removed", ["created", "succeeded", "expired"], "OutputExpired"),
        ("endless", ["created", "not-saved"], "PredictionTimeout"),
    ],
)
def test_a_prediction_that_is_not(
    fate: str,
    changes: list[str],
    error: str,
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", [fate])

    def work() -> None:
        for _ in range(2):  # the second finds the first
            with pytest.raises(CometAPIError):
                generate(credentials, "simulator/url", BOAT, tmp_path, timeout=0.5)

    events = events_of(in_a_flow(work))
    assert [names(event) for event in events] == changes
    assert events[-1]["resource"]["cometapi.error"] == error
    assert events[-1]["payload"]["reason"]


def test_outputs_that_can_not_be_fetched(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.set_fault("file.404", 1.0)
    patient: Any = save_outputs.with_options(retries=1)

    def work() -> None:
        made = poll_prediction(credentials, create_prediction(credentials, "simulator/url", BOAT))
        with pytest.raises(CometAPIError):
            patient(credentials, made, tmp_path)
        cometapi_simulator.set_fault("file.404", 0.0)
        save_outputs(credentials, made, tmp_path)

    events = events_of(in_a_flow(work))
    assert [names(event) for event in events] == ["created", "succeeded", "not-saved", "saved"]
    record = events[2]["payload"]["record_key"]
    assert events[2]["payload"]["command"].endswith(f"collect {record} --storage STORAGE")


def test_each_attempt_is_a_prediction(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed", "ok"])
    run = in_a_flow(lambda: generate(credentials, TEXT, BOAT, tmp_path, attempts=2))
    assert told(run) == ["created", "failed", "created", "succeeded", "saved"]


def test_what_failed_before_a_further_attempt_is_refused_was_not_to_be_saved(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    cometapi_simulator.script("create", ["ok", "402"])

    def work() -> None:
        with pytest.raises(CometAPIError, match="credit"):
            generate(credentials, TEXT, BOAT, tmp_path, attempts=2)

    assert told(in_a_flow(work)) == ["created", "failed"]


def test_what_is_canceled_at_its_deadline_can_not_be_saved_any_more(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.set_fault("prediction.endless", 1.0)
    words: dict[str, Any] = {"on_timeout": "cancel"}

    def work() -> None:
        with pytest.raises(CometAPIError):
            generate(credentials, TEXT, BOAT, tmp_path, timeout=0.3, **words)
        with pytest.raises(CometAPIError):
            run_predictions(credentials, TEXT, [BOAT], tmp_path, prediction_timeout=0.3, **words)

    events = events_of(in_a_flow(work))
    assert [names(event) for event in events[:-1]] == ["created", "canceled", "canceled"]
    assert events[-1]["payload"]["paid_not_saved"] == 1  # which is how its item has ended


def test_a_prediction_that_somebody_cancels(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["endless"])

    def work() -> None:
        made = create_prediction(credentials, TEXT, BOAT)
        cancel_prediction(credentials, made)
        with pytest.raises(CometAPIError):
            poll_prediction(credentials, made)

    assert told(in_a_flow(work)) == ["created", "canceled"]


def test_a_run_whose_process_is_gone_is_told_of_by_the_hook(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("prediction", ["endless"] * 2)

    @flow
    def some_flow() -> None:
        for number in range(2):
            create_prediction(credentials, TEXT, BOAT, sample=number)

    run: Any = some_flow(return_state=True).state_details.flow_run_id
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling(), force=True)
        flow_run = client.read_flow_run(run)
    cancel_predictions(flow=some_flow, flow_run=flow_run, state=Cancelling())

    def canceled() -> list[dict[str, Any]]:
        return read_events(["cometapi.prediction.canceled"], f"prefect.flow-run.{run}")

    wait_until(lambda: len(canceled()) == 2, "the events of the hook", 60)
    assert {event["payload"]["excerpt"] for event in canceled()} == {BOAT["prompt"]}


# --- in doubt ---------------------------------------------------------------------------------


def test_a_lost_reply_is_told_once_however_often_it_is_met(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("create", ["lost"])
    errors: list[SubmissionInDoubt] = []

    def work() -> None:
        for _ in range(3):
            with pytest.raises(SubmissionInDoubt) as caught:
                create_prediction(credentials, TEXT, BOAT)
            errors.append(caught.value)

    [event] = events_of(in_a_flow(work))
    key = errors[0].record_key
    assert event["event"] == "cometapi.prediction.in-doubt"
    assert event["resource"]["prefect.resource.id"] == f"cometapi.prediction.{key}"
    assert event["payload"]["command"] == f"python -m prefect_cometapi ledger show {key}"
    assert event["payload"]["reason"].startswith("In doubt: the create of")


def test_what_is_sent_once_more_is_not_told(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.script("create", ["lost"])

    def work() -> None:
        create_prediction(credentials, TEXT, BOAT, on_in_doubt="resubmit")

    assert told(in_a_flow(work)) == ["created"]


# --- again ------------------------------------------------------------------------------------


def test_a_retried_run_tells_nothing_again(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    tries: list[int] = []

    @flow(retries=2)
    def some_flow() -> None:
        generate(credentials, TEXT, BOAT, tmp_path)
        made = poll_prediction(credentials, create_prediction(credentials, TEXT, OTHER))
        save_outputs(credentials, made, tmp_path)
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("once more")
        mark()

    state = some_flow(return_state=True)
    assert told(state.state_details.flow_run_id) == ["created", "succeeded", "saved"] * 2


def test_what_happened_while_nobody_looked_is_told_by_who_finds_it(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    scope = f"found {cometapi_simulator.url}"

    def make() -> None:
        create_prediction(credentials, TEXT, BOAT, scope=scope)

    assert told(in_a_flow(make)) == ["created"]
    wait_until(lambda: [p.status for p in cometapi_simulator.predictions.values()] == ["succeeded"])
    assert told(in_a_flow(make)) == ["succeeded"]


def test_what_is_collected(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed", "ok"])
    scope = f"left {cometapi_simulator.url}"

    def left_behind() -> None:
        for number in range(2):
            create_prediction(credentials, TEXT, BOAT, scope=scope, sample=number)

    def collected() -> None:
        for _ in range(2):
            collect_predictions(credentials, tmp_path, scope, timeout=60)

    assert told(in_a_flow(left_behind)) == ["created"] * 2
    found = told(in_a_flow(collected))
    assert sorted(found) == ["failed", "saved", "succeeded"]


# --- what does not depend on it ---------------------------------------------------------------


def test_turned_off_nothing_is_told(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, events=False)
    credentials = CometAPICredentials.from_env()
    cometapi_simulator.script("create", ["ok", "lost"])

    def work() -> None:
        generate(credentials, TEXT, BOAT, tmp_path)
        with suppress(SubmissionInDoubt):
            create_prediction(credentials, TEXT, OTHER)

    assert told(in_a_flow(work)) == []


def test_trouble_with_telling_does_not_reach_the_work(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_cometapi import event_sending

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no events today")

    def work() -> None:
        assert len(generate(credentials, TEXT, BOAT, tmp_path).files) == 1

    with monkeypatch.context() as patch:
        patch.setattr(event_sending, "emit_event", broken)
        run = in_a_flow(work)
    assert told(run) == []


def test_outside_of_a_run_nothing_is_told(credentials: CometAPICredentials, tmp_path: Path) -> None:
    made = generate.fn(credentials, TEXT, BOAT, tmp_path).prediction
    told(in_a_flow(lambda: None))  # what came before has arrived, too
    found = read_events(["cometapi."], f"cometapi.prediction.{made.id}")
    assert [event for event in found if event["resource"]["cometapi.scope"] == made.scope] == []


def test_what_has_failed_can_not_be_saved_and_is_not_missing(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])

    def work() -> None:
        made = create_prediction(credentials, TEXT, BOAT)
        with pytest.raises(CometAPIError) as raised:
            poll_prediction(credentials, made)
        failed: Any = raised.value
        with pytest.raises(CometAPIError, match="no outputs to save"):
            save_outputs(credentials, failed.prediction, tmp_path)

    assert told(in_a_flow(work)) == ["created", "failed"]
