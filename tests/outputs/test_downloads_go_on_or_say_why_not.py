"""A download that fails is tried again where that may help, or it is told why not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_cometapi import pacing, simulator
from prefect_cometapi.errors import (
    OutputDamaged,
    OutputError,
    OutputExpired,
    OutputRefused,
    OutputUnavailable,
)
from prefect_cometapi.simulator import FAULTS, Simulator
from tests.servers import ID, PNG, Answer, Request, client_for, configure, made_of, serve
from tests.storages import made_by, names, save_in

#: Faults of one request that are got over, and those that are not.
ONE_TIME = sorted(
    fault.short
    for fault in FAULTS.values()
    if fault.operation == "file"
    and not fault.short.startswith(("redirect", "oversized"))
    and fault.short != "hang"  # waits for the silence limit; see below
)


@pytest.mark.parametrize("fault", ONE_TIME)
async def test_a_fault_that_passes_is_got_over(sim: Simulator, tmp_path: Path, fault: str) -> None:
    made = await made_by(sim)
    sim.script("file", [fault])
    (saved,) = await save_in(made, tmp_path)
    assert sim.counts.downloads == 2
    assert Path(saved.location).read_bytes().startswith(b"RIFF")
    assert names(tmp_path) == [saved.name]


STAYING: dict[str, type[OutputError]] = {
    "truncated": OutputDamaged,
    "empty": OutputDamaged,
    "html": OutputDamaged,
    "wrong-type": OutputDamaged,
    "hang": OutputUnavailable,
    "lost": OutputUnavailable,
    "500": OutputUnavailable,
    "403": OutputUnavailable,
    "404": OutputExpired,
    "oversized": OutputRefused,
    "oversized-chunked": OutputRefused,
    "redirect-away": OutputRefused,
    "redirect-loop": OutputRefused,
}


@pytest.mark.parametrize(("fault", "error"), STAYING.items())
async def test_a_fault_that_stays_is_told_and_leaves_nothing(
    fault: str,
    error: type[OutputError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those that may pass are tried for as long as that.
    patience = "1" if fault in ("hang", "lost", "500") else "4"
    configure(monkeypatch, download_timeout=patience, max_file_bytes=2000000)
    with simulator.run(run_time=0.001, oversize=3_000_000) as sim:
        made = await made_by(sim)
        sim.set_fault(f"file.{fault}", 1.0)
        started = time.monotonic()
        with pytest.raises(OutputError) as caught:
            await save_in(made, tmp_path)
        assert caught.type is error
        assert time.monotonic() - started < 8
        assert made.id in str(caught.value)
        assert "0 of 1 outputs are saved" in str(caught.value)
        assert names(tmp_path) == []
        assert sim.counts.accepted == 1
        if error is not OutputExpired:
            assert "fetches them again, for free" in str(caught.value)
            sim.clear_faults()  # and calling again is all it takes
            configure(monkeypatch, download_timeout=20)
            assert len(await save_in(made, tmp_path)) == 1


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second."""
    monkeypatch.setattr(pacing, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(pacing, "RETRY_MAX", 0.02)


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """A handler that gives one answer after another, and the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


PASSING = [Answer(500), Answer(502), Answer(503), Answer(429), Answer(end="drop")]
REFUSED = [Answer(401), Answer(403), Answer(404), Answer(410), Answer(418), Answer(200, b"")]


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("trouble", PASSING, ids=lambda answer: f"{answer.status} {answer.end}")
async def test_trouble_that_passes_is_waited_out_while_the_output_is_there(
    trouble: Answer, tmp_path: Path
) -> None:
    with serve(in_turn(*[trouble] * 30, Answer(200, PNG))) as server:
        assert len(await save_in(made_of(server.url, server.url), tmp_path)) == 1
        assert len(server.requests) == 31


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("trouble", PASSING, ids=lambda answer: f"{answer.status} {answer.end}")
async def test_trouble_that_stays_is_given_up_when_the_time_is_up(
    trouble: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, download_timeout=0.5)
    with serve(lambda _: trouble) as server:
        started = time.monotonic()
        with pytest.raises(OutputUnavailable, match="could not be fetched"):
            await save_in(made_of(server.url, server.url), tmp_path)
        assert 0.3 < time.monotonic() - started < 3
        assert len(server.requests) > 8


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("refusal", REFUSED, ids=lambda answer: str(answer.status))
async def test_a_refusal_is_asked_for_three_times_whatever_trouble_there_was(
    refusal: Answer, tmp_path: Path
) -> None:
    with serve(lambda _: refusal) as server:
        with pytest.raises(OutputError):
            await save_in(made_of(server.url, server.url), tmp_path)
        assert len(server.requests) == 3
    trouble = [Answer(503)] * 5
    with serve(in_turn(*trouble, refusal, *trouble, refusal, Answer(200, PNG))) as server:
        assert len(await save_in(made_of(server.url, server.url), tmp_path)) == 1


@pytest.mark.usefixtures("in_a_hurry")
async def test_a_delivery_host_that_asks_to_wait_is_waited_for(tmp_path: Path) -> None:
    busy = Answer(429, b"", {"retry-after": "1"})
    with serve(in_turn(busy, Answer(200, PNG))) as server:
        started = time.monotonic()
        assert len(await save_in(made_of(server.url, server.url), tmp_path)) == 1
        assert 1 <= time.monotonic() - started < 3


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize(("cap", "requests"), [("0.05", 2), ("60", 1)])
async def test_a_wait_is_capped_and_one_that_is_longer_than_the_time_left_is_not_begun(
    cap: str, requests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, retry_after_cap=cap)
    busy = Answer(429, b"", {"retry-after": "30"})
    with serve(in_turn(busy, Answer(200, PNG))) as server:
        started = time.monotonic()
        if requests == 2:
            await save_in(made_of(server.url, server.url), tmp_path)
        else:
            with pytest.raises(OutputUnavailable, match="answered 429"):
                await save_in(made_of(server.url, server.url), tmp_path)
        assert time.monotonic() - started < 2
        assert len(server.requests) == requests


async def test_an_error_is_not_its_own_cause(tmp_path: Path) -> None:
    # Whoever follows such a chain to its end follows it for ever.
    with serve(lambda _: Answer(200, b"")) as server, pytest.raises(OutputDamaged) as caught:
        await save_in(made_of(server.url, server.url), tmp_path)
    error: BaseException | None = caught.value
    for _ in range(20):
        error = error and error.__cause__
    assert error is None


async def test_a_host_that_stands_still_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, download_timeout=0.5)
    with serve(lambda _: Answer(200, PNG, end="hang", length=10_000)) as server:
        started = time.monotonic()
        with pytest.raises(OutputUnavailable, match="did not arrive within"):
            await save_in(made_of(server.url, server.url), tmp_path)
        assert time.monotonic() - started < 5
    assert names(tmp_path) == []


# --- several, and too late --------------------------------------------------------------------


async def test_one_that_fails_does_not_keep_the_others_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"/0", "/2"}

    def handler(request: Request) -> Answer:
        return Answer(200, PNG if request.target in good else b"")

    with serve(handler) as server:
        made = made_of([f"{server.url}/{n}" for n in range(3)], server.url)
        with pytest.raises(OutputDamaged, match="2 of 3 outputs are saved") as caught:
            await save_in(made, tmp_path)
        assert ID in str(caught.value)
        assert f"{server.url}/1" in str(caught.value)
        assert names(tmp_path) == [f"{ID}-0.png", f"{ID}-2.png"]
        good.add("/1")
        files = await save_in(made, tmp_path)
    assert [saved.name for saved in files] == [f"{ID}-{n}.png" for n in range(3)]
    assert names(tmp_path) == [f"{ID}-{n}.png" for n in range(3)]


async def test_outputs_that_are_deleted_are_expired(tmp_path: Path) -> None:
    with simulator.run(run_time=0.001, output_ttl=0.2) as sim:
        made = await made_by(sim)
        await asyncio.sleep(0.4)
        with pytest.raises(OutputExpired, match="at a new price") as caught:
            await save_in(made, tmp_path)  # known by its URLs, which are dead
        assert "fetches them again" not in str(caught.value)
        gone = await client_for(sim.url).aget_prediction(made.id)
        downloads = sim.counts.downloads
        with pytest.raises(OutputExpired, match="one hour after completion"):
            await save_in(gone, tmp_path)
        assert sim.counts.downloads == downloads
    assert names(tmp_path) == []


async def test_downloads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, downloads_in_flight=2)

    async def handler(_: Request) -> Answer:
        await asyncio.sleep(0.05)
        return Answer(200, PNG)

    with serve(handler) as server:
        made = made_of([f"{server.url}/{n}" for n in range(8)], server.url)
        assert len(await save_in(made, tmp_path)) == 8
        assert server.most_under_way == 2
