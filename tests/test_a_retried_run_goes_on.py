"""A run that comes back, in whichever way, goes on with what was paid for: it pays for nothing
twice, waits no longer than it was told to, and fetches nothing that is there.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableUpdate

from prefect_cometapi import (
    CometAPICredentials,
    OutputExpired,
    PredictionCanceled,
    PredictionFailed,
    PredictionJob,
    PredictionTimeout,
    SavedFile,
    acreate_prediction,
    agenerate,
    apoll_prediction,
    asave_outputs,
    create_prediction,
    portal,
)
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.records import open_ledger
from prefect_cometapi.simulator import Simulator
from tests.processes import wait_until
from tests.servers import BOAT, MODEL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

# A run of its own, in each of the ways that users have.


@flow
async def with_generate(folder: Path, scope: str, timeout: float = 30.0) -> list[SavedFile]:
    credentials = CometAPICredentials.from_env()
    made = await agenerate(credentials, MODEL, BOAT, folder, scope=scope, timeout=timeout)
    return made.files


@flow
async def with_tasks(folder: Path, scope: str, timeout: float = 30.0) -> list[SavedFile]:
    credentials = CometAPICredentials.from_env()
    prediction = await acreate_prediction(credentials, MODEL, BOAT, scope=scope)
    prediction = await apoll_prediction(credentials, prediction, timeout=timeout)
    return await asave_outputs(credentials, prediction, folder)


@flow
async def with_a_job(folder: Path, scope: str, timeout: float = 30.0) -> list[SavedFile]:
    job = PredictionJob(
        credentials=CometAPICredentials.from_env(),
        model=MODEL,
        input=BOAT,
        storage=str(folder),
        timeout=timeout,
    )
    run = await job.atrigger(scope=scope)
    await run.await_for_completion()
    return (await run.afetch_result()).files


WAYS = pytest.mark.parametrize(
    "way", [with_generate, with_tasks, with_a_job], ids=lambda way: way.fn.__name__
)


@pytest.fixture
def scope(request: pytest.FixtureRequest, cometapi_simulator: Simulator) -> str:
    return f"{request.node.name}-{cometapi_simulator.url}"[-150:]


def only_create(scope: str) -> str:
    """What a run leaves behind that died right after its create."""

    @flow
    def dies() -> str:
        return create_prediction(CometAPICredentials.from_env(), MODEL, BOAT, scope=scope).id

    return dies()


def the_record(scope: str) -> tuple[str, Record]:
    [(key, record)] = portal.call(open_ledger("prefect-server").records, scope).items()
    assert record is not None
    return key, record


def ended_as(simulator: Simulator, status: str) -> None:
    def all_ended() -> bool:
        return {each.status for each in simulator.predictions.values()} == {status}

    wait_until(all_ended, status)


# --- a new run in the same scope --------------------------------------------------------------


@WAYS
async def test_what_is_finished_is_saved(
    way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    made = only_create(scope)
    ended_as(cometapi_simulator, "succeeded")
    [file] = await way(tmp_path, scope)
    assert file.name.startswith(made)
    assert (tmp_path / file.name).stat().st_size == file.size
    assert cometapi_simulator.counts.creates == 1
    assert the_record(scope)[1].outcome is Outcome.SAVED


@WAYS
@pytest.mark.cometapi_simulator(run_time=1.0)
async def test_what_is_running_is_waited_for(
    way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    made = only_create(scope)
    [file] = await way(tmp_path, scope)
    assert file.name.startswith(made)
    assert cometapi_simulator.counts.creates == 1


@WAYS
async def test_a_deadline_counts_from_the_first_run(
    way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["endless"])
    only_create(scope)
    key, record = the_record(scope)
    long_ago = record.model_copy(update={"sent_at": datetime.now(UTC) - timedelta(hours=1)})
    async with get_client() as client:
        await client.update_variable(VariableUpdate(name=key, value=long_ago.as_json()))
    polls = cometapi_simulator.counts.polls
    with pytest.raises(PredictionTimeout):
        await way(tmp_path, scope, timeout=3_000.0)
    assert cometapi_simulator.counts.polls - polls == 2  # one finds it, one is the last chance
    assert cometapi_simulator.counts.creates == 1


@WAYS
@pytest.mark.parametrize(
    ("fate", "error", "outcome"),
    [
        ("failed", PredictionFailed, Outcome.FAILED),
        ("aborted", PredictionFailed, Outcome.FAILED),
        ("canceled", PredictionCanceled, Outcome.CANCELED),
    ],
)
async def test_what_has_failed_meanwhile_is_told_as_that(
    fate: str,
    error: type[Exception],
    outcome: Outcome,
    way: Any,
    scope: str,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", [fate])
    made = only_create(scope)
    ended_as(cometapi_simulator, fate)
    for _ in range(2):  # the second is told from the record
        with pytest.raises(error, match=made):
            await way(tmp_path, scope)
        assert the_record(scope)[1].outcome is outcome
    assert cometapi_simulator.counts.creates == 1


@WAYS
@pytest.mark.cometapi_simulator(output_ttl=0.0)
async def test_what_has_expired_meanwhile_is_told_as_that(
    way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    made = only_create(scope)
    ended_as(cometapi_simulator, "succeeded")
    for _ in range(2):
        with pytest.raises(OutputExpired, match=made):
            await way(tmp_path, scope)
        assert the_record(scope)[1].outcome is Outcome.EXPIRED
    assert cometapi_simulator.counts.creates == 1


@WAYS
@pytest.mark.cometapi_simulator(output_ttl=0.0)
async def test_files_that_a_dead_process_put_in_place_are_named_when_the_rest_has_expired(
    way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    made = only_create(scope)
    ended_as(cometapi_simulator, "succeeded")
    (tmp_path / f"{made}-0.webp").write_bytes(b"whole, but in no record")
    for _ in range(2):
        with pytest.raises(OutputExpired, match=f"has left {made}-0.webp in the folder") as caught:
            await way(tmp_path, scope)
        assert str(caught.value).count("has left") == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{made}-0.webp"]


@WAYS
async def test_what_was_saved_is_not_fetched_again(
    way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    first = await way(tmp_path, scope)
    before = (tmp_path / first[0].name).stat().st_mtime_ns
    assert await way(tmp_path, scope) == first
    assert (tmp_path / first[0].name).stat().st_mtime_ns == before
    assert cometapi_simulator.counts.downloads == cometapi_simulator.counts.creates == 1


class Clock:
    """The service's clock, which may be set ahead."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


