"""A night's gallery is paid for once: retried, run again, killed, or late by a day."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import State, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from flows.nightly_gallery import nightly_gallery
from prefect_cometapi.simulator import Simulator
from tests.gallery.galleries import THEME, galleries, manifest, night, own
from tests.processes import ROOT, python, started, wait_until, with_key


async def test_another_run_of_the_night_asks_for_nothing(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    for _ in range(2):
        assert (await night(tmp_path, edition="one")).is_completed()
    assert cometapi_simulator.counts.chats == 1
    assert cometapi_simulator.counts.creates == 3
    assert len(galleries(tmp_path)) == 1


async def test_another_edition_or_theme_is_another_gallery(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    for edition, theme in (("one", THEME), ("two", THEME), ("one", "Harbours at noon")):
        assert (await night(tmp_path, edition=edition, theme=theme)).is_completed()
    assert cometapi_simulator.counts.charged == 9
    ids = {row["prediction_id"] for folder in galleries(tmp_path) for row in manifest(folder)}
    assert len(galleries(tmp_path)) == 3
    assert len(ids) == 9


async def test_a_retry_goes_on_with_what_there_is(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["ok", "failed"])
    state = await night(tmp_path, retries=2, allow_failures=0)
    assert state.is_failed()
    assert cometapi_simulator.counts.chats == 1
    assert cometapi_simulator.counts.creates == 3
    # Only who says so pays for what failed again: once, and not with each retry.
    cometapi_simulator.script("prediction", ["failed"])
    assert (await night(tmp_path, retries=2, allow_failures=0, retry_failed=True)).is_failed()
    assert cometapi_simulator.counts.creates == 4
    assert (await night(tmp_path, allow_failures=0, retry_failed=True)).is_completed()
    assert cometapi_simulator.counts.creates == 5


@pytest.mark.parametrize(
    ("faults", "more", "said"),
    [
        (["prose"] * 4, {}, "wrote 0 of 3 prompts"),
        (["503-model-not-found"], {}, "gpt-5-mini"),
        (["401"], {}, "API key is missing or wrong"),
        ([], {"language_model": "no such model!"}, "is not the name of a language model"),
        ([], {"storage": "s3://bucket/x"}, "is a URL"),
        ([], {"storage": "/dev/null/x"}, "can not be written to"),
    ],
)
async def test_without_prompts_no_picture_is_paid_for(
    faults: list[str],
    more: dict[str, str],
    said: str,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("chat", faults)
    state = await night(tmp_path, **cast("Any", more))
    assert state.is_failed()
    assert said in str(state.message)
    assert cometapi_simulator.counts.chats == len(faults)
    assert cometapi_simulator.counts.creates == 0
    assert not galleries(tmp_path)


async def test_a_retried_run_has_the_prompts_written_after_all(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("chat", ["prose"] * 4)  # after which a try gives up
    state = await night(tmp_path, retries=1)
    assert state.is_completed()
    assert cometapi_simulator.counts.chats == 5
    assert cometapi_simulator.counts.creates == 3


async def test_it_shares_the_rate_of_the_limit_that_it_is_given(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    name = own("limit", tmp_path)
    new = GlobalConcurrencyLimitCreate(name=name, limit=50, slot_decay_per_second=0.001)
    async with get_client() as client:
        await client.create_global_concurrency_limit(new)
        assert (await night(tmp_path, limit=name)).is_completed()
        limit = await client.read_global_concurrency_limit_by_name(name)
    assert limit.active_slots == 3  # one for each create


@pytest.mark.parametrize(
    ("scheduled", "time_zone", "date"),
    [
        ("2026-01-10T23:30:00+00:00", "Europe/Berlin", "2026-01-11"),
        ("2026-01-10T23:30:00+00:00", "UTC", "2026-01-10"),
        ("2026-01-11T03:30:00+00:00", "America/New_York", "2026-01-10"),
    ],
)
async def test_the_date_is_that_for_which_the_run_was_scheduled(
    scheduled: str,
    time_zone: str,
    date: str,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    theme = own("Harbours", tmp_path)
    flow: Any = nightly_gallery.with_options(retries=1, retry_delay_seconds=0)
    given = {"theme": theme, "pictures": 1, "storage": str(tmp_path), "time_zone": time_zone}
    cometapi_simulator.script("chat", ["prose"] * 4)  # so that there is a retry
    async with get_client() as client:
        then: State[Any] = Scheduled(scheduled_time=datetime.fromisoformat(scheduled))
        run = await client.create_flow_run(flow, parameters=given, state=then)
        await cast("Awaitable[Any]", run_flow(flow, flow_run=run, parameters=given))
        run = await client.read_flow_run(run.id)
    assert run.run_count == 2
    assert run.name == f"{theme}, {date}"
    (gallery,) = galleries(tmp_path)
    assert gallery.name.startswith(f"{date}-Harbours-")


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.4)
def test_killed_in_the_middle_and_run_again(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["ok", "slow", "slow", "slow"])
    script = str(ROOT / "flows" / "nightly_gallery.py")
    words = (THEME, "--pictures", "4", "--edition", own("tonight", tmp_path))
    environment = with_key(prefect_environment, cometapi_simulator)
    program = f"import runpy, sys; sys.argv = {[script, *words]!r}; "
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    with started(program, env=environment, cwd=tmp_path) as process:
        wait_until(lambda: list(tmp_path.rglob("*.webp")), "the first is saved")
        process.kill()
    assert not galleries(tmp_path / "pictures")
    done = python(script, *words, env=environment, cwd=tmp_path, seconds=300)
    (gallery,) = galleries(tmp_path / "pictures")
    assert f"Your gallery: {gallery / 'index.html'}" in done.stdout
    assert len({row["file"] for row in manifest(gallery)}) == 4
    assert cometapi_simulator.counts.chats == 1
    assert cometapi_simulator.counts.charged == 4
