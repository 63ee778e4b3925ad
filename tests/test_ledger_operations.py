"""What is in doubt is decided by a person, bulk and single, and what was paid for is fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    Did,
    Generation,
    InvalidInput,
    LedgerEntry,
    LedgerReport,
    Outcome,
    Prediction,
    PredictionNotFound,
    PredictionStatus,
    Record,
    Standing,
    StorageError,
    SubmissionInDoubt,
    aabandon_predictions,
    abandon_predictions,
    acollect_predictions,
    adopt_prediction,
    alist_records,
    collect_predictions,
    collection,
    lifecycle,
    list_records,
    operations,
    portal,
    prune_records,
    resubmit_predictions,
    simulator,
)
from prefect_cometapi.collection import collect
from prefect_cometapi.decisions import adoption, entry_of, mismatch, objection, prunable
from prefect_cometapi.ledger import record_key
from prefect_cometapi.simulator import Simulator
from prefect_cometapi.submission import Order, submit
from tests.ledgers import HOMES, read, tear, use_home, write
from tests.servers import BOAT, MODEL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

LONG_AGO = datetime.now(UTC) - timedelta(hours=2)


@pytest.fixture(params=["server"])
def home(
    request: pytest.FixtureRequest,
    prefect_server: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    return use_home(request.param, tmp_path / "ledger", monkeypatch)


all_homes = pytest.mark.parametrize("home", HOMES, indirect=True)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_POLL_MIN", "0.05")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_RECONNECT_TIMEOUT", "0.3")


@pytest.fixture
def scope(request: pytest.FixtureRequest, cometapi_simulator: Simulator) -> str:
    return f"{request.node.name}-{cometapi_simulator.url}"[-150:]


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()


def make(scope: str, storage: Path, input: dict[str, Any] = BOAT) -> Generation:
    client = CometAPICredentials.from_env().get_client()
    return portal.call(lifecycle.generate, client, Order(MODEL, input, scope=scope), storage)


def create(scope: str, sample: int = 0) -> Prediction:
    """Create and go away, as a run that is killed does."""
    client = CometAPICredentials.from_env().get_client()
    return portal.call(submit, client, Order(MODEL, BOAT, scope=scope, sample=sample))


def in_doubt(service: Simulator, scope: str, sample: int = 0) -> str:
    """Have a create's answer lost; returns the key of the record."""
    service.script("create", ["lost"])
    with pytest.raises(SubmissionInDoubt) as raised:
        create(scope, sample)
    assert raised.value.record_key
    return raised.value.record_key


def collected(credentials: CometAPICredentials, *args: Any, **options: Any) -> LedgerReport:
    return portal.call(collect, credentials.get_client(), *args, **options)


def did(report: LedgerReport) -> list[str]:
    return [result.did for result in report.results]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def key_of(number: int) -> str:
    return record_key("any", "any", MODEL, {}, number)


# --- the ways out of doubt --------------------------------------------------------------------