CLOCK = Clock()


@WAYS
@pytest.mark.cometapi_simulator(clock=CLOCK)
async def test_what_was_saved_stays_so_after_the_service_has_deleted_it(
    way: Any,
    scope: str,
    cometapi_simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await way(tmp_path, scope)
    monkeypatch.setattr(CLOCK, "ahead", 3_700.0)
    assert await way(tmp_path, scope) == first
    assert cometapi_simulator.counts.downloads == cometapi_simulator.counts.creates == 1
    (tmp_path / first[0].name).unlink()
    with pytest.raises(OutputExpired, match="can only be made again"):
        await way(tmp_path, scope)
    assert cometapi_simulator.counts.creates == 1


@WAYS
@pytest.mark.parametrize("how", ["deleted", "cut short", "another folder"])
async def test_what_is_missing_is_fetched_again(
    how: str, way: Any, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    [first] = await way(folder, scope)
    content = (folder / first.name).read_bytes()
    if how == "deleted":
        (folder / first.name).unlink()
    elif how == "cut short":
        (folder / first.name).write_bytes(content[:10])
    else:
        folder = tmp_path / "elsewhere"
    [second] = await way(folder, scope)
    assert (folder / second.name).read_bytes() == content
    assert second.sha256 == first.sha256
    assert cometapi_simulator.counts.downloads == 2
    assert cometapi_simulator.counts.creates == 1


# --- the same run again -----------------------------------------------------------------------


@pytest.mark.parametrize("persist", [None, True, False])
async def test_retries_in_the_process(
    persist: bool | None, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    seen: list[str] = []

    @flow(retries=2, persist_result=persist)
    async def boat() -> list[SavedFile]:
        credentials = CometAPICredentials.from_env()
        prediction = await acreate_prediction(credentials, MODEL, BOAT)
        if not seen:
            seen.append("created")
            raise RuntimeError("the first attempt ends here")
        prediction = await apoll_prediction(credentials, prediction)
        files = await asave_outputs(credentials, prediction, tmp_path)
        if len(seen) < 2:
            seen.append("saved")
            raise RuntimeError("the second attempt ends here")
        return files

    [file] = await boat()
    assert (tmp_path / file.name).stat().st_size == file.size
    counts = cometapi_simulator.counts
    assert (counts.creates, counts.downloads) == (1, 1)


def test_a_users_own_task_outside_a_flow_keeps_its_scope_when_it_is_retried(
    cometapi_simulator: Simulator,
) -> None:
    made: list[str] = []

    @task(retries=1)
    def mine() -> None:
        made.append(create_prediction(CometAPICredentials.from_env(), MODEL, BOAT).id)
        if len(made) == 1:
            raise RuntimeError("something of mine")

    mine()
    assert len(made) == 2
    assert len(set(made)) == 1
    assert cometapi_simulator.counts.charged == 1
