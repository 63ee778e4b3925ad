"""Which attempts at an item are over, by their records."""

from __future__ import annotations

import pytest

from prefect_cometapi.attempts import past_of
from prefect_cometapi.ledger import Outcome, Record

FAILED, CANCELED, EXPIRED, SAVED = (
    Outcome.FAILED,
    Outcome.CANCELED,
    Outcome.EXPIRED,
    Outcome.SAVED,
)
RESUBMITTED, STOPPED = Outcome.RESUBMITTED, Outcome.STOPPED
OPEN = None


@pytest.mark.parametrize(
    ("outcomes", "again", "attempts", "counted"),
    [
        ([], False, 0, 0),
        ([OPEN], False, 0, 0),
        ([SAVED], True, 0, 0),
        ([FAILED], False, 0, 0),
        ([FAILED], True, 1, 0),
        ([CANCELED, EXPIRED], True, 2, 0),
        ([FAILED, OPEN], False, 1, 1),
        ([FAILED, FAILED, SAVED], False, 2, 2),
        ([FAILED, FAILED, SAVED], True, 2, 0),
        ([RESUBMITTED], False, 1, 0),
        ([STOPPED, RESUBMITTED, OPEN], False, 2, 0),
        ([RESUBMITTED, FAILED], False, 1, 0),
    ],
)
def test_what_is_over(
    outcomes: list[Outcome | None], again: bool, attempts: int, counted: int
) -> None:
    def record_of(attempt: int) -> tuple[bool, Record | None]:
        if attempt > len(outcomes):
            return False, None
        outcome = outcomes[attempt - 1]
        record = Record(
            scope="s", model="a/b", api_root="x", sent_at="2026-11-22T00:00:00Z", outcome=outcome
        )
        return True, record

    past = past_of(record_of, again=again)
    assert (past.attempts, past.counted) == (attempts, counted)


def test_a_record_that_can_not_be_read_is_not_gone_past() -> None:
    assert past_of(lambda _: (True, None), again=True).attempts == 0
