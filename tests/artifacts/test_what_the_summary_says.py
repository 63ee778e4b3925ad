"""The summary of a batch says what became of it, what is to be decided first, what went wrong and
why, what it cost, and what to do next.
"""

from __future__ import annotations

from typing import Any

import pytest

from prefect_cometapi.batch_models import (
    BatchResult,
    FailedItem,
    FailureGroup,
    ItemStatus,
    Spread,
)
from prefect_cometapi.summary_page import IN_DOUBT_NAMED, NAMED, headline, summary
from tests.artifacts.pages import Page

MODEL = "black-forest-labs/flux-schnell"


def result(**values: Any) -> BatchResult:
    known: dict[str, Any] = {
        "scope": "2026-11-22",
        "model": MODEL,
        "total": 100,
        "counts": {ItemStatus.SAVED: 100},
        "created": 100,
        "seconds": 23.4,
    }
    return BatchResult(**known | values)


def group(
    status: ItemStatus, count: int, reason: str = "Out of memory", **more: Any
) -> FailureGroup:
    items = [
        FailedItem(number=n, record_key=f"cometapi-{n}", prediction_id=f"p{n}", **more)
        for n in range(min(count, 100))
    ]
    return FailureGroup(status=status, error_type="Error", reason=reason, count=count, items=items)


def page(told: BatchResult, created: int = 100, price: float | None = None, **more: Any) -> Page:
    prices = {} if price is None else {MODEL: price}
    return Page(summary(told, {MODEL: created}, prices, **more))


def numbers(shown: Page) -> dict[str, str]:
    return dict(row for row in shown.rows if len(row) == 2)


def test_a_batch_that_went_well() -> None:
    shown = page(
        result(
            found=3,
            files=97,
            size=12_345_678,
            polls=480,
            run_times=Spread(median=3.14, p95=4.2, longest=130),
            queue_times=Spread(median=0.1, p95=0.2, longest=0.9),
            saved_after=Spread(median=0.5, p95=1.5, longest=7200),
            ledger="folder /data",
            manifest="cometapi-batches/x/run-0001/manifest-1.jsonl",
        ),
        place="S3Bucket block 'pictures'",
    )
    assert shown.headings == ["100 saved, of 100 items", "Cost", "Numbers", "What to do next"]
    assert numbers(shown) == {
        "items": "100 saved",
        "paid for by an earlier run": "3",
        "saved now": "97 files, 12.3 MB",
        "outputs": "S3Bucket block 'pictures'",
        "took": "23.4 s",
        "run time of the model": "half within 3.1 s, 95 % within 4.2 s, the longest 2 min",
        "wait before it was started": "half within 0.1 s, 95 % within 0.2 s, the longest 0.9 s",
        "from completion to saved": "half within 0.5 s, 95 % within 1.5 s, the longest 2.0 h",
        "polls": "480",
        "manifest": "cometapi-batches/x/run-0001/manifest-1.jsonl in the folder /data",
    }
    assert shown.said.endswith("Nothing: all is well.")


def test_retries_are_counted() -> None:
    told = numbers(page(result(polls=480, polls_failed=7, creates_again=5, rate_limited=9)))
    assert told["polls"] == "480, or 4.8 a prediction; 7 more failed"
    assert (told["creates offered again"], told["429s"]) == ("5", "9")


def test_what_is_in_doubt_comes_first_with_the_commands_that_resolve_it() -> None:
    shown = page(
        result(
            counts={ItemStatus.SAVED: 97, ItemStatus.IN_DOUBT: 2, ItemStatus.FAILED: 1},
            scope="it's a night",
            reasons=[
                group(ItemStatus.IN_DOUBT, 2, "HTTP 502", excerpt="A boat", request_id="req-1"),
                group(ItemStatus.FAILED, 1),
            ],
        )
    )
    assert shown.headings[:3] == [
        "97 saved, 1 failed, 2 in doubt, of 100 items",
        "In doubt: decide these first",
        "What went wrong",
    ]
    assert shown.rows[1:3] == [
        [f"item {n}: A boat\ncometapi-{n}", "HTTP 502\nrequest req-1"] for n in range(2)
    ]
    command = "python -m prefect_cometapi ledger"
    for words in ("list --in-doubt --scope 'it'\"'\"'s a night'", "adopt KEY", "abandon KEY"):
        assert f"{command} {words}" in shown.said
    assert "What this run left in doubt counts as paid." in shown.said


