"""Killed at any moment and run again, a batch pays for each item once and has the same result."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from prefect_cometapi import BatchResult, ItemStatus, list_records
from prefect_cometapi.simulator import Counts
from tests.batches import SCRIPT, Batches, boats, statuses, told
from tests.processes import ran, started, wait_until, with_key
from tests.servers import SETTING

COUNT = 40
MOMENTS: dict[str, Callable[[Counts, Batches], bool]] = {
    "before the first create": lambda counts, batches: bool(batches.journals()),
    "in the middle of the creates": lambda counts, _: counts.creates >= 10,
    "when all are created": lambda counts, _: counts.creates >= COUNT,
    "while they are polled": lambda counts, _: counts.polls >= COUNT,
    "in the middle of saving": lambda _, batches: len(batches.outputs()) >= COUNT // 3,
    "near the end": lambda _, batches: len(batches.outputs()) >= COUNT - 2,
}


@pytest.fixture
def environment(prefect_environment: dict[str, str], batches: Batches) -> dict[str, str]:
    return {**with_key(prefect_environment, batches.service), SETTING + "POLL_MIN": "0.05"}


def arguments(batches: Batches, **options: object) -> tuple[object, ...]:
    return COUNT, str(batches.folder), batches.scope, options


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.5)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again(moment: str, batches: Batches, environment: dict[str, str]) -> None:
    batches.folder.mkdir()
    service = batches.service
    with started(SCRIPT, *arguments(batches), env=environment) as process:
        wait_until(lambda: MOMENTS[moment](service.counts, batches) or process.poll() is not None)
        process.kill()
        assert process.wait(10) == -9
    before = service.counts
    # What was being sent at that moment may have been accepted: it is marked, and not sent again.
    try:
        result = batches.run(boats(COUNT))
        in_doubt = 0
    except Exception as error:
        result = error.result  # type: ignore[attr-defined]
        in_doubt = result.count(ItemStatus.IN_DOUBT)
        assert in_doubt
        assert result.count(ItemStatus.SAVED) == COUNT - in_doubt
    assert result.total == COUNT
    assert service.counts.creates == before.creates + result.created
    assert service.counts.charged == COUNT - in_doubt + lost(batches, in_doubt)
    assert len(batches.outputs()) == COUNT - in_doubt
    again = batches.run(boats(COUNT), allow_failures=0) if not in_doubt else None
    if again:
        assert told(again.items) == told(result.items)
        assert again.created == 0


def lost(batches: Batches, in_doubt: int) -> int:
    """How many of those in doubt were accepted."""
    known = {each.prediction_id for each in batches.records().values() if each}
    return len(set(batches.service.predictions) - known)


@pytest.mark.slow
def test_killed_between_the_claim_and_the_id(batches: Batches, environment: dict[str, str]) -> None:
    service = batches.service
    for number in (3, 7, 8):
        service.script_at("create.hang", number)  # accepted, and never answered
    with started(SCRIPT, *arguments(batches), env=environment) as process:
        wait_until(lambda: service.counts.creates >= COUNT and len(batches.outputs()) == COUNT - 3)
        process.kill()
        process.wait(10)
    # At once: nobody is there any more who could be sending them.
    assert len(list_records(batches.scope, in_doubt=True)) == 3
    error = batches.fail(boats(COUNT), allow_failures=COUNT)
    result = error.result
    assert result.summary == f"{COUNT - 3} saved, 3 in doubt"
    in_doubt = [item for item in result.items if item.status is ItemStatus.IN_DOUBT]
    for item in in_doubt:
        assert str(item.record_key) in str(error)
        assert item.excerpt in str(error)
    assert f"ledger list --in-doubt --scope {shlex.quote(batches.scope)}" in str(error)
    listed = {entry.key for entry in list_records(batches.scope, in_doubt=True)}
    assert listed == {item.record_key for item in in_doubt}
    # They are never sent again.
    assert statuses(batches.fail(boats(COUNT)).result) == statuses(result)
    assert service.counts.creates == service.counts.charged == COUNT


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.3)
def test_killed_again_and_again(batches: Batches, environment: dict[str, str]) -> None:
    service, options = batches.service, {"in_flight": 4}
    for step in range(1, 5):
        with started(SCRIPT, *arguments(batches, **options), env=environment) as process:
            wait_until(lambda step=step: len(saved(batches)) >= 7 * step)  # type: ignore[misc]
            process.kill()
    [last] = ran(SCRIPT, *arguments(batches, **options), env=environment)
    result = BatchResult.model_validate(last)
    in_doubt = result.count(ItemStatus.IN_DOUBT)
    assert result.count(ItemStatus.SAVED) == COUNT - in_doubt
    assert in_doubt <= 4 * 4
    assert service.counts.charged <= COUNT


def saved(batches: Batches) -> list[str]:
    return batches.outputs() if batches.folder.exists() else []
