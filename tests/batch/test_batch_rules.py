"""What a batch may spend, when it stops and what is said at its end, as tables."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from prefect_cometapi import (
    AccountError,
    BatchFailed,
    BatchItem,
    BatchResult,
    BatchStopped,
    ConfigurationError,
    ContentRefused,
    InputRejected,
    InvalidInput,
    ItemStatus,
    LedgerError,
    ModelNotFound,
    NeverDelivered,
    OutputDamaged,
    OutputExpired,
    PredictionCanceled,
    PredictionFailed,
    PredictionNotFound,
    PredictionTimeout,
    RateLimited,
    StorageError,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi import batch_rules as rules
from prefect_cometapi.batch_rules import Budget, NotSent
from prefect_cometapi.tally import Tally, progress_line

SAVED, FAILED, IN_DOUBT = ItemStatus.SAVED, ItemStatus.FAILED, ItemStatus.IN_DOUBT


@pytest.mark.parametrize(
    ("limit", "failed", "ended", "enough"),
    [
        (None, 1000, 1000, False),
        (1, 0, 5, False),
        (1, 1, 5, True),
        (3, 2, 2, False),
        (3, 3, 900, True),
        (0.5, 10, 19, False),  # a share of so few is none
        (0.5, 10, 20, True),
        (0.5, 9, 20, False),
        (0.05, 1, 20, True),
        (0.05, 4, 100, False),
        (1.0, 19, 20, False),
        (1.0, 20, 20, True),
        (0.0, 0, 50, False),
    ],
)
def test_when_it_is_enough(limit: float | None, failed: int, ended: int, enough: bool) -> None:
    assert rules.too_many(limit, failed, ended) is enough


@pytest.mark.parametrize(
    ("allowed", "failed", "total", "fine"),
    [
        (0, 0, 0, True),
        (0, 1, 100, False),
        (1, 1, 1, True),
        (0.0, 0, 5, True),
        (0.0, 1, 5, False),
        (0.1, 1, 10, True),
        (0.1, 1, 9, False),
        (1.0, 9, 9, True),
        (1, 2, 1000, False),  # one item, not all of them
    ],
)
def test_what_is_allowed(allowed: float, failed: int, total: int, fine: bool) -> None:
    assert rules.covered(allowed, failed, total) is fine


@pytest.mark.parametrize(
    ("value", "least", "share"),
    [(1, 1, False), (0, 0, False), (10**9, 1, False), (0.5, 1, True), (0.0, 1, True)],
)
def test_counts_that_are_right(value: float, least: int, share: bool) -> None:
    rules.check_count("n", value, least=least, share=share)


@pytest.mark.parametrize(
    ("value", "least", "share"),
    [
        (0, 1, False),
        (-1, 0, True),
        (True, 1, True),
        (0.5, 1, False),
        (1.01, 1, True),
        (float("nan"), 1, True),
        ("1", 1, True),
        (None, 1, True),
    ],
)
def test_counts_that_are_wrong(value: object, least: int, share: bool) -> None:
    with pytest.raises(InvalidInput, match=r"n is .* Nothing was sent\."):
        rules.check_count("n", value, least=least, share=share)


# --- spending ---------------------------------------------------------------------------------


def test_a_budget_of_a_number() -> None:
    budget = Budget({}, most=2)
    for _ in range(2):
        assert budget.objection("a") == ""
        budget.take("a")
    assert budget.objection("a") == "max_predictions=2 is reached"
    budget.give_back("a")
    assert budget.objection("a") == ""
    budget.check_sizes({"a": 1, "b": 1})
    with pytest.raises(InvalidInput, match="There are 3 items"):
        budget.check_sizes({"a": 1, "b": 2})


def test_a_budget_of_a_cost_is_exact_in_spite_of_sums() -> None:
    budget = Budget({"a": 0.1}, cost=0.3)
    for _ in range(3):
        assert budget.objection("a") == ""
        budget.take("a")
    assert "an estimated 0.3 is spent, and one more of a costs 0.1" in budget.objection("a")
    assert budget.estimate() == pytest.approx(0.3)
    Budget({"a": 0.1}, cost=0.3).check_sizes({"a": 3})
    with pytest.raises(InvalidInput, match=r"estimated to cost 0\.4"):
        Budget({"a": 0.1}, cost=0.3).check_sizes({"a": 4})


def test_a_cost_without_a_price() -> None:
    Budget({}).check_price("a")
    Budget({"a": 0.0}, cost=1).check_price("a")
    with pytest.raises(InvalidInput, match="no price of b"):
        Budget({"a": 1}, cost=1).check_price("b")
    assert Budget({}).estimate({"a": 0}) == 0
    assert Budget({}).estimate({"a": 1}) is None
    assert Budget({"a": 2, "b": 3}).estimate({"a": 2, "b": 1}) == 7


# --- what became of an item -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "paid", "status"),
    [
        (PredictionFailed(""), True, FAILED),
        (ContentRefused(""), True, FAILED),
        (PredictionCanceled(""), True, ItemStatus.CANCELED),
        (PredictionTimeout(""), True, ItemStatus.TIMED_OUT),
        (OutputExpired(""), True, ItemStatus.EXPIRED),
        (OutputDamaged(""), True, ItemStatus.NOT_SAVED),
        (StorageError(""), True, ItemStatus.NOT_SAVED),
        (SubmissionInDoubt(""), False, IN_DOUBT),
        (SubmissionInDoubt(""), True, IN_DOUBT),
        (AccountError(""), True, ItemStatus.NOT_SAVED),
        (PredictionNotFound(""), True, ItemStatus.NOT_SAVED),
        (LedgerError(""), True, ItemStatus.NOT_SAVED),
        (RuntimeError("a bug"), True, ItemStatus.NOT_SAVED),
        (AccountError(""), False, ItemStatus.NOT_SENT),
        (LedgerError(""), False, ItemStatus.NOT_SENT),
        (NeverDelivered(""), False, ItemStatus.NOT_SENT),
        (NotSent(""), False, ItemStatus.NOT_SENT),
        (InvalidInput(""), False, ItemStatus.REFUSED),
        (InputRejected(""), False, ItemStatus.REFUSED),
        (ModelNotFound(""), False, ItemStatus.REFUSED),
        (RateLimited(""), False, ItemStatus.REFUSED),
        (RuntimeError("a bug"), False, FAILED),
    ],
)
def test_an_items_status_by_its_error(error: Exception, paid: bool, status: ItemStatus) -> None:
    assert rules.status_of(error, paid=paid) is status


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (AccountError(""), True),
        (ModelNotFound(""), True),
        (LedgerError(""), True),
        (ConfigurationError(""), True),
        (InvalidInput(""), False),
        (InputRejected(""), False),
        (SubmissionInDoubt(""), False),
        (UnknownOutcome(""), False),
        (PredictionFailed(""), False),
        (StorageError(""), False),
    ],
)
def test_which_errors_end_the_batch(error: Exception, ends: bool) -> None:
    assert isinstance(error, rules.ENDS_THE_BATCH) is ends


def test_each_status_is_good_or_a_failure_or_decided() -> None:
    assert {status for status in ItemStatus if status.good} == {SAVED, ItemStatus.SUCCEEDED}
    neither = {status for status in ItemStatus if not status.good and not status.failure}
    assert neither == {ItemStatus.ABANDONED, ItemStatus.PLANNED, ItemStatus.UNDER_WAY}


# --- what is said at the end ------------------------------------------------------------------


def item(number: int, status: ItemStatus, **values: object) -> BatchItem:
    known = {"number": number, "status": status, "model": "a/b", "error": f"error {number}"}
    return BatchItem.model_validate(known | {"error_type": status.name} | values)


def result(*items: BatchItem, **values: object) -> BatchResult:
    counts = {status: sum(each.status is status for each in items) for status in ItemStatus}
    wrong = [each for each in items if each.status.failure]
    return BatchResult.model_validate(
        {
            "scope": "2026-11-22",
            "model": "a/b",
            "total": len(items),
            "counts": {status: number for status, number in counts.items() if number},
            "failures": rules.first_failures(wrong),
            "items": items,
            "manifest": "m.jsonl",
            **values,
        }
    )


def test_the_sample_has_what_is_in_doubt_then_one_of_each_kind_then_the_rest() -> None:
    wrong = [item(n, FAILED) for n in range(20)]
    wrong += [item(20, ItemStatus.REFUSED), item(21, IN_DOUBT), item(22, IN_DOUBT)]
    wrong += [item(23, FAILED, error_type="ContentRefused")]
    sample = [each.number for each in rules.first_failures(wrong)]
    assert sample == [21, 22, 0, 20, 23, 1, 2, 3, 4, 5]
    many = [item(n, IN_DOUBT) for n in range(30)]
    assert len(rules.first_failures([*many, item(30, FAILED)])) == 10
    assert rules.first_failures([]) == []


@pytest.mark.parametrize(
    ("statuses", "allowed", "kind"),
    [
        ([SAVED], 0, None),
        ([SAVED, FAILED], 0, BatchFailed),
        ([SAVED, FAILED], 1, None),
        ([SAVED, FAILED], 0.5, None),
        ([SAVED, FAILED], None, None),
        ([SAVED, IN_DOUBT], 1, BatchFailed),
        ([SAVED, IN_DOUBT], 1.0, BatchFailed),
        ([SAVED, IN_DOUBT], None, None),
        ([SAVED, ItemStatus.ABANDONED], 0, None),
        ([], 0, None),
    ],
)
def test_what_is_an_error(
    statuses: list[ItemStatus], allowed: float | None, kind: type[BatchFailed] | None
) -> None:
    items = [item(number, status) for number, status in enumerate(statuses)]
    error = rules.ending(result(*items), allowed)
    assert (type(error) if error else None) is kind
    stopped = rules.ending(result(*items, stopped="Enough."), allowed)
    assert type(stopped) is BatchStopped
    assert str(stopped).startswith("The batch was ended early: Enough.")


COMMAND = "python -m prefect_cometapi ledger"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (IN_DOUBT, f"`{COMMAND} list --in-doubt --scope 2026-11-22`"),
        (ItemStatus.NOT_SAVED, f"`{COMMAND} collect --scope 2026-11-22 --storage STORAGE"),
        (ItemStatus.TIMED_OUT, "within an hour of their completion"),
        (FAILED, "retry_failed=True"),
        (ItemStatus.CANCELED, "retry_failed=True"),
        (ItemStatus.EXPIRED, "at a new price"),
        (ItemStatus.REFUSED, "is tried when you run again"),
        (ItemStatus.NOT_SENT, "is tried when you run again"),
    ],
)
def test_the_error_says_what_to_do(status: ItemStatus, words: str) -> None:
    error = rules.ending(result(item(0, status), item(1, SAVED)), 0)
    assert words in str(error)
    assert str(error).endswith("pays for nothing twice.")
    assert f"1 saved, 1 {status}" in str(error) or f"1 {status}" in str(error)


def test_each_failure_is_told_by_what_it_was() -> None:
    error = rules.ending(
        result(
            item(0, IN_DOUBT, excerpt="A boat", record_key="cometapi-1"),
            item(1, FAILED, key="row-1", prediction_id="p1", record_key="cometapi-2"),
            item(2, ItemStatus.REFUSED),
        ),
        0,
    )
    lines = str(error).splitlines()
    counts = "1 failed, 1 refused, 1 in doubt"
    assert lines[0] == f"3 of 3 items went wrong: {counts} (scope '2026-11-22')."
    assert lines[1] == '- item 0 ("A boat") (record cometapi-1): in doubt. error 0'
    assert lines[2] == "- key 'row-1' (prediction p1): failed. error 1"
    assert lines[3] == "- item 2: refused. error 2"


def test_the_text_of_an_items_error_is_short_and_holds_no_signatures() -> None:
    assert len(rules.told(RuntimeError("a" * 5000))) == rules.ERROR_LENGTH
    assert rules.told(RuntimeError()) == "RuntimeError"
    assert rules.told(RuntimeError("https://host/file?sig=secret\nis gone")) == (
        "RuntimeError: https://host/file is gone"
    )


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.95, None),
        ([3.0], 0.95, 3.0),
        ([5.0, 1.0, 3.0], 0.5, 3.0),
        (list(range(1, 101)), 0.95, 95),
        (list(range(1, 21)), 0.95, 19),
        ([1.0, 2.0], 1.0, 2.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_quantiles(values: list[float], share: float, expected: float | None) -> None:
    assert rules.quantile(values, share) == expected


# --- plain data -------------------------------------------------------------------------------


def test_a_result_survives_json_and_pickle() -> None:
    made = result(
        item(0, SAVED, labels={"row": [1, None, {"a": "ä"}]}, output={"x": 1.5}, delay=0.2),
        item(1, IN_DOUBT, record_key="cometapi-1"),
        estimated_cost=0.5,
        stopped="Enough.",
    )
    assert BatchResult.model_validate_json(made.model_dump_json()) == made
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301
    assert made.failed == 1
    assert made.count(SAVED, IN_DOUBT) == 2
    line = made.items[0].model_dump_json(exclude_defaults=True)
    assert BatchItem.model_validate_json(line) == made.items[0]


@pytest.mark.parametrize("kind", [BatchFailed, BatchStopped])
def test_an_error_survives_pickle_with_its_result(kind: type[BatchFailed]) -> None:
    error = kind("what happened", result=result(item(0, FAILED)))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert (str(again), again.result) == (str(error), error.result)


def test_a_result_of_a_later_version_is_read() -> None:
    made = result(item(0, SAVED)).model_dump(mode="json")
    assert BatchResult.model_validate(made | {"new": 1}) == result(item(0, SAVED))


@pytest.mark.parametrize(
    ("saved", "found", "line"),
    [
        (50, 0, "300 a minute, about 10 s left."),
        (50, 40, "60 a minute, about 50 s left."),
        (50, 50, "(50 saved); 7 under way."),
        (0, 0, "(none); 7 under way."),
    ],
)
def test_the_time_that_is_left_is_by_what_was_made_now(saved: int, found: int, line: str) -> None:
    counts = Counter({ItemStatus.SAVED: saved} if saved else {})
    tally = Tally(started=100.0, expected=100, counts=counts, found=found, under_way=7)
    assert progress_line(tally, 110.0).endswith(line)
