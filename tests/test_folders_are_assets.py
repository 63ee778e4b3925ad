"""Each folder that something was saved in is an asset in Prefect: linked to the run, to the models
and to the tables that it is made from, with metadata; and the work does not depend on it.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.assets import materialize

from prefect_cometapi import (
    BatchFailed,
    CometAPICredentials,
    InvalidInput,
    PredictionFailed,
    PredictionJob,
    PredictionRequest,
    agenerate,
    aiter_predictions,
    arun_predictions,
    collect_predictions,
    create_prediction,
    generate,
    iter_predictions,
    lineage,
    poll_prediction,
    run_predictions,
    save_outputs,
)
from prefect_cometapi.simulator import Simulator
from tests.batches import NUMBER, TEXT, boats
from tests.servers import BOAT, MODEL, configure
from tests.storages import FolderOfObjects
from tests.told import events_of, in_a_flow, mark, read_events, related

pytestmark = pytest.mark.usefixtures("prefect_server", "hurry")

TABLE = "postgresql://host/shop/products"
SUCCEEDED = "prefect.asset.materialization.succeeded"
FAILED = "prefect.asset.materialization.failed"
REFERENCED = "prefect.asset.referenced"
MODEL_KEY = f"cometapi://model/{MODEL}"
TEXT_KEY = f"cometapi://model/{TEXT}"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()


def of(flow_run_id: object, count: int) -> list[tuple[str, str]]:
    """The events of a flow run, by their name and their asset."""
    return [
        (event["event"], event["resource"]["prefect.resource.id"])
        for event in arrived(flow_run_id, count)
    ]


def arrived(flow_run_id: object, count: int) -> list[dict[str, Any]]:
    """The events of a flow run about assets, of which there are so many."""
    events = events_of(flow_run_id, "prefect.asset.")
    assert len(events) == count, [event["event"] for event in events]
    return events


# --- single predictions -----------------------------------------------------------------------


def test_a_task_that_saves(credentials: CometAPICredentials, tmp_path: Path) -> None:
    made: list[Any] = []

    def work() -> None:
        words: dict[str, Any] = {"prefix": "day", "sources": [TABLE]}
        made.append(generate(credentials, MODEL, BOAT, tmp_path, **words))

    run = in_a_flow(work)
    *upstream, event = arrived(run, 3)
    place = f"file://{tmp_path}/day"
    assert (event["event"], event["resource"]["prefect.resource.id"]) == (SUCCEEDED, place)
    assert related(event, "asset") == [MODEL_KEY, TABLE]
    assert related(event, "asset-materialized-by") == ["prefect-cometapi"]
    assert related(event, "flow-run") == [f"prefect.flow-run.{run}"]
    assert len(related(event, "task-run")) == 1
    [file] = made[0].files
    assert event["payload"] == {
        "model": MODEL,
        "prediction_id": made[0].prediction.id,
        "run_time": made[0].prediction.run_time,
        "scope": f"flow-run:{run}",
        "files": 1,
        "bytes": file.size,
        "names": [file.name],
    }
    assert {each["event"] for each in upstream} == {REFERENCED}
    assert [each["resource"]["prefect.resource.id"] for each in upstream] == [MODEL_KEY, TABLE]


def test_three_tasks_and_the_job(credentials: CometAPICredentials, tmp_path: Path) -> None:
    def work() -> None:
        made = poll_prediction(credentials, create_prediction(credentials, MODEL, BOAT))
        save_outputs(credentials, made, tmp_path / "a")
        job = PredictionJob(
            credentials=credentials, model=TEXT, input=BOAT, storage=str(tmp_path / "b")
        )
        run = job.trigger()
        run.wait_for_completion()
        run.fetch_result()

    assert of(in_a_flow(work), 4) == [
        (REFERENCED, MODEL_KEY),
        (SUCCEEDED, f"file://{tmp_path}/a"),
        (REFERENCED, TEXT_KEY),
        (SUCCEEDED, f"file://{tmp_path}/b"),
    ]


async def test_the_async_twin(credentials: CometAPICredentials, tmp_path: Path) -> None:
    from prefect import runtime

    @flow
    async def some_flow() -> str:
        await agenerate(credentials, TEXT, BOAT, tmp_path)
        await arun_predictions(credentials, TEXT, boats(2), tmp_path, scope=f"s {tmp_path}")
        async for _ in aiter_predictions(credentials, TEXT, boats(3), tmp_path / "i"):
            pass
        mark()
        return str(runtime.flow_run.id)

    assert [each for each in of(await some_flow(), 6) if each[0] == SUCCEEDED] == [
        (SUCCEEDED, f"file://{tmp_path}"),
        (SUCCEEDED, f"file://{tmp_path}"),
        (SUCCEEDED, f"file://{tmp_path}/i"),
    ]


def test_a_prediction_that_fails(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])

    def work() -> None:
        with pytest.raises(PredictionFailed):
            generate(credentials, MODEL, BOAT, tmp_path)

    _, event = arrived(in_a_flow(work), 2)
    assert event["event"] == FAILED
    assert related(event, "asset") == [MODEL_KEY]
    assert event["payload"]["error"] == "PredictionFailed"
    assert event["payload"]["files"] == 0


def test_a_task_that_is_tried_again_has_not_failed_yet(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    patient: Any = generate.with_options(retries=1)

    def work() -> None:
        with pytest.raises(PredictionFailed):  # which the second try finds
            patient(credentials, MODEL, BOAT, tmp_path)

    assert of(in_a_flow(work), 2)[1] == (FAILED, f"file://{tmp_path}")


def test_what_is_found_again_is_only_referenced(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    def work() -> None:
        for _ in range(2):
            generate(credentials, MODEL, BOAT, tmp_path)

    assert of(in_a_flow(work), 3)[1:] == [
        (SUCCEEDED, f"file://{tmp_path}"),
        (REFERENCED, f"file://{tmp_path}"),
    ]


def test_what_is_collected(credentials: CometAPICredentials, tmp_path: Path) -> None:
    scope = f"left {tmp_path}"

    def work() -> None:
        for number in range(2):
            create_prediction(credentials, TEXT, BOAT, scope=scope, sample=number)
        report = collect_predictions(credentials, tmp_path, scope, prefix="day", timeout=60)
        assert report.done
        collect_predictions(credentials, tmp_path, scope)  # nothing is left

    event = arrived(in_a_flow(work), 2)[-1]
    assert (event["event"], event["payload"]["files"]) == (SUCCEEDED, 2)
    assert event["resource"]["prefect.resource.id"] == f"file://{tmp_path}/day"
    assert related(event, "asset") == [TEXT_KEY]


# --- batches ----------------------------------------------------------------------------------


def test_a_batch(credentials: CometAPICredentials, tmp_path: Path) -> None:
    results: list[Any] = []
    scope = f"scope {tmp_path}"

    def work() -> None:
        inputs = [*boats(3), {"prompt": "one more"}]
        storage: Any = FolderOfObjects(root=str(tmp_path))
        results.append(
            run_predictions(
                credentials, TEXT, inputs, storage, prefix="day", sources=[TABLE], scope=scope
            )
        )

    run = in_a_flow(work)
    event = arrived(run, 3)[-1]
    assert event["event"] == SUCCEEDED
    assert event["resource"]["prefect.resource.id"].startswith("block://folder-of-objects/")
    assert related(event, "asset") == [TEXT_KEY, TABLE]
    assert related(event, "flow-run") == [f"prefect.flow-run.{run}"]
    assert len(related(event, "task-run")) == 1
    [result] = results
    assert event["payload"] == {
        "scope": scope,
        "models": {TEXT: 4},
        "counts": {"saved": 4},
        "found": 0,
        "files": 4,
        "bytes": sum(file.size for item in result.items for file in item.files),
        "created": 4,
        "manifest": result.manifest,
        "estimated_cost": None,
        "seconds": result.seconds,
        "stopped": False,
    }


def test_a_batch_of_several_models_of_which_one_item_fails(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])

    def work() -> None:
        inputs: list[Any] = [*boats(3), PredictionRequest(input=BOAT, model=NUMBER)]
        with pytest.raises(BatchFailed):
            run_predictions(credentials, TEXT, inputs, tmp_path, in_flight=1)  # the first fails

    event = arrived(in_a_flow(work), 3)[-1]
    assert event["event"] == SUCCEEDED  # for what is there is there
    assert event["payload"]["counts"]["failed"] == 1
    assert set(related(event, "asset")) == {TEXT_KEY, f"cometapi://model/{NUMBER}"}


@pytest.mark.parametrize("allowed", [0, 2])
def test_a_batch_that_fails_altogether(
    allowed: int, credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"] * 2)
    patient: Any = run_predictions.with_options(retries=1)

    def work() -> None:
        words = {"allow_failures": allowed}
        if allowed:  # no error, so no second try
            patient(credentials, TEXT, boats(2), tmp_path, **words)
            return
        with pytest.raises(BatchFailed):
            patient(credentials, TEXT, boats(2), tmp_path, **words)

    events = of(in_a_flow(work), 2)
    assert events == [(REFERENCED, TEXT_KEY), (FAILED, f"file://{tmp_path}")]


def test_a_batch_that_finds_everything_and_a_dry_run(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    def work() -> None:
        run_predictions(credentials, TEXT, boats(2), tmp_path, dry_run=True)
        for _ in range(2):
            run_predictions(credentials, TEXT, boats(2), tmp_path)

    assert of(in_a_flow(work), 3)[1:] == [
        (SUCCEEDED, f"file://{tmp_path}"),
        (REFERENCED, f"file://{tmp_path}"),
    ]


def test_item_by_item_in_a_flow_or_in_a_task_of_a_users_own(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    @task
    def of_mine() -> None:
        items = iter_predictions(credentials, TEXT, boats(5), tmp_path / "b", scope=f"{tmp_path}")
        with closing(items):
            next(items)  # and no more of them

    def work() -> None:
        assert len(list(iter_predictions(credentials, TEXT, boats(2), tmp_path / "a"))) == 2
        of_mine()

    events = arrived(in_a_flow(work), 4)
    first, second = events[1], events[3]
    assert first["resource"]["prefect.resource.id"] == f"file://{tmp_path}/a"
    assert first["payload"]["files"] == 2
    assert second["event"] == SUCCEEDED
    assert second["resource"]["prefect.resource.id"] == f"file://{tmp_path}/b"
    assert len(related(second, "task-run")) == 1
    assert second["payload"]["files"] >= 1
    assert "manifest" not in second["payload"]  # it did not come to its end


# --- what comes in, and what goes on ----------------------------------------------------------


def test_the_assets_of_the_tasks_before_and_after_are_linked(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    @materialize(TABLE)
    def prompts() -> list[dict[str, Any]]:
        return boats(2)

    @materialize("s3://site/gallery")
    def gallery(result: Any) -> None:
        assert result.total == 2

    def work() -> None:
        gallery(run_predictions(credentials, TEXT, prompts(), tmp_path))

    events = {
        event["resource"]["prefect.resource.id"]: event
        for event in arrived(in_a_flow(work), 6)
        if event["event"] == SUCCEEDED
    }
    place = f"file://{tmp_path}"
    assert set(events) == {TABLE, place, "s3://site/gallery"}
    assert set(related(events[place], "asset")) == {TEXT_KEY, TABLE}
    assert place in related(events["s3://site/gallery"], "asset")


@pytest.mark.parametrize("sources", [["products"], ["postgresql://me:hunter2@host/shop"]])
def test_a_source_that_can_not_be_one_is_refused_before_anything_is_sent(
    sources: list[str],
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    calls: list[Any] = [
        lambda: generate.fn(credentials, TEXT, BOAT, tmp_path, sources=sources),
        lambda: run_predictions.fn(credentials, TEXT, [BOAT], tmp_path, sources=sources),
        lambda: iter_predictions(credentials, TEXT, [BOAT], tmp_path, sources=sources),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match=r"source.*Nothing was sent") as raised:
            call()
        assert "hunter2" not in str(raised.value)
    assert cometapi_simulator.counts.creates == 0


# --- what does not depend on it ---------------------------------------------------------------


def test_turned_off_it_tells_nothing(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, assets=False)

    def work() -> None:
        fresh = CometAPICredentials.from_env()
        generate(fresh, MODEL, BOAT, tmp_path)
        run_predictions(fresh, TEXT, boats(2), tmp_path)

    assert of(in_a_flow(work), 0) == []


def test_trouble_with_telling_does_not_reach_the_work(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no events today")

    monkeypatch.setattr(lineage, "emit_event", broken)

    def work() -> None:
        assert len(generate(credentials, MODEL, BOAT, tmp_path).files) == 1
        assert run_predictions(credentials, TEXT, boats(2), tmp_path).total == 2

    assert of(in_a_flow(work), 0) == []


def test_outside_of_a_run_it_tells_nothing(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    generate.fn(credentials, MODEL, BOAT, tmp_path)
    run_predictions.fn(credentials, TEXT, boats(2), tmp_path)

    arrived(in_a_flow(lambda: None), 0)  # what came before has arrived, too
    assert read_events(["prefect.asset."], f"file://{tmp_path}") == []