@all_homes
def test_what_is_adopted_is_gone_on_with(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    key = in_doubt(cometapi_simulator, scope)
    [found] = cometapi_simulator.predictions
    [entry] = list_records(scope, in_doubt=True)
    assert (entry.key, entry.scope, entry.standing) == (key, scope, Standing.IN_DOUBT)
    result = adopt_prediction(key, found, credentials=credentials)
    assert (result.did, result.prediction_id, result.done) == (Did.ADOPTED, found, True)
    assert list_records(scope, in_doubt=True) == []
    assert [entry.key for entry in list_records(scope, unsaved=True)] == [key]
    assert make(scope, tmp_path / "pictures").prediction.id == found
    assert cometapi_simulator.counts.creates == 1
    assert read(home, scope, key).outcome is Outcome.SAVED  # type: ignore[union-attr]
    assert adopt_prediction(key, found).done
    assert read(home, scope, key).outcome is Outcome.SAVED  # type: ignore[union-attr]


@all_homes
def test_what_is_resubmitted_is_paid_exactly_once_more(
    home: str, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    key = in_doubt(cometapi_simulator, scope)
    report = resubmit_predictions(key)
    assert (did(report), report.done) == ([Did.RESUBMITTED], True)
    assert "paid twice" in report.results[0].message
    assert cometapi_simulator.counts.creates == 1, "nothing is sent by that itself"
    for _ in range(2):
        assert make(scope, tmp_path / "pictures").prediction.attempt == 2
    assert cometapi_simulator.counts.creates == cometapi_simulator.counts.charged == 2
    # The first one was found after all: it can still be had.
    first = next(iter(cometapi_simulator.predictions))
    assert adopt_prediction(key, first).done
    report = collected(CometAPICredentials.from_env(), tmp_path / "late", scope)
    assert (did(report), report.results[0].prediction_id) == ([Did.SAVED], first)


@all_homes
def test_what_is_abandoned_is_not_sent_again(
    home: str, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    keys = [in_doubt(cometapi_simulator, scope, sample) for sample in range(2)]
    report = abandon_predictions(scope=scope)
    assert did(report) == [Did.ABANDONED] * 2
    for _ in range(2):
        with pytest.raises(SubmissionInDoubt, match=f"resubmit {keys[0]}"):
            make(scope, tmp_path)
    assert cometapi_simulator.counts.creates == 2
    assert did(abandon_predictions(scope=scope)) == []
    assert did(abandon_predictions(keys)) == [Did.ABANDONED] * 2
    assert did(collected(CometAPICredentials.from_env(), tmp_path, scope)) == []
    resubmit_predictions(keys[0])
    make(scope, tmp_path)
    assert cometapi_simulator.counts.creates == 3


# --- collecting -------------------------------------------------------------------------------


@all_homes
def test_what_a_dead_run_left_is_saved_once(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    ids = [create(scope, sample).id for sample in range(3)]
    report = collected(credentials, tmp_path / "pictures", scope, prefix="late", timeout=20)
    assert report.done
    assert [result.prediction_id for result in report.results] == ids, "the oldest first"
    assert report.summary == "3 saved"
    saved = sorted(f"{one}-0.webp" for one in ids)
    assert files_in(tmp_path / "pictures" / "late") == saved
    assert all(Path(file.location).exists() for one in report.results for file in one.files)
    requests = len(cometapi_simulator.requests)
    again = collected(credentials, tmp_path / "pictures", scope, prefix="late")
    assert (again.results, again.done, again.summary) == ([], True, "nothing to do")
    assert len(cometapi_simulator.requests) == requests
    assert cometapi_simulator.counts.creates == 3


@pytest.mark.cometapi_simulator(run_time=0.02)
def test_each_is_told_and_none_keeps_the_others(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = ["failed", "canceled", "endless", "removed", "ok", "ok"]
    cometapi_simulator.script("prediction", ends)
    predictions = [create(scope, sample) for sample in range(len(ends))]
    doubtful = in_doubt(cometapi_simulator, scope, 10)
    elsewhere = Record(
        scope=scope,
        model=MODEL,
        api_root="https://elsewhere.example",
        sent_at=LONG_AGO,
        prediction_id="farfaraway",
    )
    write(home, key_of(1), elsewhere)
    sending = elsewhere.model_copy(update={"sent_at": datetime.now(UTC), "prediction_id": None})
    write(home, key_of(2), sending)
    portal.call(asyncio.sleep, 0.3)
    monkeypatch.setattr(collection, "AT_ONCE", 1)  # so that it is known which query is the sixth
    cometapi_simulator.script_at("query.401", 6)
    report = collected(credentials, tmp_path, scope, timeout=0.5)
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
    assert read(home, scope, doubtful).outcome is None  # type: ignore[union-attr]
    again = collected(credentials, tmp_path, scope)
    assert sorted(did(again)) == sorted(
        [Did.RUNNING, Did.SAVED, Did.IN_DOUBT, Did.REFUSED, Did.SENDING]
    )
    assert cometapi_simulator.counts.cancels == 0
    named = collected(credentials, tmp_path, keys=str(predictions[3].record_key))
    assert did(named) == [Did.EXPIRED], "looked for once more, as it was named"
    named = collected(credentials, tmp_path, keys=[str(predictions[0].record_key)])
    assert did(named) == [Did.REFUSED]


@pytest.mark.cometapi_simulator(run_time=0.02, output_ttl=0.1)
def test_what_has_expired_is_told_once(
    home: str, credentials: CometAPICredentials, scope: str, tmp_path: Path
) -> None:
    create(scope)
    portal.call(asyncio.sleep, 0.5)
    report = collected(credentials, tmp_path, scope)
    assert (did(report), report.done) == ([Did.EXPIRED], False)
    assert "one hour after completion" in report.results[0].message
    assert [entry.state for entry in list_records(scope)] == ["expired"]
    assert collected(credentials, tmp_path, scope).results == []


def test_an_old_one_without_outputs_has_not_made_nothing(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prediction = credentials.get_client().create_prediction("simulator/nothing", BOAT)
    old = Record(
        scope=scope,
        model=prediction.model,
        api_root=prediction.api_root,
        sent_at=LONG_AGO,
        prediction_id=prediction.id,
    )
    young = old.model_copy(update={"sent_at": datetime.now(UTC), "sample": 1})
    for number, record in enumerate((old, young)):
        write(home, record_key(scope, record.api_root, record.model, BOAT, number), record)
    cometapi_simulator.set_fault("query.hollow", 1.0)  # without times, and without "data_removed"
    monkeypatch.setattr(collection, "HANDOVER_TIMEOUT", 4.0)
    report = collected(credentials, tmp_path, scope)
    assert did(report) == [Did.EXPIRED, Did.TROUBLE]
    assert "has not handed over its outputs" in report.results[1].message
    cometapi_simulator.set_fault("query.hollow", 0.0)
    assert did(collected(credentials, tmp_path, scope)) == [Did.SAVED]


def test_more_than_are_dealt_with_at_once(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "AT_ONCE", 2)
    cometapi_simulator.script("prediction", ["endless", "endless"])
    for sample in range(6):
        create(scope, sample)
    report = collected(credentials, tmp_path, scope, timeout=2)
    assert did(report) == [Did.RUNNING] * 2 + [Did.SAVED] * 4


def test_it_waits_only_as_long_as_it_may(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", ["endless"])
    create(scope)
    report = collected(credentials, tmp_path, scope)
    assert (did(report), cometapi_simulator.counts.polls) == ([Did.RUNNING], 1)
    report = collected(credentials, tmp_path, scope, timeout=0.6)
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
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("in the way")
    options = dict(options)
    storage = tmp_path / options.pop("storage", "pictures")
    with pytest.raises(error):
        collected(credentials, storage, scope, **options)
    assert cometapi_simulator.requests == []


def test_it_is_a_task_in_a_flow(
    home: str, credentials: CometAPICredentials, scope: str, tmp_path: Path
) -> None:
    create(scope)
    create(scope, 1)

    @flow
    def evening() -> LedgerReport:
        return collect_predictions(credentials, tmp_path / "a", scope, timeout=20)

    @flow
    async def morning() -> LedgerReport:
        return await acollect_predictions(credentials, tmp_path / "b", scope)

    assert did(evening()) == [Did.SAVED, Did.SAVED]
    assert len(files_in(tmp_path / "a")) == 2
    assert asyncio.run(morning()).results == []


# --- records that can not be read, or must not be touched -------------------------------------


@all_homes
def test_a_torn_record_is_decided_about_like_another(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    keys = [str(create(scope, sample).record_key) for sample in range(3)]
    for key in keys:
        tear(home, scope, key)
    assert {entry.key for entry in list_records(scope, in_doubt=True)} == set(keys)
    report = collected(credentials, tmp_path / "pictures", scope)
    assert did(report) == [Did.IN_DOUBT] * 3
    with pytest.raises(SubmissionInDoubt):
        create(scope, 0)
    # A Variable still has the scope among its tags; in a storage it is a folder's hashed name.
    hint = {"scope": scope} if home.startswith("block://") else {}
    assert did(abandon_predictions(keys[0], **hint)) == [Did.ABANDONED]
    assert did(resubmit_predictions([keys[1]], **hint)) == [Did.RESUBMITTED]
    third = list(cometapi_simulator.predictions)[2]
    adopted = adopt_prediction(keys[2], third, credentials=credentials, **hint)
    assert (adopted.model, adopted.scope) == (MODEL, scope)
    with pytest.raises(SubmissionInDoubt, match="abandoned"):
        create(scope, 0)
    assert create(scope, 1).attempt == 2
    assert create(scope, 2).id == third
    assert cometapi_simulator.counts.creates == 4


@pytest.mark.parametrize("home", ["folder"], indirect=True)
def test_a_torn_record_of_an_unknown_scope_has_to_be_named(
    home: str, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    key = str(create(scope).record_key)
    tear(home, scope, key)
    report = resubmit_predictions(key)
    assert did(report) == [Did.TROUBLE]
    assert "--scope" in report.results[0].message
    assert did(resubmit_predictions(key, scope=scope)) == [Did.RESUBMITTED]


def test_a_torn_record_is_adopted_also_where_nobody_can_be_asked(
    home: str, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    prediction = create(scope)
    tear(home, scope, str(prediction.record_key))
    adopted = adopt_prediction(str(prediction.record_key), prediction.id)
    assert (adopted.model, adopted.prediction_id) == ("", prediction.id)
    assert make(scope, tmp_path / "pictures").prediction.id == prediction.id


@all_homes
def test_what_is_being_sent_is_left_alone(home: str, scope: str) -> None:
    now = datetime.now(UTC)
    record = Record(scope=scope, model=MODEL, api_root="https://a.example", sent_at=now)
    key = record_key(scope, record.api_root, MODEL, BOAT, 0)
    write(home, key, record)
    then = f"{now + timedelta(seconds=100):%H:%M:%S} UTC"
    with pytest.raises(InvalidInput, match=then):
        adopt_prediction(key, "abc")
    for decide in (abandon_predictions, resubmit_predictions):
        report = decide(key)
        assert did(report) == [Did.REFUSED]
        assert then in report.results[0].message
        assert decide(scope=scope).results == []
    assert did(prune_records(older_than=0, scope=scope, everything=True)) == []
    assert read(home, scope, key) == record


# --- adopting ---------------------------------------------------------------------------------


def test_only_the_prediction_that_it_can_be_is_adopted(
    home: str,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    first = create(scope)
    key = in_doubt(cometapi_simulator, scope, 1)
    mine = list(cometapi_simulator.predictions)[1]
    client = credentials.get_client()
    other_model = client.create_prediction("stability-ai/sdxl", BOAT).id
    other_prompt = client.create_prediction(MODEL, {"prompt": "A lighthouse"}).id
    unchanged = read(home, scope, key)
    refused: list[tuple[str, CometAPICredentials | None, str]] = [
        ("../secrets", None, "not a prediction id"),
        (first.id, None, f"that of record {first.record_key}"),
        (other_model, credentials, "asked for black-forest-labs/flux-schnell"),
        (other_prompt, credentials, "A lighthouse"),
    ]
    for prediction_id, known_by, words in refused:
        with pytest.raises(InvalidInput, match=words):
            adopt_prediction(key, prediction_id, credentials=known_by)
    with pytest.raises(PredictionNotFound):
        adopt_prediction(key, "nobodyknows", credentials=credentials)
    with simulator.run() as another:
        theirs = CometAPICredentials(api_key="sk-x", base_url=another.url)
        theirs.get_client().create_prediction(MODEL, BOAT)
        with pytest.raises(InvalidInput, match="the credentials are for"):
            adopt_prediction(key, next(iter(another.predictions)), credentials=theirs)
    assert read(home, scope, key) == unchanged
    assert adopt_prediction(key, mine, credentials=credentials).done
    with pytest.raises(InvalidInput, match=f"is prediction {mine} already"):
        adopt_prediction(key, "another")
    with pytest.raises(InvalidInput, match="ledger list"):
        adopt_prediction(key_of(7), mine)


def test_what_was_given_up_can_be_taken_back(home: str, scope: str) -> None:
    prediction = create(scope)
    key = str(prediction.record_key)
    assert did(resubmit_predictions(key)) == [Did.REFUSED], "it is paid for, and known"
    assert did(abandon_predictions(key)) == [Did.ABANDONED]
    with pytest.raises(SubmissionInDoubt):
        create(scope)
    assert adopt_prediction(key, prediction.id).done
    assert create(scope).id == prediction.id


# --- lists, pruning, twins --------------------------------------------------------------------


@all_homes
def test_a_scope_is_listed_oldest_first_and_filtered(
    home: str, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    make(scope, tmp_path / "pictures")
    create(scope, 1)
    in_doubt(cometapi_simulator, scope, 2)
    states = ["saved", "paid, not saved", "in doubt"]
    assert [entry.state for entry in list_records(scope)] == states
    assert [entry.state for entry in list_records(scope, unsaved=True)] == states[1:2]
    both = list_records(scope, in_doubt=True, unsaved=True)
    assert [entry.state for entry in both] == states[1:]
    assert {entry.key for entry in list_records()} >= {entry.key for entry in both}
    assert list_records(f"{scope}-another") == []


@pytest.mark.parametrize("home", ["server", "folder", "objects"], indirect=True)
def test_pruning_deletes_what_has_ended_and_is_old(
    request: pytest.FixtureRequest, home: str, scope: str
) -> None:
    def put(number: int, days: float, **fields: Any) -> str:
        sent_at = datetime.now(UTC) - timedelta(days=days)
        record = Record(scope=scope, model=MODEL, api_root="r", sent_at=sent_at, **fields)
        key = record_key(scope, "r", MODEL, {}, number)
        write(home, key, record.model_copy(update={"sample": number}))
        return key

    old = put(0, 8, outcome=Outcome.SAVED, prediction_id="a")
    put(1, 6, outcome=Outcome.SAVED, prediction_id="b")
    unsaved = put(2, 8, prediction_id="c")
    doubtful = put(3, 8)
    report = prune_records(scope=scope)
    assert [result.record_key for result in report.results] == [old]
    if "objects" in request.node.name:
        assert did(report) == [Did.TROUBLE]
        assert "no way to delete" in report.results[0].message
        return
    assert report.done
    left = prune_records(scope=scope, everything=True)
    assert {result.record_key for result in left.results} == {unsaved, doubtful}
    assert prune_records(scope=scope).results == []
    assert len(list_records(scope)) == 1
    for days in (-1, float("nan"), True, "7"):
        with pytest.raises(InvalidInput, match="days"):
            prune_records(older_than=days)  # type: ignore[arg-type]


async def test_the_async_twins_do_the_same(scope: str) -> None:
    created = await asyncio.to_thread(create, scope)
    report = await aabandon_predictions(str(created.record_key))
    assert did(report) == [Did.ABANDONED]
    assert [entry.state for entry in await alist_records(scope)] == ["abandoned"]
    assert abandon_predictions.__name__ == "abandon_predictions"
    assert operations.list_records.__doc__ == alist_records.__doc__


@pytest.mark.parametrize("decide", [abandon_predictions, resubmit_predictions])
def test_something_has_to_be_named(decide: Callable[..., LedgerReport]) -> None:
    with pytest.raises(InvalidInput, match="Say which"):
        decide()
    with pytest.raises(InvalidInput, match="no record"):
        decide("a-variable-of-somebody-else", scope="any")


# --- the rules --------------------------------------------------------------------------------

SENT = datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)
WAIT = timedelta(seconds=100)
INTENT = Record(scope="s", model=MODEL, api_root="https://a.example", sent_at=SENT)
PAID = INTENT.model_copy(update={"prediction_id": "abc"})


@pytest.mark.parametrize(
    ("record", "age", "abandon", "resubmit"),
    [
        (None, 1e6, "", ""),
        (INTENT, 50, "from 11:28:58 UTC", "from 11:28:58 UTC"),
        (INTENT, 1e6, "", ""),
        (INTENT.model_copy(update={"lost": True}), 1, "", ""),
        (PAID, 50, "", "prediction abc is paid for"),
        (PAID.ended(Outcome.SAVED), 50, "is saved", "is saved"),
        (PAID.ended(Outcome.FAILED), 50, "is failed", "is failed"),
        (PAID.ended(Outcome.STOPPED), 50, "is stopped", "is stopped"),
        (PAID.ended(Outcome.EXPIRED), 50, "is expired", "is expired"),
        (PAID.ended(Outcome.ABANDONED), 50, "", ""),
        (INTENT.ended(Outcome.RESUBMITTED), 50, "", ""),
    ],
)
def test_what_may_be_decided(
    record: Record | None, age: float, abandon: str, resubmit: str
) -> None:
    entry = entry_of("k", record, "s", SENT + timedelta(seconds=age), WAIT)
    for decision, words in ((Outcome.ABANDONED, abandon), (Outcome.RESUBMITTED, resubmit)):
        why = objection(decision, entry, WAIT)
        assert words in why
        assert bool(words) == bool(why)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_adopting_undoes_only_what_a_person_decided(outcome: Outcome) -> None:
    adopted = adoption(PAID.ended(outcome), Standing.ENDED, "abc", WAIT)
    undone = outcome in (Outcome.ABANDONED, Outcome.RESUBMITTED)
    assert adopted.outcome is (None if undone else outcome)


def seen(**fields: Any) -> Prediction:
    known: dict[str, Any] = {"id": "abc", "model": MODEL, "api_root": "https://a.example"}
    return Prediction(status=PredictionStatus.STARTING, **known | fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"model": ""}, ""),
        ({"model": f"{MODEL.upper()}:5f24"}, ""),
        ({"model": "another/model"}, "another/model"),
        ({"input": {"prompt": "A paper\n boat"}}, ""),
        ({"input": {"prompt": "A paper ship"}}, "A paper ship"),
        ({"input": {"prompt": 5}}, ""),
    ],
)
def test_what_can_not_be_the_same(fields: dict[str, Any], words: str) -> None:
    why = mismatch(INTENT.model_copy(update={"excerpt": "A paper boat"}), seen(**fields))
    assert words in why
    assert bool(words) == bool(why)


def test_attempts_at_one_request_are_pruned_together() -> None:
    now = SENT + timedelta(days=30)

    def entry(key: str, record: Record | None) -> LedgerEntry:
        return entry_of(key, record, "s", now, WAIT)

    again = INTENT.model_copy(update={"attempt": 2})
    first = entry("first", INTENT.ended(Outcome.RESUBMITTED))
    other = entry("other", PAID.model_copy(update={"sample": 1}).ended(Outcome.SAVED))
    saved = entry("second", again.ended(Outcome.SAVED))
    young = entry("second", again.ended(Outcome.SAVED).model_copy(update={"sent_at": now}))
    doubtful, torn = entry("second", again), entry("torn", None)
    week = timedelta(days=7)
    assert prunable([first, saved, other], now, week) == [first, saved, other]
    assert prunable([first, young, other], now, week) == [other]
    assert prunable([first, doubtful, other, torn], now, week) == [other]
    assert prunable([first, doubtful, torn], now, week, True) == [first, doubtful, torn]
