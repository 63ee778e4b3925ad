"""Stopped anywhere and started again: no row is paid for twice, and none is left out."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from flows import product_images as module
from prefect_cometapi import BatchFailed, BatchItem, ItemStatus
from tests.processes import wait_until, with_key
from tests.product_images.shop import Shop, at_each_row, quick
from tests.stopping import Process, started

COUNT = 30


def stop(process: Process, how: int, shop: Shop, saved: int) -> None:
    wait_until(lambda: shop.service.counts.creates > saved // 2, "creates")
    wait_until(lambda: len(shop.ids) >= saved, f"{saved} rows with a picture")
    process.send(how)
    assert process.ended(60) != 0


def goes_on(shop: Shop) -> None:
    """What is in doubt is left out, as everywhere; all other rows have their picture."""
    doubtful = 0
    try:
        shop.run()
    except BatchFailed as error:
        doubtful = error.result.count(ItemStatus.IN_DOUBT)
    assert len(shop.ids) == COUNT - doubtful
    shop.check_pictures()
    seen = shop.service.predictions.values()
    canceled = {each.id for each in seen if each.status in ("canceled", "aborted")}
    lost = set(shop.service.predictions) - set(shop.ids) - canceled
    assert len(lost) <= doubtful
    assert shop.service.counts.charged == COUNT - doubtful + len(canceled) + len(lost)
    # From now on there is nothing to do, or nothing that costs.
    creates = shop.service.counts.creates
    if doubtful:
        with pytest.raises(BatchFailed):
            shop.run()
    else:
        assert shop.run() is None
    assert shop.service.counts.creates == creates


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.7)
@pytest.mark.parametrize(
    "saved", [15, *(pytest.param(each, marks=pytest.mark.long) for each in (0, 1, 29))]
)
def test_killed(
    saved: int, sqlite_shop: Shop, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    shop = sqlite_shop
    shop.add(*range(COUNT))
    environment = quick(with_key(prefect_environment, shop.service))
    with started(*shop.words(), environment=environment, log=tmp_path / "log") as process:
        stop(process, signal.SIGKILL, shop, saved)
    goes_on(shop)


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.7)
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_stopped_on_postgresql(
    how: int, postgres_shop: Shop, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    shop = postgres_shop
    shop.add(*range(COUNT))
    environment = quick(with_key(prefect_environment, shop.service))
    with started(*shop.words(), environment=environment, log=tmp_path / "log") as process:
        stop(process, how, shop, 10)
    goes_on(shop)


def test_an_error_in_the_middle_of_reading(shop: Shop) -> None:
    shop.add(*range(COUNT))

    def broken(row: Mapping[str, object]) -> None:
        if row["id"] == 17:
            raise KeyError("colour")

    with at_each_row(broken), pytest.raises(BatchFailed, match="colour"):
        shop.run()
    assert len(shop.ids) == 17  # what was under way is brought home
    goes_on(shop)


def test_an_error_in_the_middle_of_writing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.add(*range(COUNT))
    write, written = module.Products.write, list[object]()

    def broken(products: module.Products, item: BatchItem) -> None:
        if len(written) == 5:
            raise ZeroDivisionError
        written.append(item)
        write(products, item)

    with monkeypatch.context() as patch:
        patch.setattr(module.Products, "write", broken)
        with pytest.raises(ZeroDivisionError):
            shop.run()
    assert len(shop.ids) == 5
    goes_on(shop)


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=2)
def test_a_second_run_waits_and_has_nothing_left_to_do(
    sqlite_shop: Shop, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    shop = sqlite_shop
    shop.add(*range(COUNT))
    environment = quick(with_key(prefect_environment, shop.service))
    first, second = tmp_path / "first", tmp_path / "second"
    with (
        started(*shop.words(), environment=environment, log=first) as one,
        started(*shop.words(), environment=environment, log=second) as other,
    ):
        assert (one.ended(120), other.ended(120)) == (0, 0)
        said = sorted((one.said, other.said), key=lambda text: "is at work" in text)
    assert f"RESULT {COUNT} saved" in said[0]
    assert "Another process" in said[1]
    assert "waiting until it is done" in " ".join(said[1].split())
    assert "RESULT no items" in said[1]
    assert shop.service.counts.charged == len(shop.ids) == COUNT
    shop.check_pictures()


def test_retries_of_prefect_cost_nothing_twice(sqlite_shop: Shop) -> None:
    shop, tries = sqlite_shop, list[object]()
    shop.add(*range(COUNT))

    def broken_once(row: Mapping[str, object]) -> None:
        if row["id"] == 17 and not tries:
            tries.append(row)
            raise KeyError("colour")

    retried = module.product_images.with_options(retry_delay_seconds=0)
    with at_each_row(broken_once):
        result = retried(**shop.parameters())
    assert result
    assert result.summary == f"{COUNT - 17} saved"
    assert len(shop.ids) == shop.service.counts.charged == COUNT
