"""The rules by which a person may decide about a record, without any server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_cometapi import (
    InvalidInput,
    LedgerEntry,
    Outcome,
    Prediction,
    PredictionStatus,
    Record,
    Standing,
)
from prefect_cometapi.decisions import (
    adoption,
    entry_of,
    mismatch,
    objection,
    prunable,
    told_apart,
    what_to_do,
)
from tests.servers import MODEL

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
        (PAID.ended(Outcome.FAILED), 50, "is failed", ""),
        (PAID.ended(Outcome.STOPPED), 50, "is stopped", ""),
        (PAID.ended(Outcome.EXPIRED), 50, "is expired", ""),
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


def test_a_wrong_id_is_corrected_once_it_was_abandoned() -> None:
    with pytest.raises(InvalidInput, match="abandon it, and adopt it anew"):
        adoption(PAID, Standing.UNSAVED, "right", WAIT)
    abandoned = PAID.ended(Outcome.ABANDONED)
    adopted = adoption(abandoned, Standing.ENDED, "right", WAIT)
    assert (adopted.prediction_id, adopted.outcome) == ("right", None)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "ledger adopt"),
        (INTENT, "from 11:28:58 UTC"),
        (INTENT.model_copy(update={"lost": True}), "ledger adopt"),
        (PAID, "ledger collect"),
        (PAID.ended(Outcome.SAVED), ""),
        (PAID.ended(Outcome.ABANDONED), ""),
        (PAID.ended(Outcome.FAILED), "ledger resubmit"),
        (PAID.ended(Outcome.EXPIRED), "ledger resubmit"),
    ],
)
def test_what_there_is_to_do(record: Record | None, words: str) -> None:
    todo = what_to_do(entry_of("k", record, "s", SENT, WAIT), WAIT)
    assert words in todo
    assert bool(words) == bool(todo)


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

    again = INTENT.model_copy(update={"attempt": 2, "first": "first"})
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


def test_what_was_made_again_needs_nobody() -> None:
    now = SENT + timedelta(days=30)
    failed = PAID.ended(Outcome.FAILED)
    again = failed.model_copy(update={"attempt": 2, "first": "first"})
    records = {"first": failed, "second": again, "alike": failed}
    entries = told_apart(entry_of(key, record, "s", now, WAIT) for key, record in records.items())
    assert [entry.state for entry in entries] == ["failed, made again", "failed", "failed"]
    replaced, latest, _ = entries
    assert what_to_do(replaced, WAIT) == ""
    assert "resubmit second" in what_to_do(latest, WAIT)
    assert "later attempt" in objection(Outcome.RESUBMITTED, replaced, WAIT)
    assert objection(Outcome.RESUBMITTED, latest, WAIT) == ""
