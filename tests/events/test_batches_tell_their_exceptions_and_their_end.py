"""Of a batch Prefect's server is told what went wrong and the end of it, in numbers; of every item
where that is asked for; and the numbers stay beside the manifest when the events are gone.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi import (
    BatchFailed,
    BatchItem,
    BatchResult,
    CometAPICredentials,
    InvalidInput,
    StorageError,
    event_sending,
    iter_predictions,
    journal,
    read_manifest,
    read_summary,
    run_predictions,
)
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT, boats
from tests.servers import configure
from tests.told import events_of, in_a_flow, related

pytestmark = pytest.mark.usefixtures("prefect_server")
FINISHED = "cometapi.batch.finished"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LINGER", 0.02)


@pytest.fixture
def run(credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path) -> Any:
    """Runs a batch in a flow run of its own; the result, and the events."""

    def in_its_flow(inputs: Any, **options: Any) -> tuple[BatchResult, list[dict[str, Any]]]:
        results: list[BatchResult] = []

        def work() -> None:
            words = {"scope": f"night {cometapi_simulator.url}", **options}
            try:
                results.append(run_predictions(credentials, TEXT, inputs, tmp_path, **words))
            except BatchFailed as error:
                results.append(error.result)

        flow_run = in_a_flow(work)
        return results[0], events_of(flow_run)

    return in_its_flow


def counted(events: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(event["event"].removeprefix("cometapi.prediction.") for event in events))


# --- what is told -----------------------------------------------------------------------------


def test_of_a_batch_that_goes_well_only_its_end(run: Any, tmp_path: Path) -> None:
    result, [event] = run(boats(5))
    assert event["event"] == FINISHED
    assert event["resource"]["cometapi.failure-share"] == "none"
    assert event["resource"]["cometapi.scope"] == result.scope
    assert len(related(event, "flow-run")) == len(related(event, "task-run")) == 1
    assert related(event, "model") == [f"cometapi://model/{TEXT}"]
    payload = event["payload"]
    assert payload["total"] == payload["saved"] == payload["created"] == payload["files"] == 5
    assert payload["went_wrong"] == payload["failure_share"] == 0
    assert payload["polls"] == result.polls > 0
    assert payload["bytes"] == sum(file.size for item in result.items for file in item.files)
    assert payload["manifest"] == result.manifest


def test_what_went_wrong_is_told_one_by_one(run: Any, cometapi_simulator: Simulator) -> None:
    cometapi_simulator.script("prediction", ["failed", "refused", "canceled", "endless", "removed"])
    cometapi_simulator.script("create", [*["ok"] * 5, "lost", "422"])
    result, events = run([*boats(9), {"prompt": 7}], in_flight=1, prediction_timeout=1.0)
    assert counted(events) == {
        "failed": 2,
        "canceled": 1,
        "not-saved": 1,  # it has timed out
        "expired": 1,
        "in-doubt": 1,
        FINISHED: 1,
    }
    assert events[-1]["event"] == FINISHED
    batch = events[-1]["resource"]["prefect.resource.id"]
    for event in events[:-1]:
        assert related(event, "batch") == [batch]
        assert event["payload"]["scope"] == result.scope
        assert event["payload"]["reason"]
    kinds = [event["resource"].get("cometapi.error") for event in events]
    assert "ContentRefused" in kinds
    labels = {name: events[-1]["resource"][f"cometapi.{name}"] for name in ("in-doubt", "stopped")}
    assert labels == {"in-doubt": "yes", "stopped": "no"}
    assert events[-1]["resource"]["cometapi.failure-share"] == "over 50%"
    payload = events[-1]["payload"]
    words = ("failed", "canceled", "expired", "in_doubt", "paid_not_saved", "refused", "saved")
    assert [payload[word] for word in words] == [2, 1, 1, 1, 1, 2, 2]


def test_all_of_it_where_that_is_asked_for(run: Any, cometapi_simulator: Simulator) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    _, events = run(boats(4), events="all")
    assert counted(events) == {"created": 4, "failed": 1, "succeeded": 3, "saved": 3, FINISHED: 1}
    created = {each["id"]: each["resource"]["prefect.resource.id"] for each in events[:-1]}
    for event in events[:-1]:
        leader = event["follows"]
        assert (leader is None) == event["event"].endswith("created")
        assert leader is None or created[leader] == event["resource"]["prefect.resource.id"]


def test_none_of_it_where_that_is_asked_for(run: Any, cometapi_simulator: Simulator) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    assert run(boats(2), events="none")[1] == []


def test_a_dry_run_tells_nothing(run: Any) -> None:
    run(boats(2))
    assert run(boats(3), dry_run=True)[1] == []


def test_an_outage_does_not_flood_the_server(
    run: Any, cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sending, "MANY", 3)
    cometapi_simulator.set_fault("prediction.failed", 1.0)
    _, events = run(boats(8))
    assert counted(events) == {"failed": 3, FINISHED: 1}
    assert events[-1]["payload"]["failed"] == 8


def test_item_by_item_in_a_flow(credentials: CometAPICredentials, tmp_path: Path) -> None:
    def work() -> None:
        list(iter_predictions(credentials, TEXT, boats(2), tmp_path, events="all"))
        items = iter_predictions(credentials, TEXT, boats(3), tmp_path / "b", scope=f"{tmp_path}")
        with closing(items):
            next(items)  # and no more of them: it does not come to its end

    events = events_of(in_a_flow(work))
    assert counted(events) == {"created": 2, "succeeded": 2, "saved": 2, FINISHED: 1}


# --- again ------------------------------------------------------------------------------------


def test_a_second_run_tells_what_is_new(run: Any, cometapi_simulator: Simulator) -> None:
    cometapi_simulator.script("prediction", ["failed", "failed"])
    first = run(boats(4))[1]
    assert counted(first) == {"failed": 2, FINISHED: 1}
    found, events = run(boats(6))
    assert (found.found, found.created) == (4, 2)
    assert counted(events) == {FINISHED: 1}
    assert events[0]["payload"]["failed"] == 2  # they still are
    assert (
        events[0]["resource"]["prefect.resource.id"] == first[-1]["resource"]["prefect.resource.id"]
    )
    assert counted(run(boats(6), retry_failed=True)[1]) == {FINISHED: 1}


def test_what_stays_in_doubt_is_the_same_event(run: Any, cometapi_simulator: Simulator) -> None:
    cometapi_simulator.script("create", ["lost"])
    assert counted(run(boats(1))[1]) == {"in-doubt": 1, FINISHED: 1}
    assert counted(run(boats(1))[1]) == {FINISHED: 1}


# --- what stays -------------------------------------------------------------------------------


def test_the_numbers_are_beside_the_manifest(
    run: Any, cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, prices=json.dumps({TEXT: 0.003}))
    cometapi_simulator.script("prediction", ["failed"])
    result, events = run(boats(3))
    summary = tmp_path / str(result.manifest).replace("manifest-1.jsonl", "summary-1.json")
    numbers = json.loads(summary.read_text("utf-8"))
    payload = events[-1]["payload"]
    shared = numbers.keys() & payload.keys()
    assert {name: numbers[name] for name in shared} == {name: payload[name] for name in shared}
    assert {"saved", "failed", "in_doubt", "paid_not_saved", "seconds", "polls"} <= shared
    assert "items" not in numbers
    read = read_summary(tmp_path, str(result.manifest))
    assert read == result.model_copy(update={"items": []})
    assert len(list(read_manifest(tmp_path, str(result.manifest)))) == 3


def test_a_manifest_without_a_summary(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"There is no file night/summary-2\.json"):
        read_summary(tmp_path, "night/manifest-2.jsonl")


# --- what does not depend on it ---------------------------------------------------------------


def test_another_word_is_refused_before_anything_is_sent(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    word: Any = "some"
    with pytest.raises(
        InvalidInput, match=r"events is 'some'; it is 'exceptions' or .*Nothing was"
    ):
        run_predictions.fn(credentials, TEXT, boats(1), tmp_path, events=word)
    with pytest.raises(InvalidInput):
        iter_predictions(credentials, TEXT, boats(1), tmp_path, events=word)
    assert cometapi_simulator.counts.creates == 0


def test_turned_off_nothing_is_told_and_the_summary_is_written(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, events=False)
    credentials = CometAPICredentials.from_env()
    cometapi_simulator.script("prediction", ["failed"])
    items: list[BatchItem] = []

    def work() -> None:
        with suppress(BatchFailed):
            run_predictions(credentials, TEXT, boats(2), tmp_path, events="all")
        items.extend(iter_predictions(credentials, TEXT, boats(1), tmp_path))

    assert events_of(in_a_flow(work)) == []
    assert len(list(tmp_path.rglob("summary-*.json"))) == 2
