"""A scope is split once: whoever asks later, for whatever number, gets the same shards."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from prefect import flow

from prefect_cometapi import (
    InvalidInput,
    PredictionRequest,
    Shard,
    asplit_scope,
    holdings,
    list_records,
    portal,
    prune_records,
    split_scope,
)
from tests.batches import Batches, boats


def test_the_first_number_stays(batches: Batches, caplog: pytest.LogCaptureFixture) -> None:
    shards = split_scope(batches.scope, 3)
    assert shards == Shard.all_of(batches.scope, 3)
    assert split_scope(batches.scope, 3) == shards
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "prefect_cometapi"):
        assert split_scope(batches.scope, 5) == shards
    assert "split into 3 shards at first" in caplog.text
    assert f"`prefect variable delete {holdings.variable_name(batches.scope)}`" in caplog.text


async def test_one_of_many_who_ask_at_once_decides(batches: Batches) -> None:
    several = await asyncio.gather(*(asplit_scope(batches.scope, n) for n in range(1, 8)))
    assert len({len(each) for each in several}) == 1


@pytest.mark.parametrize("number", [0, -1, 2.5, True, None, "4"])
def test_what_is_no_number_of_shards_is_refused(number: object, prefect_server: None) -> None:
    with pytest.raises(InvalidInput, match=r"shards is .* Nothing was sent"):
        split_scope("night", number)  # type: ignore[arg-type]


def test_an_odd_scope_is_refused(prefect_server: None) -> None:
    with pytest.raises(InvalidInput, match="Nothing was sent"):
        split_scope("", 2)


def test_by_default_it_is_the_root_flow_run_that_is_split(prefect_server: None) -> None:
    @flow
    def night() -> tuple[list[Shard], str]:
        from prefect import runtime

        return split_scope(None, 2), str(runtime.flow_run.id)

    shards, run = night()
    assert [shard.of_scope for shard in shards] == [f"flow-run:{run}"] * 2


def test_what_was_paid_for_as_a_whole_is_not_paid_for_in_shards(batches: Batches) -> None:
    batches.run(boats(2))
    with pytest.raises(InvalidInput, match=r"worked on as a whole.*Nothing was sent"):
        split_scope(batches.scope, 2)


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_was_paid_for_in_shards_is_not_paid_for_as_a_whole(
    batches: Batches, dry_run: bool
) -> None:
    split_scope(batches.scope, 2)
    with pytest.raises(InvalidInput, match=r"split into 2 shards.*Nothing was sent"):
        batches.run(boats(2), dry_run=dry_run)
    assert batches.service.counts.creates == 0


def test_together_the_shards_make_each_item_once(batches: Batches) -> None:
    rows = [PredictionRequest(input=boat, key=str(n)) for n, boat in enumerate(boats(12))]
    for shards, created in ((3, 12), (5, 0)):  # run again, and with another number
        results = [
            batches.run(shard.pick(rows), scope=shard.scope)
            for shard in split_scope(batches.scope, shards)
        ]
        assert sorted(item.key for each in results for item in each.items if item.key) == sorted(
            str(row.key) for row in rows
        )
        assert sum(result.created for result in results) == created
    assert batches.service.counts.charged == len(batches.outputs()) == 12


def test_the_ledger_commands_find_the_shards_by_the_scope_of_the_whole(batches: Batches) -> None:
    for shard in split_scope(batches.scope, 2):
        batches.run(boats(2, first=2 * shard.number), scope=shard.scope)
    assert len(list_records(batches.scope)) == 4


def test_pruning_leaves_how_it_is_split_and_so_nothing_is_paid_for_again(batches: Batches) -> None:
    rows = [PredictionRequest(input=boat, key=str(n)) for n, boat in enumerate(boats(6))]
    for shard in split_scope(batches.scope, 2):
        batches.run(shard.pick(rows), scope=shard.scope)
    report = prune_records(older_than=0, scope=batches.scope)
    assert {result.scope for result in report.results} == {
        shard.scope for shard in Shard.all_of(batches.scope, 2)
    }
    assert prune_records(older_than=0, scope=batches.scope).results == []

    again = [
        batches.run(shard.pick(rows), scope=shard.scope) for shard in split_scope(batches.scope, 5)
    ]
    assert sum(result.found for result in again) == 6
    assert batches.service.counts.charged == 6
    with pytest.raises(InvalidInput, match="split into 2 shards"):
        batches.run(rows)


def test_who_prunes_everything_forgets_it_after_all_of_its_shards(batches: Batches) -> None:
    first, second = split_scope(batches.scope, 2)
    for shard in (first, second):
        batches.run(boats(1), scope=shard.scope)

    def forgotten(scope: str, days: int = 0) -> list[str]:
        return portal.call(holdings.forget, timedelta(days=days), scope, splits=True)

    assert forgotten(batches.scope, days=1) == []
    assert forgotten(first.scope) == [first.scope]
    assert len(split_scope(batches.scope, 5)) == 2
    pruned = prune_records(older_than=0, scope=batches.scope, everything=True)
    assert [result.scope for result in pruned.results] == [second.scope, batches.scope]
    assert len(split_scope(batches.scope, 5)) == 5
