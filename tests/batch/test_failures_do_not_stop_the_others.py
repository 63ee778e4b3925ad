"""What goes wrong with one item stops no other; at the end one error tells of all."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_cometapi import (
    BatchFailed,
    BatchStopped,
    CometAPICredentials,
    ItemStatus,
    PredictionRequest,
)
from prefect_cometapi.workshop import CREATES
from tests.batches import TEXT, Batches, boats, statuses
from tests.servers import KEY, closed_port
from tests.storages import FolderOfObjects

FAILED, SAVED = ItemStatus.FAILED, ItemStatus.SAVED


def test_the_others_are_made_and_one_error_tells_of_all(batches: Batches) -> None:
    batches.service.script("prediction", ["ok", "failed", "ok", "canceled", "aborted", "ok"])
    error = batches.fail([*boats(6), {"prompt": 7}, {"no prompt": "at all"}], in_flight=1)
    result = error.result
    assert type(error) is BatchFailed
    assert result.summary == "3 saved, 2 failed, 1 canceled, 2 refused"
    assert statuses(result)[1] is FAILED
    assert result.items[1].error_type == "PredictionFailed"
    assert "CUDA out of memory" in result.items[1].error
    assert statuses(result)[6:] == [ItemStatus.REFUSED] * 2
    assert len(batches.outputs()) == 3
    text = str(error)
    assert text.startswith(f"5 of 8 items went wrong: {result.summary} (scope {batches.scope!r}).")
    assert f'item 1 ("boat 1") (prediction {result.items[1].prediction_id}): failed.' in text
    assert "retry_failed=True" in text
    assert text.endswith("pays for nothing twice.")


def test_the_error_tells_of_ten_and_how_many_more_there_are(batches: Batches) -> None:
    batches.service.set_fault("prediction.failed", 1.0)
    error = batches.fail(boats(25))
    assert str(error).count("\n- item ") == len(error.result.failures) == 10
    assert "… and 15 more. All of them are in the manifest: cometapi-batches/" in str(error)
    assert str(error.result.manifest) in str(error)


def test_one_of_each_kind_is_among_the_ten(batches: Batches) -> None:
    batches.service.script("prediction", ["failed"] * 20 + ["canceled"])
    error = batches.fail([*boats(21), {"prompt": 5}], in_flight=1)
    told = {item.status for item in error.result.failures}
    assert told == {FAILED, ItemStatus.CANCELED, ItemStatus.REFUSED}


def test_the_error_can_be_stored_with_all_that_it_says(batches: Batches) -> None:
    batches.service.script("prediction", ["failed"])
    error = batches.fail(boats(3), in_flight=1)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again), again.result) == (type(error), str(error), error.result)


# --- in doubt ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lost", "hang", "502", "504-accepted", "cut-off", "no-id"])
def test_what_is_in_doubt_is_marked_and_the_rest_goes_on(
    fault: str, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_CREATE_TIMEOUT", "1")
    batches.service.script("create", ["ok", fault])
    error = batches.fail(boats(4), in_flight=1, allow_failures=1.0)
    assert type(error) is BatchFailed
    assert statuses(error.result) == [SAVED, ItemStatus.IN_DOUBT, SAVED, SAVED]
    in_doubt = error.result.items[1]
    assert in_doubt.record_key
    assert f'item 1 ("boat 1") (record {in_doubt.record_key}): in doubt. ' in str(error)
    for command in ("list --in-doubt", "adopt", "resubmit", "abandon"):
        assert command in str(error)
    assert batches.service.counts.creates == 4
    # It stays so, whatever failures are allowed, and is never sent again; nor is the reason lost.
    again = batches.fail(boats(4), allow_failures=4).result
    assert statuses(again)[1] is ItemStatus.IN_DOUBT
    assert again.items[1].reason == in_doubt.reason
    assert again.items[1].request_id == in_doubt.request_id
    assert batches.service.counts.creates == 4


def test_a_reason_of_an_earlier_run_is_told_without_its_prompt(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = {"prompt": "no usable reply came"}  # which the reason happens to quote
    batches.service.script("create", ["lost"])
    first = batches.fail([prompt]).result.items[0]
    assert prompt["prompt"] in first.reason
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_PROMPTS", "false")
    again = batches.fail([prompt]).result.items[0]
    assert again.status is ItemStatus.IN_DOUBT
    assert again.reason == first.reason.replace(prompt["prompt"], "…")


def test_in_doubt_comes_first_in_the_error(batches: Batches) -> None:
    batches.service.script("prediction", ["failed"] * 12)
    batches.service.script_at("create.lost", 13)
    error = batches.fail(boats(13), in_flight=1)
    assert error.result.failures[0].status is ItemStatus.IN_DOUBT
    assert str(error).splitlines()[1].startswith('- item 12 ("boat 12") (record cometapi-')


# --- what is allowed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "fine"),
    [(0, False), (1, False), (2, True), (0.1, False), (0.25, True), (1.0, True), (0.0, False)],
)
def test_so_many_failures_are_allowed(allowed: float, fine: bool, batches: Batches) -> None:
    batches.service.script("prediction", ["failed", "failed"])
    if fine:
        result = batches.run(boats(8), in_flight=1, allow_failures=allowed)
    else:
        result = batches.fail(boats(8), in_flight=1, allow_failures=allowed).result
    assert result.summary == "6 saved, 2 failed"
    assert len(result.failures) == 2


def test_item_by_item_nothing_is_raised_for_failures(batches: Batches) -> None:
    batches.service.script("prediction", ["failed"])
    items = list(batches.iterate([*boats(2), {"prompt": 5}], in_flight=1))
    assert [item.status for item in items] == [FAILED, SAVED, ItemStatus.REFUSED]


# --- when it is enough ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("create.401", "invalid token"),
        ("create.402", "insufficient credit"),
        ("create.403", "quota"),
        ("create.503-model-not-found", "model"),
    ],
)
def test_an_error_of_the_account_stops_it_at_once(fault: str, words: str, batches: Batches) -> None:
    batches.run(boats(3))
    batches.service.set_fault(fault, 1.0)
    error = batches.fail(boats(500), in_flight=50, allow_failures=1.0)
    assert isinstance(error, BatchStopped)
    assert words in error.result.stopped
    assert error.__cause__ is not None
    assert words in str(error.__cause__)
    # At most those that were on the wire.
    assert 1 <= batches.service.counts.creates - 3 <= CREATES
    assert batches.service.counts.charged == 3
    assert error.result.count(SAVED) == 3
    assert error.result.count(ItemStatus.NOT_SENT) >= 1
    assert error.result.total < 500
    assert error.result.total + error.result.unread == 500
    assert f"of 500 items went wrong: {error.result.summary}" in str(error)
    assert error.result.summary.endswith(" not looked at")
    # With the trouble gone, all are made.
    batches.service.clear_faults()
    assert batches.run(boats(40)).summary == "40 saved"


@pytest.mark.cometapi_simulator(run_time=1.0)
def test_a_key_that_stops_working_leaves_what_is_under_way_to_be_collected(
    batches: Batches,
) -> None:
    batches.service.set_fault("query.401", 1.0)
    error = batches.fail(boats(5))
    assert isinstance(error, BatchStopped)
    assert error.result.summary == "5 paid, not saved"
    assert "collect" in str(error)
    batches.service.clear_faults()
    assert batches.run(boats(5)).summary == "5 saved"
    assert batches.service.counts.charged == 5


@pytest.mark.parametrize(("limit", "ended"), [(3, 3), (1, 1), (0.5, 20)])
def test_it_stops_after_so_many_failures(limit: float, ended: int, batches: Batches) -> None:
    batches.service.set_fault("prediction.failed", 1.0)
    error = batches.fail(boats(100), in_flight=1, stop_after_failures=limit)
    assert isinstance(error, BatchStopped)
    assert f"stop_after_failures={limit}" in error.result.stopped
    assert error.result.total == error.result.count(FAILED) == ended
    assert batches.service.counts.creates == ended
    # What has failed then does not keep the next run from making the rest.
    batches.service.clear_faults()
    result = batches.run(boats(100), stop_after_failures=limit, allow_failures=ended)
    assert result.summary == f"{100 - ended} saved, {ended} failed"


def test_a_share_of_failures_that_is_not_reached_stops_nothing(batches: Batches) -> None:
    batches.service.script("prediction", ["failed"] * 9)
    result = batches.run(boats(40), in_flight=1, stop_after_failures=0.5, allow_failures=0.3)
    assert result.summary == "31 saved, 9 failed"


@pytest.mark.cometapi_simulator(run_time=0.5)
def test_what_is_under_way_when_it_stops_is_brought_to_its_end(batches: Batches) -> None:
    batches.service.script("create", ["ok"] * 5 + ["402"])
    error = batches.fail(boats(6), in_flight=6)
    assert error.result.count(SAVED) == 5 == batches.service.counts.charged
    assert len(batches.outputs()) == 5


def test_a_service_that_is_out_of_reach_has_cost_nothing(batches: Batches) -> None:
    gone = CometAPICredentials(api_key=SecretStr(KEY), base_url=f"http://127.0.0.1:{closed_port()}")
    error = replace(batches, credentials=gone).fail(boats(3), prediction_timeout=1)
    assert statuses(error.result) == [ItemStatus.NOT_SENT] * 3
    assert {item.error_type for item in error.result.items} == {"NeverDelivered"}
    assert error.result.created == 0
    assert not batches.records()


def test_a_model_of_one_item_that_is_not_there_stops_it_too(batches: Batches) -> None:
    wrong = PredictionRequest(input={"prompt": "a"}, model="nobody/knows-this")
    error = batches.fail([*boats(2), wrong, *boats(2, 2)], in_flight=1)
    assert isinstance(error, BatchStopped)
    assert error.result.items[2].model == "nobody/knows-this"
    assert error.result.items[0].model == TEXT
    assert batches.service.counts.charged == 2


class Full(FolderOfObjects):
    """Takes what is written to find out whether it takes anything, and no pictures."""

    _block_type_name = "Full objects for tests"
    _block_type_slug = "full-objects"

    async def upload_from_path(self, from_path: str | Path, to_path: str, **options: Any) -> str:
        if to_path.endswith(".txt"):
            raise OSError("no space is left")
        return await super().upload_from_path(from_path, to_path, **options)


def test_where_the_storage_takes_nothing_any_more_nothing_more_is_paid_for(
    batches: Batches, tmp_path: Path
) -> None:
    storage = Full(root=str(tmp_path / "full"))
    error = batches.fail(boats(60), in_flight=1, storage=storage, ledger=batches.folder)
    assert isinstance(error, BatchStopped)
    assert "no space is left" in error.result.stopped
    assert batches.service.counts.charged == 10
    # With room again, what is paid for is brought home.
    result = batches.run(boats(10), ledger=batches.folder)
    assert result.summary == "10 saved"
    assert batches.service.counts.charged == 10
