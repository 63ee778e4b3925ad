"""Failures are counted by their reason, in bounded memory, however many there are."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_cometapi.batch_models import BatchItem, ItemStatus
from prefect_cometapi.batch_rules import FOUND_IN_DOUBT, reason_of, spread
from prefect_cometapi.errors import (
    InputRejected,
    InvalidInput,
    PredictionFailed,
    PredictionTimeout,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.failure_groups import IN_DOUBT_NAMED, NAMED, OTHER, REASONS, FailureGroups
from prefect_cometapi.ledger import Record, in_doubt
from tests.servers import ID, made_of


def item(number: int, reason: str = "Out of memory", **values: Any) -> BatchItem:
    known: dict[str, Any] = {"status": ItemStatus.FAILED, "error_type": "PredictionFailed"}
    return BatchItem(number=number, model="a/b", reason=reason, **known | values)


def grouped(*items: BatchItem) -> list[tuple[str, str, int]]:
    groups = FailureGroups()
    for each in items:
        groups.add(each)
    return [(str(group.status), group.reason, group.count) for group in groups.told()]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Out of memory", "out of memory", True),
        ("step 12 of 50 failed", "step 7 of 50 failed", True),
        ("Row 3: no column 'colour'", "Row 9: no column 'size'", True),
        ("node ip-10-0-3-7 is gone", "node ip-10-0-9-1 is gone", True),
        ("task 7f3a09c2 was lost", "task 91bd2e77 was lost", True),
        ("Out of memory", "NSFW content detected", False),
        ("HTTP 502", "a time-out", False),
    ],
)
def test_what_differs_only_in_numbers_and_names_is_one_reason(
    one: str, other: str, same: bool
) -> None:
    assert len(grouped(item(0, one), item(1, other))) == (1 if same else 2)
    assert grouped(item(0, one), item(1, one)) == [("failed", one, 2)]


def test_in_doubt_comes_first_and_then_the_most_frequent() -> None:
    doubt = item(9, "lost", status=ItemStatus.IN_DOUBT, error_type="SubmissionInDoubt")
    rare, often = item(1, "rare"), item(2, "often")
    assert grouped(rare, often, often, doubt) == [
        ("in doubt", "lost", 1),
        ("failed", "often", 2),
        ("failed", "rare", 1),
    ]


def test_the_same_words_of_another_status_are_another_reason() -> None:
    assert len(grouped(item(0), item(1, status=ItemStatus.REFUSED))) == 2


def test_without_a_reason_the_error_tells() -> None:
    assert grouped(item(0, "", error="The disk is full.")) == [("failed", "The disk is full.", 1)]


def test_memory_is_bounded() -> None:
    groups = FailureGroups()
    for number in range(2_000):
        groups.add(item(number, f"reason {'abcdefghij'[number % 10]}{'xyz' * (number // 10)}"))
    told = groups.told()
    assert sum(group.count for group in told) == 2_000
    assert len(told) == REASONS + 1
    assert told[0].reason == OTHER
    assert all(len(group.items) <= NAMED for group in told)
    doubts = FailureGroups()
    for number in range(500):
        doubts.add(item(number, "lost", status=ItemStatus.IN_DOUBT))
    assert len(doubts.told()[0].items) == IN_DOUBT_NAMED


def test_items_are_named_by_all_that_they_can_be_found_by() -> None:
    groups = FailureGroups()
    groups.add(item(3, key="k", prediction_id="p", record_key="r", request_id="q", excerpt="boat"))
    [named] = groups.told()[0].items
    assert named.model_dump() == {
        "number": 3,
        "key": "k",
        "excerpt": "boat",
        "prediction_id": "p",
        "record_key": "r",
        "request_id": "q",
    }


# --- what the reason is -----------------------------------------------------------------------

FAILED = made_of(None, error="CUDA out of memory")
SILENT = made_of(None)
RECORD = Record(scope="s", model="a/b", api_root="x", sent_at="2026-11-22T00:00:00Z")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PredictionFailed("Prediction … failed: …", prediction=FAILED), "CUDA out of memory"),
        (PredictionFailed(f"Prediction {ID} failed.", prediction=SILENT), "Prediction … failed."),
        (PredictionTimeout(f"{ID} is late.", prediction=SILENT), "… is late."),
        (
            InputRejected(
                "The input was refused. The service says: no. (request id: r-1) Correct it.",
                request_id="r-1",
            ),
            "The input was refused. The service says: no. Correct it.",
        ),
        (InvalidInput("Row 3 has no colour."), "Row 3 has no colour."),
        (in_doubt("key", RECORD, None, UnknownOutcome("HTTP 502", request_id="r-2")), "HTTP 502"),
        (in_doubt("key", RECORD, None), FOUND_IN_DOUBT),
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
    ],
)
def test_the_services_words_are_the_reason(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_what_is_in_doubt_knows_the_request() -> None:
    doubt = in_doubt("key", RECORD, None, UnknownOutcome("HTTP 502", request_id="r-2"))
    assert isinstance(doubt, SubmissionInDoubt)
    assert (doubt.request_id, doubt.cause) == ("r-2", "HTTP 502")


def test_times_are_told_as_half_most_and_longest() -> None:
    told = spread([float(n) for n in range(1, 101)])
    assert told is not None
    assert (told.median, told.p95, told.longest) == (50, 95, 100)
    assert spread([]) is None
