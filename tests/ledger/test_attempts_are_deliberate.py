"""A second payment for the same happens only where the caller asked for it, and is counted."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    ContentRefused,
    Generation,
    InvalidInput,
    Prediction,
    PredictionCanceled,
    PredictionFailed,
    PredictionTimeout,
    SubmissionInDoubt,
    abandon_predictions,
    create_prediction,
    generate,
    portal,
)
from prefect_cometapi.ledger import Outcome, Record, record_key
from prefect_cometapi.records import open_ledger
from prefect_cometapi.simulator import Simulator
from tests.servers import BOAT, MODEL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def records_of(scope: str) -> list[Record | None]:
    ledger = open_ledger("prefect-server")
    found = portal.call(ledger.records, scope)
    return sorted(found.values(), key=lambda record: record.attempt if record else 0)


def outcomes(scope: str) -> list[Outcome | None]:
    return [record.outcome if record else None for record in records_of(scope)]


def make(folder: Path, scope: str, **options: Any) -> Generation:
    @flow
    def boat() -> Generation:
        made: Generation = generate(
            CometAPICredentials.from_env(), MODEL, BOAT, folder, scope=scope, **options
        )
        return made

    return boat()


def test_a_failed_prediction_is_not_tried_again_by_itself(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    for _ in range(2):
        with pytest.raises(PredictionFailed, match="CUDA out of memory"):
            make(tmp_path, scope)
    assert cometapi_simulator.counts.creates == 1
    assert outcomes(scope) == [Outcome.FAILED]


def test_attempts_are_made_in_one_call_and_each_has_a_record(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed", "aborted"])
    made = make(tmp_path, scope, attempts=3)
    assert made.prediction.attempt == 3
    assert len(made.files) == 1
    assert cometapi_simulator.counts.creates == 3
    assert outcomes(scope) == [Outcome.FAILED, Outcome.FAILED, Outcome.SAVED]


def test_a_later_run_counts_the_attempts_that_were_made(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed", "failed", "failed"])
    with pytest.raises(PredictionFailed):
        make(tmp_path, scope, attempts=2)
    with pytest.raises(PredictionFailed):
        make(tmp_path, scope, attempts=2)
    assert cometapi_simulator.counts.creates == 2
    with pytest.raises(PredictionFailed):
        make(tmp_path, scope, attempts=3)
    assert make(tmp_path, scope, attempts=4).prediction.attempt == 4
    assert cometapi_simulator.counts.creates == 4


def test_what_a_filter_refused_is_not_tried_again(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["refused"])
    for _ in range(2):
        with pytest.raises(ContentRefused, match="NSFW"):
            make(tmp_path, scope, attempts=5)
    assert cometapi_simulator.counts.creates == 1


def test_what_the_service_canceled_is_not_tried_again(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["canceled"])
    for _ in range(2):
        with pytest.raises(PredictionCanceled):
            make(tmp_path, scope, attempts=2)
    assert outcomes(scope) == [Outcome.CANCELED]


def test_what_is_late_is_not_tried_again_and_can_be_canceled(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["endless"])
    with pytest.raises(PredictionTimeout, match="Nothing was canceled"):
        make(tmp_path, scope, timeout=1, attempts=2)
    assert outcomes(scope) == [None]
    with pytest.raises(PredictionTimeout, match="asked to cancel it"):
        make(tmp_path, scope, timeout=1, attempts=2, on_timeout="cancel")
    with pytest.raises(PredictionCanceled):
        make(tmp_path, scope, attempts=2)
    counts = cometapi_simulator.counts
    assert (counts.creates, counts.cancels) == (1, 1)
    assert outcomes(scope) == [Outcome.CANCELED]


@pytest.mark.parametrize("fault", ["lost", "no-id", "502-accepted", "cut-off"])
def test_resubmit_pays_once_more_and_says_so(
    fault: str,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cometapi_simulator.script("create", [fault])
    made = make(tmp_path, scope, on_in_doubt="resubmit")
    assert made.prediction.attempt == 2
    assert 'For on_in_doubt="resubmit" it is, once' in caplog.text
    assert cometapi_simulator.counts.charged == 2
    assert outcomes(scope) == [Outcome.RESUBMITTED, Outcome.SAVED]
    # Later runs follow the same trail, whatever they would do in doubt.
    assert make(tmp_path, scope).prediction.id == made.prediction.id
    assert cometapi_simulator.counts.charged == 2


def test_a_service_that_loses_every_reply_is_not_paid_without_end(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.set_fault("create.lost", 1.0)
    with pytest.raises(SubmissionInDoubt) as raised:
        make(tmp_path, scope, on_in_doubt="resubmit")
    assert cometapi_simulator.counts.charged == 2
    newest = records_of(scope)[-1]
    assert newest is not None
    assert newest.attempt == 2
    assert raised.value.record_key


def test_what_a_person_abandoned_is_not_resubmitted(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("create", ["lost"])
    with pytest.raises(SubmissionInDoubt):
        make(tmp_path, scope)
    assert abandon_predictions(scope=scope).done
    with pytest.raises(SubmissionInDoubt, match="abandoned"):
        make(tmp_path, scope, on_in_doubt="resubmit")
    assert cometapi_simulator.counts.creates == 1


def test_somebody_elses_intent_is_watched_before_it_is_sent_again(
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
) -> None:
    # Its sender's clock is a day behind, so that it looks lost while it is still under way.
    client = credentials.get_client()
    key = record_key(scope, client.api_root, MODEL, BOAT, 0)
    theirs = Record(
        scope=scope,
        model=MODEL,
        api_root=client.api_root,
        sent_at=datetime.now(UTC) - timedelta(days=1),
        owner="somebody else",
    )
    ledger = open_ledger("prefect-server")
    portal.call(ledger.claim, key, theirs)

    def answer_late() -> None:
        time.sleep(2)
        prediction = client.create_prediction(MODEL, BOAT)
        record = theirs.model_copy(update={"prediction_id": prediction.id})
        portal.call(ledger.store, key, record)

    other = threading.Thread(target=answer_late)
    other.start()
    made = make(tmp_path, scope, on_in_doubt="resubmit")
    other.join()
    assert made.prediction.attempt == 1
    assert cometapi_simulator.counts.creates == 1


def test_without_resubmit_the_same_record_is_named_each_time(
    cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    cometapi_simulator.script("create", ["lost"])
    keys = set()
    for _ in range(3):  # at once: what is known to be lost is not waited for
        with pytest.raises(SubmissionInDoubt) as raised:
            make(tmp_path, scope)
        keys.add(raised.value.record_key)
    assert len(keys) == 1
    assert cometapi_simulator.counts.creates == 1


def test_a_key_of_ones_own_stands_for_inputs_that_change(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, scope: str
) -> None:
    @flow
    def row(number: int, signature: str) -> Prediction:
        input = {"prompt": "A chair", "image": f"https://bucket.example/1.png?sig={signature}"}
        return create_prediction(credentials, MODEL, input, scope=scope, key=f"row-{number}")

    assert row(1, "monday").id == row(1, "tuesday").id
    assert row(2, "monday").id != row(1, "monday").id
    assert cometapi_simulator.counts.creates == 2


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 21},
        {"attempts": True},
        {"on_in_doubt": "again"},
        {"on_timeout": "kill"},
        {"key": ""},
        {"key": "x" * 201},
        {"key": 4711},
    ],
    ids=str,
)
def test_bad_options_cost_nothing(
    options: dict[str, Any], cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        make(tmp_path, scope, **options)
    assert not cometapi_simulator.requests
