"""What is in doubt is decided by a person, bulk and single: adopted, resubmitted, abandoned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefect_cometapi import (
    CometAPICredentials,
    Did,
    InvalidInput,
    LedgerReport,
    Outcome,
    PredictionError,
    PredictionNotFound,
    Record,
    Standing,
    SubmissionInDoubt,
    abandon_predictions,
    adopt_prediction,
    list_records,
    prune_records,
    resubmit_predictions,
    simulator,
)
from prefect_cometapi.ledger import record_key
from prefect_cometapi.settings import load_settings
from prefect_cometapi.simulator import Simulator
from prefect_cometapi.submission import patience
from tests.homes import HOMES, Home, collected, create, did, in_doubt, key_of, make
from tests.servers import BOAT, MODEL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.mark.parametrize("home", HOMES, indirect=True)
def test_what_is_adopted_is_gone_on_with(
    home: Home,
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
    assert home.read(scope, key).outcome is Outcome.SAVED
    assert adopt_prediction(key, found).done
    assert home.read(scope, key).outcome is Outcome.SAVED


@pytest.mark.parametrize("home", HOMES, indirect=True)
def test_what_is_resubmitted_is_paid_exactly_once_more(
    home: Home, cometapi_simulator: Simulator, scope: str, tmp_path: Path
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
    report = collected(tmp_path / "late", scope)
    assert (did(report), report.results[0].prediction_id) == ([Did.SAVED], first)


@pytest.mark.parametrize("home", HOMES, indirect=True)
@pytest.mark.parametrize("fate", ["failed", "canceled"])
def test_what_failed_is_made_again_where_a_person_says_so(
    fate: str, home: Home, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", [fate])
    for _ in range(2):
        with pytest.raises(PredictionError) as raised:
            make(scope, tmp_path)
    assert cometapi_simulator.counts.creates == 1
    [key] = home.records(scope)
    assert f"`python -m prefect_cometapi ledger resubmit {key}`" in str(raised.value)
    assert resubmit_predictions(key).done
    assert len(make(scope, tmp_path).files) == 1
    assert cometapi_simulator.counts.creates == 2


def test_what_is_abandoned_is_not_sent_again(
    home: Home, cometapi_simulator: Simulator, scope: str, tmp_path: Path
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
    assert did(collected(tmp_path, scope)) == []
    resubmit_predictions(keys[0])
    make(scope, tmp_path)
    assert cometapi_simulator.counts.creates == 3


# --- records that can not be read, or must not be touched -------------------------------------


@pytest.mark.parametrize("home", HOMES, indirect=True)
def test_a_torn_record_is_decided_about_like_another(
    home: Home,
    cometapi_simulator: Simulator,
    credentials: CometAPICredentials,
    scope: str,
    tmp_path: Path,
) -> None:
    keys = [str(create(scope, sample=sample).record_key) for sample in range(3)]
    for key in keys:
        home.tear(scope, key)
    assert {entry.key for entry in list_records(scope, in_doubt=True)} == set(keys)
    report = collected(tmp_path / "pictures", scope)
    assert did(report) == [Did.IN_DOUBT] * 3
    with pytest.raises(SubmissionInDoubt):
        create(scope, sample=0)
    # A Variable still has the scope among its tags; in a storage it is a folder's hashed name.
    hint = {"scope": scope} if home.in_files else {}
    assert did(abandon_predictions(keys[0], **hint)) == [Did.ABANDONED]
    assert did(resubmit_predictions([keys[1]], **hint)) == [Did.RESUBMITTED]
    third = list(cometapi_simulator.predictions)[2]
    adopted = adopt_prediction(keys[2], third, credentials=credentials, **hint)
    assert (adopted.model, adopted.scope) == (MODEL, scope)
    with pytest.raises(SubmissionInDoubt, match="abandoned"):
        create(scope, sample=0)
    assert create(scope, sample=1).attempt == 2
    assert create(scope, sample=2).id == third
    assert cometapi_simulator.counts.creates == 4


@pytest.mark.parametrize("home", ["folder"], indirect=True)
def test_a_torn_record_of_an_unknown_scope_has_to_be_named(
    home: Home, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    key = str(create(scope).record_key)
    home.tear(scope, key)
    report = resubmit_predictions(key)
    assert did(report) == [Did.TROUBLE]
    assert "--scope" in report.results[0].message
    assert did(resubmit_predictions(key, scope=scope)) == [Did.RESUBMITTED]


def test_a_torn_record_is_adopted_also_where_nobody_can_be_asked(
    home: Home, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    prediction = create(scope)
    home.tear(scope, str(prediction.record_key))
    adopted = adopt_prediction(str(prediction.record_key), prediction.id)
    assert (adopted.model, adopted.prediction_id) == ("", prediction.id)
    assert make(scope, tmp_path / "pictures").prediction.id == prediction.id


@pytest.mark.parametrize("home", HOMES, indirect=True)
def test_what_is_being_sent_is_left_alone(home: Home, scope: str) -> None:
    now = datetime.now(UTC)
    record = Record(scope=scope, model=MODEL, api_root="https://a.example", sent_at=now)
    key = record_key(scope, record.api_root, MODEL, BOAT, 0)
    home.write(key, record)
    then = f"{now + patience(load_settings()):%H:%M:%S} UTC"
    with pytest.raises(InvalidInput, match=then):
        adopt_prediction(key, "abc")
    for decide in (abandon_predictions, resubmit_predictions):
        report = decide(key)
        assert did(report) == [Did.REFUSED]
        assert then in report.results[0].message
        assert decide(scope=scope).results == []
    assert did(prune_records(older_than=0, scope=scope, everything=True)) == []
    assert home.read(scope, key) == record


# --- adopting ---------------------------------------------------------------------------------


def test_only_the_prediction_that_it_can_be_is_adopted(
    home: Home,
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
    unchanged = home.read(scope, key)
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
    assert home.read(scope, key) == unchanged
    assert adopt_prediction(key, mine, credentials=credentials).done
    with pytest.raises(InvalidInput, match=f"is prediction {mine} already"):
        adopt_prediction(key, "another")
    with pytest.raises(InvalidInput, match="ledger list"):
        adopt_prediction(key_of(7), mine)


def test_what_was_given_up_can_be_taken_back(home: Home, scope: str) -> None:
    prediction = create(scope)
    key = str(prediction.record_key)
    assert did(resubmit_predictions(key)) == [Did.REFUSED], "it is paid for, and known"
    assert did(abandon_predictions(key)) == [Did.ABANDONED]
    with pytest.raises(SubmissionInDoubt):
        create(scope)
    assert adopt_prediction(key, prediction.id).done
    assert create(scope).id == prediction.id


@pytest.mark.parametrize("decide", [abandon_predictions, resubmit_predictions])
def test_something_has_to_be_named(decide: Callable[..., LedgerReport]) -> None:
    with pytest.raises(InvalidInput, match="Say which"):
        decide()
    with pytest.raises(InvalidInput, match="no record"):
        decide("a-variable-of-somebody-else", scope="any")
