"""What was paid for is fetched, whatever became of the run that did."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    Did,
    InvalidInput,
    LedgerReport,
    Record,
    StorageError,
    acollect_predictions,
    collect_predictions,
    collection,
    endings,
    list_records,
    portal,
)
from prefect_cometapi.simulator import Simulator
from tests.homes import HOMES, Home, collected, create, did, in_doubt, key_of
from tests.servers import BOAT, MODEL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

LONG_AGO = datetime.now(UTC) - timedelta(hours=2)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


@pytest.mark.parametrize("home", HOMES, indirect=True)
def test_what_a_dead_run_left_is_saved_once(
    home: Home,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
) -> None:
    ids = [create(scope, sample=sample).id for sample in range(3)]
    report = collected(tmp_path / "pictures", scope, prefix="late", timeout=20)
    assert report.done
    assert [result.prediction_id for result in report.results] == ids, "the oldest first"
    assert report.summary == "3 saved"
    saved = sorted(f"{one}-0.webp" for one in ids)
    assert files_in(tmp_path / "pictures" / "late") == saved
    assert all(Path(file.location).exists() for one in report.results for file in one.files)
    requests = len(cometapi_simulator.requests)
    again = collected(tmp_path / "pictures", scope, prefix="late")
    assert (again.results, again.done, again.summary) == ([], True, "nothing to do")
    assert len(cometapi_simulator.requests) == requests
    assert cometapi_simulator.counts.creates == 3


@pytest.mark.cometapi_simulator(run_time=0.02)
def test_each_is_told_and_none_keeps_the_others(
    home: Home,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = ["failed", "canceled", "endless", "removed", "ok", "ok"]
    cometapi_simulator.script("prediction", ends)
    predictions = [create(scope, sample=sample) for sample in range(len(ends))]
    doubtful = in_doubt(cometapi_simulator, scope, 10)
    elsewhere = Record(
        scope=scope,
        model=MODEL,
        api_root="https://elsewhere.example",
        sent_at=LONG_AGO,
        prediction_id="farfaraway",
    )
    home.write(key_of(1), elsewhere)
    sending = elsewhere.model_copy(update={"sent_at": datetime.now(UTC), "prediction_id": None})
    home.write(key_of(2), sending)
    portal.call(asyncio.sleep, 0.3)
    monkeypatch.setattr(collection, "AT_ONCE", 1)  # so that it is known which query is the sixth
    cometapi_simulator.script_at("query.401", 6)
    report = collected(tmp_path, scope, timeout=0.5)
    by_key = {result.record_key: result for result in report.results}
    told = [by_key[str(one.record_key)].did for one in predictions]
    assert told == [
        *(Did.FAILED, Did.CANCELED, Did.RUNNING),
        *(Did.EXPIRED, Did.TROUBLE, Did.SAVED),
    ]
    assert by_key[doubtful].did is Did.IN_DOUBT
    assert f"resubmit {doubtful}" in by_key[doubtful].message
    assert by_key[key_of(1)].did is Did.REFUSED
    assert "https://elsewhere.example" in by_key[key_of(1)].message
    assert by_key[key_of(2)].did is Did.SENDING
    assert "CUDA out of memory" in by_key[str(predictions[0].record_key)].message
    assert not report.done
    assert home.read(scope, doubtful).outcome is None
    again = collected(tmp_path, scope)
    assert sorted(did(again)) == sorted(
        [Did.RUNNING, Did.SAVED, Did.IN_DOUBT, Did.REFUSED, Did.SENDING]
    )
    assert cometapi_simulator.counts.cancels == 0
    named = collected(tmp_path, keys=str(predictions[3].record_key))
    assert did(named) == [Did.EXPIRED], "looked for once more, as it was named"
    named = collected(tmp_path, keys=[str(predictions[0].record_key)])
    assert did(named) == [Did.REFUSED]


@pytest.mark.cometapi_simulator(run_time=0.02, output_ttl=0.1)
def test_what_has_expired_is_told_once(home: Home, scope: str, tmp_path: Path) -> None:
    create(scope)
    portal.call(asyncio.sleep, 0.5)
    report = collected(tmp_path, scope)
    assert (did(report), report.done) == ([Did.EXPIRED], False)
    assert "one hour after completion" in report.results[0].message
    assert [entry.state for entry in list_records(scope)] == ["expired"]
    assert collected(tmp_path, scope).results == []


def test_what_was_saved_in_part_can_be_collected_whole_by_its_key(
    home: Home,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = create(scope, input={**BOAT, "num_outputs": 4})
    monkeypatch.setattr(endings, "HANDOVER", 1.0)
    cometapi_simulator.set_fault("query.hollow", 1.0)  # only the envelope, which names one output
    report = collected(tmp_path, scope, timeout=20)
    assert [len(result.files) for result in report.results] == [1]
    cometapi_simulator.clear_faults()
    report = collected(tmp_path, keys=str(made.record_key))
    assert [len(result.files) for result in report.results] == [4]
    report = collected(tmp_path, keys=str(made.record_key))
    assert did(report) == [Did.REFUSED]


def test_more_than_are_dealt_with_at_once(
    home: Home,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "AT_ONCE", 2)
    cometapi_simulator.script("prediction", ["endless", "endless"])
    for sample in range(6):
        create(scope, sample=sample)
    report = collected(tmp_path, scope, timeout=2)
    assert did(report) == [Did.RUNNING] * 2 + [Did.SAVED] * 4


def test_it_waits_only_as_long_as_it_may(
    home: Home,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", ["endless"])
    create(scope)
    report = collected(tmp_path, scope)
    assert (did(report), cometapi_simulator.counts.polls) == ([Did.RUNNING], 1)
    report = collected(tmp_path, scope, timeout=0.6)
    assert did(report) == [Did.RUNNING]
    assert cometapi_simulator.counts.polls > 2
    assert cometapi_simulator.counts.cancels == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": -1}, InvalidInput),
        ({"timeout": float("nan")}, InvalidInput),
        ({"timeout": float("inf")}, InvalidInput),
        ({"timeout": True}, InvalidInput),
        ({"prefix": "../up"}, InvalidInput),
        ({"keys": "some-variable"}, InvalidInput),
        ({"keys": [key_of(3), key_of(4)]}, InvalidInput),
        ({"storage": "file/below"}, StorageError),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_before_anything_is_asked(
    options: dict[str, Any],
    error: type[Exception],
    home: Home,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    options = dict(options)
    storage = tmp_path / options.pop("storage", "pictures")
    with pytest.raises(error):
        collected(storage, scope, **options)
    assert cometapi_simulator.requests == []


def test_it_is_a_task_in_a_flow(
    home: Home, credentials: CometAPICredentials, scope: str, tmp_path: Path
) -> None:
    create(scope)
    create(scope, sample=1)

    @flow
    def evening() -> LedgerReport:
        return collect_predictions(credentials, tmp_path / "a", scope, timeout=20)

    @flow
    async def morning() -> LedgerReport:
        return await acollect_predictions(credentials, tmp_path / "b", scope)

    assert did(evening()) == [Did.SAVED, Did.SAVED]
    assert len(files_in(tmp_path / "a")) == 2
    assert asyncio.run(morning()).results == []
