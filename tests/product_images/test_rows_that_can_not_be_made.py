"""A row that can not be made says why, costs nothing more until somebody wants it to, and keeps no
other row from its picture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefect_cometapi import BatchFailed
from tests.product_images.shop import Shop


def test_failures_are_told_in_their_rows(shop: Shop) -> None:
    shop.add(*range(1, 9))
    shop.sql("UPDATE products SET name = '' WHERE id = 3")
    shop.service.script("create", ["422"])
    shop.service.script("prediction", ["failed"])
    result = shop.run()
    assert result
    assert result.summary == "5 saved, 1 failed, 2 refused"
    assert len(shop.errors) == 3
    assert "Row 2 (id '3'): the template needs" in shop.errors[3]
    assert "Nothing was sent for it." in shop.errors[3]
    charged = shop.service.counts.charged
    # They are left alone, and new rows are made.
    assert shop.run() is None
    shop.add(20)
    shop.run()
    assert shop.service.counts.charged == charged + 1
    # Until somebody says otherwise.
    shop.sql("UPDATE products SET name = 'kite' WHERE id = 3")
    result = shop.run(retry_failed=True)
    assert result
    assert result.summary == "3 saved"
    assert not shop.errors
    assert len(shop.ids) == 9
    assert shop.service.counts.charged == charged + 4
    shop.check_pictures()


def test_a_success_without_an_output_is_not_read_again(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(1, 2)
    result = shop.run(model="simulator/nothing")
    assert result
    assert result.summary == "2 saved"
    assert [*shop.errors.values()] == ["It succeeded, and made no output."] * 2
    assert shop.run(model="simulator/nothing") is None
    assert shop.service.counts.creates == 2


def test_a_row_whose_error_is_set_to_null_costs_nothing(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(1)
    shop.service.script("prediction", ["failed"])
    shop.run()
    before = shop.errors
    shop.sql("UPDATE products SET error = NULL")
    shop.run()
    assert shop.errors == before
    assert shop.service.counts.creates == 1


def test_what_is_in_doubt_is_an_error_until_a_person_decides(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.add(*range(30))
    shop.service.script("create", ["lost"] * 25)
    for _ in range(2):  # they never keep the others from being made
        with pytest.raises(BatchFailed, match="25 in doubt"):
            shop.run()
        assert len(shop.ids) == 5
        assert not shop.errors
        assert shop.service.counts.creates == 30
    shop.add(40)
    with pytest.raises(BatchFailed):
        shop.run()
    assert len(shop.ids) == 6


def test_when_most_fail_no_more_is_spent(sqlite_shop: Shop, tuned: Callable[..., None]) -> None:
    shop = sqlite_shop
    shop.add(*range(100))
    shop.service.set_fault("prediction.failed", 1.0)
    tuned(IN_FLIGHT=10)
    with pytest.raises(BatchFailed, match=r"stop_after_failures=0\.5"):
        shop.run()
    assert 20 <= len(shop.errors) == shop.service.counts.charged <= 40
    shop.service.clear_faults()
    shop.run()
    assert len(shop.ids) + len(shop.errors) == 100
