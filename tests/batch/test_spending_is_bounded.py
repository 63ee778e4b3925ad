"""What a batch may spend is known before: by number, by price, and by a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefect_cometapi import BatchStopped, InvalidInput, ItemStatus, PredictionRequest
from tests.batches import NUMBER, TEXT, Batches, boats, statuses
from tests.servers import configure


def unknown(count: int) -> Iterator[dict[str, Any]]:
    """Inputs of a size that nobody knows."""
    yield from boats(count)


@pytest.fixture
def _prices(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, prices='{"simulator/text": 0.01, "simulator/number": 0.1}')


# --- a number ---------------------------------------------------------------------------------


def test_a_known_size_is_refused_before_the_first_create(batches: Batches) -> None:
    with pytest.raises(InvalidInput, match="There are 11 items, and max_predictions is 10") as no:
        batches.run(boats(11), max_predictions=10)
    assert "Nothing was sent." in str(no.value)
    assert batches.service.counts.creates == 0
    assert not batches.records_folder.exists()
    assert batches.run(boats(10), max_predictions=10).created == 10


def test_of_an_unknown_size_exactly_so_many_are_created(batches: Batches) -> None:
    error = batches.fail(unknown(50), max_predictions=10)
    assert isinstance(error, BatchStopped)
    assert "max_predictions=10 is reached" in error.result.stopped
    assert batches.service.counts.creates == error.result.created == 10
    assert error.result.count(ItemStatus.SAVED) == 10
    assert batches.run(unknown(10), max_predictions=10).summary == "10 saved"


def test_it_counts_what_the_scope_has_by_now(batches: Batches) -> None:
    batches.run(boats(6))
    error = batches.fail(boats(10, 3), max_predictions=10)
    assert batches.service.counts.creates == 10
    assert error.result.count(ItemStatus.SAVED) == 7


def test_what_was_refused_is_not_counted(batches: Batches) -> None:
    wrong = [{"prompt": 5}] * 5
    result = batches.run([*wrong, *boats(5)], max_predictions=10, allow_failures=5)
    assert result.summary == "5 saved, 5 refused"
    assert result.created == 5
    batches.service.script("create", ["429-body", "429-seconds"])
    # Those that were refused may be tried again, and so may five others.
    assert batches.run(boats(10), max_predictions=10).created == 5


def test_more_attempts_count(batches: Batches) -> None:
    batches.service.set_fault("prediction.failed", 1.0)
    error = batches.fail(unknown(10), in_flight=1, attempts=3, max_predictions=5)
    assert batches.service.counts.creates == 5
    # The second item has failed twice; that a third attempt was not allowed is not how it ended.
    assert statuses(error.result) == [ItemStatus.FAILED] * 2
    assert [item.attempt for item in error.result.items] == [3, 2]
    assert error.result.items[1].prediction_id


# --- a price ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_prices")
def test_a_known_size_that_costs_too_much_is_refused(batches: Batches) -> None:
    with pytest.raises(InvalidInput, match=r"estimated to cost 0\.11 .*max_cost is 0\.1"):
        batches.run(boats(11), max_cost=0.1)
    assert batches.service.counts.creates == 0
    result = batches.run(boats(10), max_cost=0.1)
    assert result.created == 10
    assert result.estimated_cost == pytest.approx(0.1)


@pytest.mark.usefixtures("_prices")
def test_the_models_that_items_name_are_what_they_cost(batches: Batches) -> None:
    def items(count: int) -> list[PredictionRequest]:
        return [PredictionRequest(input=each, model=NUMBER) for each in boats(count)]

    with pytest.raises(InvalidInput, match=r"estimated to cost 0\.4"):
        batches.run(items(4), max_cost=0.35)
    assert batches.service.counts.creates == 0
    # And the other way round: the batch's model costs too much, and no item is of it.
    cheap = [PredictionRequest(input=each, model=TEXT) for each in boats(4)]
    assert batches.run(cheap, model=NUMBER, max_cost=0.35).created == 4


@pytest.mark.usefixtures("_prices")
def test_of_an_unknown_size_the_last_one_that_can_be_paid_is_created(batches: Batches) -> None:
    error = batches.fail(unknown(50), max_cost=0.07)
    assert isinstance(error, BatchStopped)
    assert "max_cost=0.07 would be exceeded" in error.result.stopped
    assert "estimated" in error.result.stopped
    assert batches.service.counts.creates == 7
    assert error.result.estimated_cost == pytest.approx(0.07)


def test_without_a_price_no_cost_can_be_bounded(batches: Batches) -> None:
    with pytest.raises(InvalidInput, match="no price of simulator/text") as no:
        batches.run(boats(3), max_cost=1)
    assert "PREFECT_INTEGRATIONS_COMETAPI_PRICES" in str(no.value)
    assert batches.service.counts.creates == 0


@pytest.mark.usefixtures("_prices")
def test_an_item_without_a_price_is_refused_and_the_others_go_on(batches: Batches) -> None:
    odd = PredictionRequest(input={"prompt": "a"}, model="simulator/data-uri")
    result = batches.run([*boats(2), odd], max_cost=1, allow_failures=1)
    assert statuses(result) == [ItemStatus.SAVED, ItemStatus.SAVED, ItemStatus.REFUSED]
    assert "no price of simulator/data-uri" in result.items[2].error


def test_without_prices_no_cost_is_estimated(batches: Batches) -> None:
    assert batches.run(boats(1)).estimated_cost is None


# --- a dry run --------------------------------------------------------------------------------


@pytest.mark.usefixtures("_prices")
def test_a_dry_run_sends_nothing_and_says_what_would_be_sent(batches: Batches) -> None:
    other = PredictionRequest(input={"prompt": "a"}, model=NUMBER, labels={"row": 7})
    result = batches.run([*boats(3), *boats(1), other, {"prompt": float("nan")}], dry_run=True)
    assert result.dry_run
    assert result.summary == "1 refused, 5 would be sent"
    assert result.created == 5
    assert result.estimated_cost == pytest.approx(0.14)
    assert [item.sample for item in result.items[:4]] == [0, 0, 0, 1]
    assert result.items[4].labels == {"row": 7}
    assert result.manifest is None
    counts = batches.service.counts
    assert counts.creates == counts.polls == 0
    assert not batches.records_folder.exists()


@pytest.mark.cometapi_simulator(run_time=0.2)
def test_a_dry_run_finds_what_is_there(batches: Batches) -> None:
    service = batches.service
    service.script("prediction", ["ok", "failed", "endless", "ok", "ok"])
    service.script("create", ["ok", "ok", "ok", "lost", "ok"])
    batches.fail(boats(5), in_flight=1, prediction_timeout=1)
    before = service.counts
    result = batches.run(boats(6), dry_run=True)
    assert statuses(result) == [
        ItemStatus.SAVED,
        ItemStatus.FAILED,
        ItemStatus.UNDER_WAY,
        ItemStatus.IN_DOUBT,
        ItemStatus.SAVED,
        ItemStatus.PLANNED,
    ]
    assert [item.found for item in result.items] == [True] * 5 + [False]
    assert (result.found, result.created) == (5, 1)
    again = batches.run(boats(6), dry_run=True, retry_failed=True)
    assert statuses(again)[1] is ItemStatus.PLANNED
    assert again.created == 2
    assert service.counts == before
    assert len(list(batches.records_folder.glob("run-*"))) == 1


@pytest.mark.usefixtures("_prices")
def test_a_dry_run_says_what_the_bounds_would_stop(batches: Batches) -> None:
    result = batches.run(unknown(10), dry_run=True, max_predictions=4)
    assert result.created == 4
    assert "max_predictions=4 is reached" in result.stopped
    with pytest.raises(InvalidInput, match="max_cost"):
        batches.run(boats(10), dry_run=True, max_cost=0.01)


def test_a_dry_run_refuses_what_a_run_would_refuse(batches: Batches) -> None:
    with pytest.raises(InvalidInput, match="There are 3 items"):
        batches.run(boats(3), dry_run=True, max_predictions=2)
    result = batches.run(
        [PredictionRequest(input={}, key="a"), PredictionRequest(input={}, key="a"), 5],
        dry_run=True,
    )
    assert statuses(result) == [ItemStatus.PLANNED, ItemStatus.REFUSED, ItemStatus.REFUSED]
