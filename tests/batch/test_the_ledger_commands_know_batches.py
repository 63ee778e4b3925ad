"""What is left to do about a batch's records is listed, decided and collected as any other."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from prefect_cometapi import (
    BatchItem,
    ItemStatus,
    Outcome,
    Standing,
    abandon_predictions,
    adopt_prediction,
    collect_predictions,
    holdings,
    lease,
    ledgers,
    list_records,
    portal,
    prune_records,
    resubmit_predictions,
)
from prefect_cometapi.__main__ import main
from prefect_cometapi.holdings import Holding
from prefect_cometapi.operations import finished_batches
from tests.batches import Batches, boats, statuses


@pytest.fixture
def doubtful(batches: Batches) -> BatchItem:
    """One of three whose answer was lost."""
    batches.service.script("create", ["lost"])
    [item] = batches.fail(boats(3), in_flight=1).result.failures
    assert item.status is ItemStatus.IN_DOUBT
    return item


def holding(batches: Batches) -> Holding:
    [found] = portal.call(holdings.holdings, batches.scope)
    return found


def test_what_is_in_doubt_is_listed_also_among_everything(
    batches: Batches, doubtful: BatchItem
) -> None:
    [entry] = list_records(batches.scope, in_doubt=True)
    assert entry.key == doubtful.record_key
    assert entry.standing is Standing.IN_DOUBT
    assert doubtful.record_key in {entry.key for entry in list_records()}
    assert len(list_records(batches.scope)) == 3


def test_a_batch_with_nothing_left_is_listed_by_its_scope_alone(batches: Batches) -> None:
    batches.run(boats(2))
    assert holding(batches).left == 0
    assert len(list_records(batches.scope)) == 2
    assert batches.scope not in {entry.scope for entry in list_records()}


def test_the_list_of_everything_names_the_batches_that_are_over(
    batches: Batches, capsys: pytest.CaptureFixture[str]
) -> None:
    batches.run(boats(2))
    assert main(["ledger", "list"]) == 0
    assert "listed by --scope: " in capsys.readouterr().out
    assert batches.scope in finished_batches()


def test_what_is_resubmitted_is_sent_once_more_by_the_next_run(
    batches: Batches, doubtful: BatchItem
) -> None:
    report = resubmit_predictions(str(doubtful.record_key))
    assert report.done
    result = batches.run(boats(3))
    assert statuses(result) == [ItemStatus.SAVED] * 3
    assert (result.created, result.found) == (1, 2)
    assert holding(batches).left == 0


def test_what_is_adopted_is_gone_on_with(batches: Batches, doubtful: BatchItem) -> None:
    known = {item.prediction_id for item in batches.fail(boats(3)).result.items}
    [lost] = set(batches.service.predictions) - known
    adopt_prediction(str(doubtful.record_key), lost)
    result = batches.run(boats(3))
    assert statuses(result) == [ItemStatus.SAVED] * 3
    assert result.created == 0
    assert batches.service.counts.charged == 3


def test_what_is_abandoned_is_neither_sent_nor_an_error(
    batches: Batches, doubtful: BatchItem
) -> None:
    abandon_predictions(scope=batches.scope)
    result = batches.run(boats(3))
    assert result.counts == {ItemStatus.SAVED: 2, ItemStatus.ABANDONED: 1}
    assert result.created == 0


def test_what_failed_and_is_resubmitted_is_made_again(batches: Batches) -> None:
    batches.service.script("prediction", ["failed"])
    [failed] = batches.fail(boats(2), in_flight=1).result.failures
    resubmit_predictions(str(failed.record_key))
    result = batches.run(boats(2))
    assert statuses(result) == [ItemStatus.SAVED] * 2
    assert result.created == 1


def test_what_was_paid_for_and_never_saved_is_collected(batches: Batches, tmp_path: Path) -> None:
    batches.service.script("prediction", ["slow"] * 3)
    result = batches.fail(boats(3), batch_timeout=0.3).result
    late = result.count(ItemStatus.TIMED_OUT)
    assert late >= 1
    assert holding(batches).left == late
    report = collect_predictions.fn(
        batches.credentials, tmp_path / "collected", batches.scope, timeout=20
    )
    assert [result.did for result in report.results] == ["saved"] * late
    assert holding(batches).left == 0
    for entry in list_records(batches.scope):
        assert entry.record is not None
        assert entry.record.outcome is Outcome.SAVED


def test_while_a_batch_is_at_work_its_records_can_be_read_and_not_changed(
    batches: Batches, doubtful: BatchItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "PATIENCE", 0.5)
    place = holdings.Place(holding(batches).place, holding(batches).identity)

    async def meanwhile() -> None:
        other = await lease.Lease.take(batches.scope, place, [], lambda _: None)
        try:
            assert len(await asyncio.to_thread(list_records, batches.scope)) == 3
            report = await asyncio.to_thread(resubmit_predictions, str(doubtful.record_key))
            assert "is at work" in report.results[0].message
        finally:
            await other.release()

    asyncio.run(meanwhile())
    assert resubmit_predictions(str(doubtful.record_key)).done


def test_a_batch_of_an_unsaved_block_says_that_it_can_not_be_read_here(
    batches: Batches, caplog: pytest.LogCaptureFixture
) -> None:
    place = holdings.Place("", "somewhere")

    async def held() -> None:
        other = await lease.Lease.take(batches.scope, place, [], lambda _: None)
        await other.release(left=1)

    portal.call(held)
    assert list_records(batches.scope) == []
    assert "not saved" in caplog.text


def test_pruning_forgets_where_batches_were_that_have_nothing_left(batches: Batches) -> None:
    batches.run(boats(2))
    assert prune_records(older_than=1, scope=batches.scope).results == []
    [result] = prune_records(older_than=0, scope=batches.scope).results
    assert result.record_key == holdings.variable_name(batches.scope)
    assert portal.call(holdings.holdings, batches.scope) == []
    again = batches.run(boats(2))
    assert (again.created, again.found) == (0, 2)


def test_so_does_the_command(batches: Batches, capsys: pytest.CaptureFixture[str]) -> None:
    batches.run(boats(2))
    words = ["ledger", "prune", "--scope", batches.scope, "--older-than", "0"]
    assert [main(words), main(words)] == [0, 0]
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1 deleted."
    assert second.startswith("No record to delete in the ledger at")


def test_pruning_leaves_what_has_something_left(batches: Batches, doubtful: BatchItem) -> None:
    assert portal.call(holdings.forget, timedelta(0), batches.scope) == []
