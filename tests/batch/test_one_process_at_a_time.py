"""Two that work on the same scope at the same time pay for each item once, in whatever process."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from prefect_cometapi import BatchResult, ItemStatus
from tests.batches import SCRIPT, Batches, boats, told
from tests.processes import answers, ran, started, wait_until, with_key
from tests.servers import SETTING
from tests.stopping import Relay

COUNT = 30


def test_two_calls_in_one_process_share_what_is_under_way(batches: Batches) -> None:
    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(batches.run, boats(COUNT)) for _ in range(3)]
        results = [run.result() for run in runs]
    assert {result.summary for result in results} == {f"{COUNT} saved"}
    assert sum(result.created for result in results) == COUNT
    assert batches.service.counts.creates == COUNT
    ids = [[item.prediction_id for item in result.items] for result in results]
    assert ids[0] == ids[1] == ids[2]
    assert len({result.manifest for result in results}) == 3
    assert len(batches.outputs()) == COUNT


@pytest.fixture
def environment(prefect_environment: dict[str, str], batches: Batches) -> dict[str, str]:
    return {**with_key(prefect_environment, batches.service), SETTING + "POLL_MIN": "0.05"}


def arguments(batches: Batches, count: int = COUNT, **options: object) -> tuple[object, ...]:
    return count, str(batches.folder), batches.scope, options


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=1)
def test_a_second_process_waits_and_ends_with_the_same(
    batches: Batches, environment: dict[str, str]
) -> None:
    def run() -> BatchResult:
        [line] = ran(SCRIPT, *arguments(batches), env=environment)
        return BatchResult.model_validate(line)

    with ThreadPoolExecutor(2) as threads:
        first, second = (each.result() for each in [threads.submit(run) for _ in range(2)])
    assert first.summary == second.summary == f"{COUNT} saved"
    assert sorted((first.created, second.created)) == [0, COUNT]
    assert told(first.items) == told(second.items)
    assert batches.service.counts.creates == batches.service.counts.charged == COUNT


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=1)
def test_what_a_dead_process_held_is_free_at_once(
    batches: Batches, environment: dict[str, str]
) -> None:
    with started(SCRIPT, *arguments(batches), env=environment) as process:
        wait_until(lambda: len(batches.service.predictions) == COUNT)
        wait_until(lambda: len(batches.records()) == COUNT)
        process.kill()
        process.wait(10)
    began = time.monotonic()
    error_or_result = _ended(batches)
    # It would be two minutes if the process had died on another machine.
    assert time.monotonic() - began < 60
    assert error_or_result.count(ItemStatus.SAVED, ItemStatus.IN_DOUBT) == COUNT
    assert batches.service.counts.creates == COUNT


def _ended(batches: Batches) -> BatchResult:
    try:
        return batches.run(boats(COUNT))
    except Exception as error:
        result: BatchResult = error.result  # type: ignore[attr-defined]
        return result


#: The same as `SCRIPT`, with a lease that counts as dead after some seconds.
IMPATIENT = (
    """
from prefect_cometapi import holders, lease
lease.RENEW, lease.VALID, lease.EXPIRES, lease.SECOND_LOOK, lease.LOOK = 0.5, 2.0, 6.0, 1.0, 0.5
holders._machine = lambda: ""  # as on two machines: whether the other one lives can not be seen
"""
    + SCRIPT
)


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.3)
def test_a_holder_that_stood_still_for_too_long_sends_nothing_more(
    batches: Batches, environment: dict[str, str]
) -> None:
    service, count = batches.service, 200
    address = urlsplit(environment["PREFECT_API_URL"])
    # Its way to Prefect's server is blocked as well: it can not ask whether it still holds it.
    relay = Relay((str(address.hostname), int(address.port or 80)))
    by_relay = environment | {"PREFECT_API_URL": f"http://127.0.0.1:{relay.port}/api"}
    with started(IMPATIENT, *arguments(batches, count, in_flight=3), env=by_relay) as asleep:
        wait_until(lambda: service.counts.creates >= 10)
        os.kill(asleep.pid, signal.SIGSTOP)
        relay.freeze()
        time.sleep(1)  # what it has sent arrives
        before = service.counts.creates
        try:
            with started(IMPATIENT, *arguments(batches, count), env=environment) as other:
                wait_until(lambda: service.counts.creates > before + 20, "the other takes over")
                os.kill(asleep.pid, signal.SIGCONT)
                [line] = answers(other)
        finally:
            os.kill(asleep.pid, signal.SIGCONT)
        time.sleep(2)  # it would go on
        relay.thaw()
        out, err = asleep.communicate(timeout=60)
    relay.close()
    taken_over = BatchResult.model_validate(line)
    in_doubt = taken_over.count(ItemStatus.IN_DOUBT)
    assert in_doubt <= 3
    assert taken_over.count(ItemStatus.SAVED) == count - in_doubt
    assert service.counts.creates <= count
    loser = BatchResult.model_validate_json(out.splitlines()[-1])
    assert "has taken the batch of scope" in loser.stopped, err
    assert loser.created <= before


def test_the_lease_is_let_go_when_a_batch_has_ended(batches: Batches) -> None:
    from prefect.client.orchestration import get_client

    from prefect_cometapi.holdings import variable_name

    batches.run(boats(2))
    with get_client(sync_client=True) as client:
        variable = client.read_variable_by_name(variable_name(batches.scope))
    assert variable is not None
    holding = variable.value
    assert isinstance(holding, dict)
    assert holding["holder"] is None
    assert (holding["runs"], holding["left"]) == (1, 0)
    assert json.loads(json.dumps(holding))["scope"] == batches.scope
    assert threading.active_count() < 100
