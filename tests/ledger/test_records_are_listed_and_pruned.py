"""Records are listed, the oldest first, and deleted when they have ended and are old."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi import (
    Did,
    InvalidInput,
    Outcome,
    Record,
    aabandon_predictions,
    abandon_predictions,
    alist_records,
    list_records,
    operations,
    prune_records,
)
from prefect_cometapi.ledger import record_key
from prefect_cometapi.simulator import Simulator
from tests.homes import HOMES, Home, create, did, in_doubt, make
from tests.servers import MODEL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.mark.parametrize("home", HOMES, indirect=True)
def test_a_scope_is_listed_oldest_first_and_filtered(
    home: Home, cometapi_simulator: Simulator, scope: str, tmp_path: Path
) -> None:
    make(scope, tmp_path / "pictures")
    create(scope, sample=1)
    in_doubt(cometapi_simulator, scope, 2)
    states = ["saved", "paid, not saved", "in doubt"]
    assert [entry.state for entry in list_records(scope)] == states
    assert [entry.state for entry in list_records(scope, unsaved=True)] == states[1:2]
    both = list_records(scope, in_doubt=True, unsaved=True)
    assert [entry.state for entry in both] == states[1:]
    assert {entry.key for entry in list_records()} >= {entry.key for entry in both}
    assert list_records(f"{scope}-another") == []


@pytest.mark.parametrize("home", ["server", "folder", "objects"], indirect=True)
def test_pruning_deletes_what_has_ended_and_is_old(
    request: pytest.FixtureRequest, home: Home, scope: str
) -> None:
    def put(number: int, days: float, **fields: Any) -> str:
        sent_at = datetime.now(UTC) - timedelta(days=days)
        record = Record(scope=scope, model=MODEL, api_root="r", sent_at=sent_at, **fields)
        key = record_key(scope, "r", MODEL, {}, number)
        home.write(key, record.model_copy(update={"sample": number}))
        return key

    old = put(0, 8, outcome=Outcome.SAVED, prediction_id="a")
    put(1, 6, outcome=Outcome.SAVED, prediction_id="b")
    unsaved = put(2, 8, prediction_id="c")
    doubtful = put(3, 8)
    report = prune_records(scope=scope)
    assert [result.record_key for result in report.results] == [old]
    if "objects" in request.node.name:
        assert did(report) == [Did.TROUBLE]
        assert "no way to delete" in report.results[0].message
        return
    assert report.done
    left = prune_records(scope=scope, everything=True)
    assert {result.record_key for result in left.results} == {unsaved, doubtful}
    assert prune_records(scope=scope).results == []
    assert len(list_records(scope)) == 1
    for days in (-1, float("nan"), True, "7"):
        with pytest.raises(InvalidInput, match="days"):
            prune_records(older_than=days)  # type: ignore[arg-type]


async def test_the_async_twins_do_the_same(scope: str) -> None:
    created = await asyncio.to_thread(create, scope)
    report = await aabandon_predictions(str(created.record_key))
    assert did(report) == [Did.ABANDONED]
    assert [entry.state for entry in await alist_records(scope)] == ["abandoned"]
    assert abandon_predictions.__name__ == "abandon_predictions"
    assert operations.list_records.__doc__ == alist_records.__doc__
