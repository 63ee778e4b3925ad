"""Of the outputs that wait for a free place, the one that is deleted first is fetched first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from prefect_cometapi import portal
from prefect_cometapi.connections import expiry_rank
from prefect_cometapi.gate import Gate
from prefect_cometapi.models import OUTPUT_LIFETIME, Prediction
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.stores import Folder
from tests.servers import PNG, Answer, Request, client_for, configure, made_of, serve

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def after(minutes: float | None) -> datetime | None:
    return None if minutes is None else NOON + timedelta(minutes=minutes)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Queue:
    """Tasks at one gate, and the order in which they got in."""

    def __init__(self, places: int) -> None:
        self.gate = Gate(places)
        self.entered: list[str] = []
        self.inside = 0
        self.most_inside = 0
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._go: dict[str, asyncio.Event] = {}

    async def arrive(self, name: str, expires_at: datetime | None) -> None:
        go = self._go[name] = asyncio.Event()

        async def download() -> None:
            async with self.gate.turn(expiry_rank(expires_at)):
                self.entered.append(name)
                self.inside += 1
                self.most_inside = max(self.most_inside, self.inside)
                try:
                    await go.wait()
                finally:
                    self.inside -= 1

        self.tasks[name] = asyncio.create_task(download())
        await settle()

    async def finish(self, name: str) -> None:
        self._go[name].set()
        await settle()

    async def finish_all(self) -> None:
        for go in self._go.values():
            go.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def all_places(gate: Gate, places: int) -> None:
    """Fails where the gate has more or fewer free places."""
    turns = [gate.turn() for _ in range(places + 1)]
    async with asyncio.timeout(1):
        for turn in turns[:places]:
            await turn.__aenter__()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await turns[places].__aenter__()
    for turn in turns[:places]:
        await turn.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("arriving", "order"),
    [
        ([1, 2, 3], [0, 1, 2]),
        ([3, 1, 2], [1, 2, 0]),
        ([None, 3, None, 1], [3, 1, 0, 2]),  # nothing is known: last
        ([2, 2, 2], [0, 1, 2]),  # in order of arrival
        ([None, None, None], [0, 1, 2]),
        ([2, 1, 2, 1], [1, 3, 0, 2]),
        ([1, -5], [1, 0]),  # already over, by our clock: soonest of all
    ],
)
async def test_what_expires_first_gets_the_next_place(
    arriving: Sequence[float | None], order: Sequence[int]
) -> None:
    queue = Queue(1)
    await queue.arrive("first", after(60))  # has the place, and keeps it
    for number, minutes in enumerate(arriving):
        await queue.arrive(str(number), after(minutes))
    assert queue.entered == ["first"]
    await queue.finish("first")
    for number in order:
        assert queue.entered[-1] == str(number)
        await queue.finish(str(number))
    assert queue.most_inside == 1
    await all_places(queue.gate, 1)


async def test_free_places_are_taken_at_once_whatever_expires_when() -> None:
    queue = Queue(3)
    for number, minutes in enumerate([None, 5, 1, 0]):
        await queue.arrive(str(number), after(minutes))
    assert queue.entered == ["0", "1", "2"]
    await queue.finish_all()
    assert queue.most_inside == 3
    await all_places(queue.gate, 3)


async def test_a_place_that_is_handed_over_can_not_be_taken_by_who_comes_just_then() -> None:
    queue = Queue(1)
    await queue.arrive("a", None)
    await queue.arrive("waiting", after(5))
    queue._go["a"].set()
    await asyncio.sleep(0)
    await queue.arrive("late", after(0))
    assert queue.entered == ["a", "waiting"]
    await queue.finish_all()
    assert queue.most_inside == 1


async def test_one_who_is_canceled_while_waiting_neither_keeps_nor_loses_a_place() -> None:
    queue = Queue(1)
    for name, minutes in (("a", 9), ("b", 1), ("c", 2), ("d", 3)):
        await queue.arrive(name, after(minutes))
    queue.tasks["b"].cancel()
    queue.tasks["d"].cancel()
    await queue.finish("a")
    assert queue.entered == ["a", "c"]
    assert queue.tasks["b"].cancelled()
    await queue.finish_all()
    await all_places(queue.gate, 1)


async def test_one_who_is_canceled_as_it_is_given_a_place_passes_it_on() -> None:
    queue = Queue(1)
    async with queue.gate.turn():
        await queue.arrive("b", after(1))
        await queue.arrive("c", after(2))
    # Nothing has run since the place was handed to b.
    queue.tasks["b"].cancel()
    await settle()
    assert queue.tasks["b"].cancelled()
    assert queue.entered == ["c"]
    await queue.finish_all()
    await all_places(queue.gate, 1)


async def test_one_who_is_canceled_or_fails_inside_leaves_its_place() -> None:
    queue = Queue(1)
    await queue.arrive("a", None)
    await queue.arrive("b", None)
    queue.tasks["a"].cancel()
    await settle()
    assert queue.entered == ["a", "b"]
    await queue.finish_all()
    with pytest.raises(ZeroDivisionError):
        async with queue.gate.turn():
            raise ZeroDivisionError
    await all_places(queue.gate, 1)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_no_place_is_lost_or_made_up(seed: int) -> None:
    random, places = Random(seed), 3  # noqa: S311
    gate, inside, most = Gate(places), 0, 0

    async def download() -> None:
        nonlocal inside, most
        expires_at = random.choice([None, after(random.randrange(5))])
        async with gate.turn(expiry_rank(expires_at)):
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(random.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(download()))
        if random.random() < 0.5:
            await asyncio.sleep(0)
        if random.random() < 0.4:
            random.choice(tasks).cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert (inside, most) == (0, places)
    await all_places(gate, places)


# --- from predictions to requests -------------------------------------------------------------


def made(name: str, root: str, completed_at: datetime | None, outputs: int = 1) -> Prediction:
    output = [f"{root}/{name}/{number}" for number in range(outputs)]
    return made_of(output, root, id=name, completed_at=completed_at)


async def saved_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, of: Callable[[str], list[Prediction]]
) -> list[str]:
    """Save them all through one place that is taken at first, and see what is asked for when."""
    configure(monkeypatch, downloads_in_flight=1)
    open_up = threading.Event()
    first_asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def handler(request: Request) -> Answer:
        if request.target.startswith("/first"):
            loop.call_soon_threadsafe(first_asked.set)
            await asyncio.to_thread(open_up.wait, 10)
        return Answer(200, PNG)

    with serve(handler) as server:
        client = client_for(server.url)

        async def save(prediction: Prediction) -> None:
            await portal.acall(save_outputs, client, prediction, Folder(folder))

        tasks = [asyncio.create_task(save(made("first", server.url, None)))]
        await first_asked.wait()
        for prediction in of(server.url):
            tasks.append(asyncio.create_task(save(prediction)))
            await asyncio.sleep(0.05)  # they arrive in this order
        open_up.set()
        await asyncio.gather(*tasks)
        return [request.target for request in server.requests][1:]


async def test_predictions_that_were_done_first_are_fetched_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    order = await saved_in_order(
        tmp_path,
        monkeypatch,
        lambda root: [
            made("unknown", root, None),
            made("fresh", root, now, 2),
            made("late", root, now - OUTPUT_LIFETIME + timedelta(minutes=1)),
            made("half", root, now - OUTPUT_LIFETIME / 2, 2),
        ],
    )
    assert order[0] == "/late/0"
    assert sorted(order[1:3]) == ["/half/0", "/half/1"]
    assert sorted(order[3:5]) == ["/fresh/0", "/fresh/1"]
    assert order[5] == "/unknown/0"


async def test_a_time_of_completion_that_makes_no_sense_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [datetime.max.replace(tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]
    order = await saved_in_order(
        tmp_path,
        monkeypatch,
        lambda root: [made(f"odd{n}", root, moment) for n, moment in enumerate(odd)],
    )
    assert order == ["/odd1/0", "/odd0/0"]
