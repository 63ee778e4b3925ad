"""An event has a name that people understand, labels that automations match and numbers in its
payload, no more of a prompt than its beginning and no signature; the same change is the same event.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_cometapi import events
from prefect_cometapi.batch_models import BatchItem, BatchResult, ItemStatus
from prefect_cometapi.events import Change
from prefect_cometapi.ledger import Record
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile

KEY = "cometapi-0123456789abcdef0123456789abcdef01234567"
SIGNED = "https://cdn.example/out-0.png?X-Signature=hunter2"
SENT = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)


def prediction(**changes: Any) -> Prediction:
    known: dict[str, Any] = {
        "id": "abc",
        "model": "owner/name",
        "status": PredictionStatus.SUCCEEDED,
        "api_root": "https://api.example",
        "input": {"prompt": "A paper boat " * 50},
        "output": [SIGNED],
        "metrics": {"predict_time": 3.1},
        "submitted_at": SENT,
        "record_key": KEY,
        "scope": "night 1",
    }
    return Prediction(**known | changes)


def record(**changes: Any) -> Record:
    known: dict[str, Any] = {
        "scope": "night 1",
        "model": "owner/name",
        "api_root": "https://api.example",
        "excerpt": "A boat",
        "sent_at": SENT,
    }
    return Record(**known | changes)


def file(name: str = "night/abc-0.png") -> SavedFile:
    location = f"s3://bucket/{name}"
    return SavedFile(
        location=location, name=name, output="output", media_type="image/png", size=7, sha256="0"
    )


# --- predictions ------------------------------------------------------------------------------


def test_a_prediction_that_was_saved() -> None:
    subject = events.of_prediction(prediction(input={"prompt": "A boat"}))
    notice = events.of_change(Change.SAVED, subject, files=[file()], batch="night 1", price=0.003)
    assert notice.event == "cometapi.prediction.saved"
    assert notice.resource == {
        "prefect.resource.id": "cometapi.prediction.abc",
        "prefect.resource.name": "owner/name: A boat",
        "cometapi.model": "owner/name",
        "cometapi.scope": "night 1",
        "cometapi.record": KEY,
    }
    assert [
        (each["prefect.resource.role"], each["prefect.resource.id"]) for each in notice.related
    ] == [
        ("model", "cometapi://model/owner/name"),
        ("batch", "cometapi.batch.a9846bb92295"),
    ]
    assert notice.payload == {
        "prediction_id": "abc",
        "model": "owner/name",
        "excerpt": "A boat",
        "scope": "night 1",
        "record_key": KEY,
        "attempt": 1,
        "api_root": "https://api.example",
        "sent_at": "2026-11-22T03:04:05+00:00",
        "run_time": 3.1,
        "estimated_cost": 0.003,
        "files": 1,
        "bytes": 7,
        "names": ["night/abc-0.png"],
    }


def test_in_doubt_it_has_no_id_and_is_known_by_its_record() -> None:
    notice = events.of_change(
        Change.IN_DOUBT,
        events.of_record(record(scope="it's a night"), KEY),
        reason="Its reply was lost.",
        error_type="SubmissionInDoubt",
    )
    assert notice.resource["prefect.resource.id"] == f"cometapi.prediction.{KEY}"
    assert notice.resource["cometapi.error"] == "SubmissionInDoubt"
    assert "prediction_id" not in notice.payload
    assert notice.payload["command"] == f"python -m prefect_cometapi ledger show {KEY}"
    listed = """python -m prefect_cometapi ledger list --in-doubt --scope 'it'"'"'s a night'"""
    assert notice.payload["list_command"] == listed


@pytest.mark.parametrize(
    ("change", "command"),
    [
        (Change.NOT_SAVED, f"collect {KEY} --storage STORAGE"),
        (Change.FAILED, f"resubmit {KEY}"),
        (Change.CANCELED, f"resubmit {KEY}"),
        (Change.EXPIRED, f"resubmit {KEY}"),
    ],
)
def test_what_went_wrong_says_what_to_do(change: Change, command: str) -> None:
    notice = events.of_change(change, events.of_prediction(prediction()))
    assert notice.payload["command"] == f"python -m prefect_cometapi ledger {command}"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        ("succeeded", None, ""),
        ("failed", "CUDA out of memory", "PredictionFailed"),
        ("failed", None, "PredictionFailed"),
        ("failed", "NSFW content detected", "ContentRefused"),
        ("aborted", None, "PredictionFailed"),
        ("canceled", None, "PredictionCanceled"),
    ],
)
def test_why_it_failed_is_a_label(status: str, error: str | None, kind: str) -> None:
    reason, error_type = events.why(prediction(status=status, error=error))
    assert error_type == kind
    assert bool(reason) == bool(kind)
    assert error is None or reason == error


@pytest.mark.parametrize("change", list(Change))
def test_no_more_of_a_prompt_than_its_beginning_and_no_signature(change: Change) -> None:
    subject = events.of_prediction(prediction())
    notice = events.of_change(change, subject, reason=f"{SIGNED} " * 20, files=[file()])
    told = json.dumps([notice.resource, notice.related, notice.payload])
    assert "hunter2" not in told
    assert len(notice.payload["excerpt"]) <= 120
    assert len(notice.payload["reason"]) <= 300
    assert len(notice.resource["prefect.resource.name"]) <= 120
    assert told.count("A paper boat") < 20


def test_labels_are_texts_and_never_empty() -> None:
    bare = Prediction(id="abc", model="", status=PredictionStatus.FAILED, api_root="")
    notices = [events.of_change(change, events.of_prediction(bare)) for change in Change]
    notices.append(events.of_change(Change.IN_DOUBT, events.of_record(record(excerpt=""), None)))
    notices.append(events.of_batch(BatchResult(scope="s", model="m", total=0, counts={})))
    for notice in notices:
        for resource in (notice.resource, *notice.related):
            assert all(isinstance(value, str) and value for value in resource.values()), resource


# --- once -------------------------------------------------------------------------------------


def test_the_same_change_is_the_same_event_wherever_it_is_told() -> None:
    seen = events.of_prediction(prediction())
    item = BatchItem(
        number=0,
        status=ItemStatus.EXPIRED,
        model="owner/name",
        prediction_id="abc",
        record_key=KEY,
    )
    by_item = events.of_change(Change.EXPIRED, events.of_item(item, "night 1"), reason="one")
    assert events.of_change(Change.EXPIRED, seen, reason="another").id == by_item.id
    assert events.of_change(Change.FAILED, seen).id != by_item.id
    other = events.of_prediction(prediction(id="abd"))
    assert events.of_change(Change.EXPIRED, other).id != by_item.id


def test_what_is_saved_elsewhere_as_well_is_saved_once_more() -> None:
    subject = events.of_prediction(prediction())
    here, there = (
        events.of_change(Change.SAVED, subject, files=[file(name)]) for name in ("a/0", "b/0")
    )
    assert here.id != there.id


# --- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "total", "name"),
    [
        (0, 0, "none"),
        (0, 10, "none"),
        (1, 1000, "up to 1%"),
        (10, 1000, "up to 1%"),
        (11, 1000, "1-5%"),
        (1, 10, "5-10%"),
        (11, 100, "10-25%"),
        (1, 2, "25-50%"),
        (51, 100, "over 50%"),
        (3, 3, "over 50%"),
    ],
)
def test_a_share_of_failures_has_a_name(failed: int, total: int, name: str) -> None:
    assert events.share_class(failed, total) == name


def result(**changes: Any) -> BatchResult:
    known: dict[str, Any] = {
        "scope": "night 1",
        "model": "owner/name",
        "total": 20,
        "counts": {"saved": 16, "failed": 1, "in doubt": 1, "timed out": 1, "paid, not saved": 1},
        "created": 19,
        "found": 1,
        "seconds": 12.5,
        "polls": 80,
        "delay_p95": 0.4,
        "manifest": "cometapi-batches/night-1/run-0001/manifest-1.jsonl",
    }
    return BatchResult(**known | changes)


def test_the_end_of_a_batch_has_numbers_and_labels() -> None:
    notice = events.of_batch(result(estimated_cost=0.057, files=16, size=1_600))
    assert notice.event == "cometapi.batch.finished"
    assert notice.id is None  # each run of it ends once
    assert notice.resource == {
        "prefect.resource.id": "cometapi.batch.a9846bb92295",
        "prefect.resource.name": "owner/name: night 1",
        "cometapi.model": "owner/name",
        "cometapi.scope": "night 1",
        "cometapi.failure-share": "10-25%",
        "cometapi.in-doubt": "yes",
        "cometapi.paid-not-saved": "yes",
        "cometapi.stopped": "no",
    }
    numbers = {
        "total": 20,
        "saved": 16,
        "failed": 1,
        "in_doubt": 1,
        "paid_not_saved": 2,
        "went_wrong": 4,
        "failure_share": 0.2,
        "created": 19,
        "found": 1,
        "estimated_cost": 0.057,
        "seconds": 12.5,
        "polls": 80,
        "delay_p95": 0.4,
        "files": 16,
        "bytes": 1_600,
    }
    assert {name: notice.payload[name] for name in numbers} == numbers
    assert all(isinstance(notice.payload[name], int | float) for name in numbers)


def test_a_batch_is_known_by_the_end_of_its_folders_name() -> None:
    from prefect_cometapi.records import folder_of

    found = events.of_batch(result()).resource["prefect.resource.id"]
    assert folder_of("night 1").endswith(found.removeprefix("cometapi.batch."))


def test_the_summary_can_be_read_as_a_result() -> None:
    before = result(stopped="max_cost=1 would be exceeded.")
    after = BatchResult.model_validate_json(json.dumps(events.summary_of(before)))
    assert after == before
