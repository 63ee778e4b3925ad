"""Each batch leaves one summary in Prefect, however it ends, in the numbers of its result; under a
key that is the same in the next run, and another one for each batch of a flow.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_cometapi import (
    BatchFailed,
    BatchResult,
    BatchStopped,
    CometAPICredentials,
    PredictionRequest,
    arun_predictions,
    batch_artifacts,
    iter_predictions,
    run_predictions,
)
from prefect_cometapi.simulator import Simulator
from tests.artifacts.shown import Shown, artifacts_of, only, shown_by
from tests.processes import wait_until
from tests.servers import MODEL, configure

pytestmark = pytest.mark.usefixtures("prefect_server")

TEXT = "simulator/text"


def boats(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Boat {n}"} for n in range(number)]


def numbers(summary: Shown) -> dict[str, str]:
    return dict(row for row in summary.page.rows if len(row) == 2)


# --- however it ends --------------------------------------------------------------------------


@pytest.mark.cometapi_simulator(run_time=0.1, retry_after=0.1)
def test_one_with_everything_that_can_go_wrong(
    credentials: CometAPICredentials,
    tmp_path: Path,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(monkeypatch, prices=f'{{"{MODEL}": 0.003}}')
    service = cometapi_simulator
    service.script("prediction", ["failed", "ok", "failed", "refused"])
    service.script("create", ["429-seconds", "ok", "502-accepted"])
    service.script("query", ["502", "429-seconds"])
    results: list[BatchResult] = []

    def work() -> None:
        wrong = PredictionRequest(input={"prompt": "A wide boat", "aspect_ratio": "8:1"}, key="w-1")
        with pytest.raises(BatchFailed) as raised:
            run_predictions(credentials, MODEL, [*boats(8), wrong], tmp_path, in_flight=1)
        results.append(raised.value.result)

    shown = shown_by(work)
    result, summary = results[0], only(shown, "summary")
    page, told = summary.page, numbers(summary)
    assert summary.description == f"{result.summary}, of 9 items" == page.headings[0]
    assert page.headings[1:] == [
        "In doubt: decide these first",
        "What went wrong",
        "Cost",
        "Numbers",
        "What to do next",
    ]
    [doubt] = [each for each in result.failures if each.status == "in doubt"]
    assert f"{doubt.record_key}" in page.rows[1][0]
    assert doubt.excerpt in page.rows[1][0]
    assert doubt.request_id
    assert page.rows[1][1].endswith(f"request {doubt.request_id}")
    wrong = {row[2].partition(" (")[0]: row for row in page.rows if len(row) == 4}
    failed = [each for each in result.items if each.reason == "CUDA out of memory"]
    assert len(failed) == 2
    assert wrong["CUDA out of memory"][:2] == ["2", "failed"]
    assert all(str(each.prediction_id) in wrong["CUDA out of memory"][3] for each in failed)
    [refused] = [each for each in result.items if each.key == "w-1"]
    assert refused.request_id
    assert (
        f"key w-1: A wide boat, request {refused.request_id}" == wrong["The input was refused"][3]
    )
    assert [MODEL, str(result.created), f"{result.created * 0.003:g}, at 0.003 each"] in page.rows
    assert result.estimated_cost == pytest.approx(result.created * 0.003)
    assert told["creates offered again"] == str(result.creates_again) == "1"
    assert told["429s"] == str(result.rate_limited) == "2"
    assert result.polls_failed == 2
    assert told["polls"].endswith("2 more failed")
    assert result.manifest
    assert result.manifest in told["manifest"]
    assert (tmp_path / result.manifest).exists()
    assert result.run_times
    assert result.saved_after
    assert "half within" in told["run time of the model"]
    assert told["saved now"].startswith(f"{result.files} files")
    gallery = only(shown, "gallery").page
    assert len(gallery.images) == result.files


def test_one_that_is_ended_early(credentials: CometAPICredentials, tmp_path: Path) -> None:
    def work() -> None:
        with pytest.raises(BatchStopped):
            run_predictions(credentials, TEXT, iter(boats(9)), tmp_path, max_predictions=3)

    summary = only(shown_by(work), "summary")
    assert summary.description.startswith("Ended early: 3 saved")
    assert "To go on, raise max_predictions." in summary.page.said


@pytest.mark.cometapi_simulator(run_time=30)
def test_one_that_is_interrupted(
    credentials: CometAPICredentials, tmp_path: Path, cometapi_simulator: Simulator
) -> None:
    runs = []

    @flow(name="a gallery")
    async def working() -> None:
        runs.append(str(runtime.flow_run.id))
        running = asyncio.create_task(arun_predictions(credentials, TEXT, boats(4), tmp_path))
        await asyncio.to_thread(wait_until, lambda: cometapi_simulator.counts.charged == 4)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(working())
    [summary] = artifacts_of(runs[0])
    assert summary.description.startswith("Interrupted: ")
    assert "predictions were running" in summary.page.said
    assert "pays for nothing twice" in summary.page.said


def test_one_of_which_not_all_items_were_taken(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    def work() -> None:
        items = iter_predictions(credentials, TEXT, boats(3), tmp_path)
        next(items)
        items.close()

    assert only(shown_by(work), "summary").description.startswith("Interrupted: ")


def test_one_that_is_only_planned(credentials: CometAPICredentials, tmp_path: Path) -> None:
    def work() -> None:
        run_predictions(credentials, TEXT, boats(3), tmp_path, dry_run=True)
        run_predictions(credentials, TEXT, boats(1), tmp_path)
        run_predictions(credentials, TEXT, boats(3), tmp_path, dry_run=True)

    plan, summary, gallery, second = shown_by(work)
    assert [each.kind for each in (plan, summary, gallery, second)] == [
        "plan",
        "summary",
        "gallery",
        "plan",
    ]
    assert plan.description == "A dry run: 3 would be sent, of 3 items; nothing was sent"
    assert "PREFECT_INTEGRATIONS_COMETAPI_PRICES" in plan.page.said
    assert second.description.startswith("A dry run: 1 saved, 2 would be sent")
    assert ["paid for by an earlier run", "1"] in second.page.rows
    assert [each.key for each in (plan, summary, second)] == [
        "cometapi-plan-a-gallery-simulator-text",
        "cometapi-summary-a-gallery-simulator-text",
        "cometapi-plan-a-gallery-simulator-text-2",
    ]


def test_one_of_which_nothing_is_saved(credentials: CometAPICredentials, tmp_path: Path) -> None:
    assert only(shown_by(lambda: run_predictions(credentials, TEXT, [], tmp_path)), "summary")


# --- its key ----------------------------------------------------------------------------------


def test_each_batch_of_a_flow_has_its_key_and_has_it_again_in_the_next_run(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    kettles = run_predictions.with_options(name="Make kettles")

    def work() -> None:
        run_predictions(credentials, TEXT, boats(1), tmp_path)
        run_predictions(credentials, TEXT, boats(1), tmp_path)
        run_predictions(credentials, "simulator/number", boats(1), tmp_path)
        kettles(credentials, TEXT, boats(1), tmp_path)

    for _ in range(2):
        shown = shown_by(work, "The shop")
        assert [each.key for each in shown if each.kind == "summary"] == [
            "cometapi-summary-the-shop-simulator-text",
            "cometapi-summary-the-shop-simulator-text-2",
            "cometapi-summary-the-shop-simulator-number",
            "cometapi-summary-the-shop-make-kettles-simulator-text",
        ]


def test_a_flow_that_is_retried_in_the_same_process_goes_on_under_its_keys(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    runs = []

    @flow(name="The shop", retries=1)
    def working() -> None:
        runs.append(str(runtime.flow_run.id))
        run_predictions(credentials, TEXT, boats(2), tmp_path)
        list(iter_predictions(credentials, TEXT, boats(2), tmp_path))
        if len(runs) == 1:
            raise RuntimeError

    working()
    shown = artifacts_of(runs[0])
    key = "cometapi-summary-the-shop-simulator-text"
    assert [each.key for each in shown if each.kind == "summary"] == [key, f"{key}-2"] * 2


def test_a_deployment_has_a_history_of_its_own(
    credentials: CometAPICredentials, tmp_path: Path
) -> None:
    @flow(name="The shop")
    def working() -> None:
        run_predictions(credentials, TEXT, boats(1), tmp_path)

    with get_client(sync_client=True) as client:
        deployed = client.create_deployment(client.create_flow(working), "Every night")
        run = client.create_flow_run_from_deployment(deployed)
    run_flow(working, flow_run=run)
    shown = artifacts_of(str(run.id))
    key = "cometapi-summary-the-shop-every-night-simulator-text"
    assert only(shown, "summary").key == key


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=2.5)
def test_the_progress_of_a_long_one_is_under_a_key_like_the_others(
    credentials: CometAPICredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_artifacts, "PROGRESS_EVERY", 1.0)
    shown = shown_by(lambda: run_predictions(credentials, TEXT, boats(3), tmp_path))
    assert only(shown, "progress").key == "cometapi-progress-a-gallery-simulator-text"