def test_of_many_in_doubt_the_first_are_named() -> None:
    many = group(ItemStatus.IN_DOUBT, 340)
    shown = page(result(counts={ItemStatus.IN_DOUBT: 340}, reasons=[many]))
    named = [row for row in shown.rows if row[0].startswith("item ") and "cometapi-" in row[0]]
    assert len(named) == IN_DOUBT_NAMED
    assert f"… and {340 - IN_DOUBT_NAMED} more." in shown.said


def test_failures_are_grouped_by_their_reason() -> None:
    shown = page(
        result(
            counts={ItemStatus.FAILED: 37, ItemStatus.REFUSED: 1},
            reasons=[
                group(ItemStatus.FAILED, 37),
                FailureGroup(
                    status=ItemStatus.REFUSED,
                    error_type="InputRejected",
                    reason="",
                    count=1,
                    items=[FailedItem(number=8, key="row-9", excerpt="A cat", request_id="req-7")],
                ),
            ],
        )
    )
    rows = shown.rows[shown.rows.index(["", "what", "why", "which"]) + 1 :][:2]
    named = "\n".join(f"item {n}, p{n}" for n in range(NAMED))
    assert rows[0] == ["37", "failed", "Out of memory", f"{named}\n… and {37 - NAMED} more"]
    assert rows[1] == ["1", "refused", "InputRejected", "key row-9: A cat, request req-7"]


@pytest.mark.parametrize(
    ("created", "price", "said"),
    [
        (97, 0.003, "0.291, at 0.003 each"),
        (97, 0.0, "0, at 0 each"),
        (97, None, "no price set"),
        (0, 0.003, "Nothing: no prediction was created."),
    ],
)
def test_what_it_cost_is_an_estimate(created: int, price: float | None, said: str) -> None:
    shown = page(result(), created, price)
    assert said in shown.said
    assert ("An estimate, by the setting prices" in shown.said) is (
        price is not None and created > 0
    )
    how = f"PREFECT_INTEGRATIONS_COMETAPI_PRICES='{{\"{MODEL}\": 0.003}}'"
    assert (how in shown.said) is (price is None)


def test_models_have_prices_of_their_own() -> None:
    shown = Page(summary(result(), {MODEL: 10, "a/b": 5}, {MODEL: 0.01, "a/b": 0.2}))
    assert ["together", "15", "1.1"] in shown.rows
    part = Page(summary(result(), {MODEL: 10, "a/b": 5}, {MODEL: 0.01}))
    assert "together" not in part.said
    assert '"a/b": 0.003' in part.said


def test_one_that_was_ended_early_says_why_and_how_to_go_on() -> None:
    told = result(
        counts={ItemStatus.SAVED: 40, ItemStatus.NOT_SENT: 60},
        stopped="max_predictions=40 is reached.",
    )
    shown = page(told)
    assert shown.headings[0] == "Ended early: 40 saved, 60 not sent, of 100 items"
    assert "It was ended early: max_predictions=40 is reached." in shown.said
    assert "To go on, raise max_predictions." in shown.said


def test_one_that_was_interrupted_tells_how_far_it_came() -> None:
    shown = page(result(counts={ItemStatus.SAVED: 40}, total=40), left_running=25)
    assert shown.headings[0] == "Interrupted: 40 saved, of 40 items"
    assert "It was interrupted after 23.4 s, while 25 predictions were running" in shown.said
    assert "Running again in the same scope pays for nothing twice." in shown.said


def test_a_dry_run_shows_the_plan_and_its_price() -> None:
    told = result(
        counts={ItemStatus.PLANNED: 98, ItemStatus.SAVED: 2}, found=2, created=98, dry_run=True
    )
    shown = page(told, 98, 0.003)
    assert shown.headings == [
        "A dry run: 2 saved, 98 would be sent, of 100 items; nothing was sent",
        "Cost",
        "Numbers",
    ]
    assert [MODEL, "98", "0.294, at 0.003 each"] in shown.rows
    assert headline(told) == shown.headings[0]
