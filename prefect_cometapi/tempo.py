"""When this process polls: whoever waits for a prediction learns from all others of its model.

All of it belongs to the background loop (`portal`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from prefect_cometapi import remembered
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.learning import CHANGE, RunTimes, Turn, run_time
from prefect_cometapi.models import Prediction
from prefect_cometapi.pace import crowded
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.urls import is_loopback

#: Seconds until run times are written down again, or asked for again where no answer came.
AGAIN = 30.0
#: A poll that is due within so many seconds is due.
SOON = 0.005

_random = Random()  # noqa: S311 - spreads polls out, guards nothing


def waiting(client: CometAPIClient, prediction: Prediction, started: float) -> Wait:
    """Begin to wait for a prediction; call it on the background loop.

    Args:
        client: Whose settings say how often it may be polled.
        prediction: As it was seen last.
        started: When it was created, on `time.monotonic`; now, where that is not known.
    """
    everybody = _everybody.setdefault(asyncio.get_running_loop(), _Everybody())
    settings, model = client.settings, prediction.model
    if prediction.submitted_at is None:
        model = ""  # its age is not known either, so it neither learns nor teaches
    key = (client.api_root, model, settings.poll_min, settings.poll_share)
    if key not in everybody.tempos:
        everybody.tempos[key] = Tempo(everybody, client.api_root, model, settings)
    return Wait(everybody.tempos[key], prediction, started, settings)


def remembers(settings: CometAPISettings, prediction: Prediction) -> bool:
    """Whether Prefect's server is asked for the run times of others like it, and told of its own.

    Only where its record says that the ledger on that server is in use: without one it may be a
    temporary server, which is not started for this. And not of a service on this machine: the
    simulator has another port each time.
    """
    host = urlsplit(prediction.api_root).hostname or ""
    return settings.remember_pace and prediction.record_key is not None and not is_loopback(host)


class Wait:
    """The wait for one prediction, within `with`."""

    def __init__(
        self, tempo: Tempo, prediction: Prediction, started: float, settings: CometAPISettings
    ) -> None:
        self._tempo, self._started = tempo, started
        self._remembers = remembers(settings, prediction)
        self._turn = Turn(self._age(), _random, settings.poll_min, settings.poll_max)
        self._runs = 0.0
        self._ended: float | None = None
        self._come: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    def __enter__(self) -> Self:
        self._tempo.join(self, remembers=self._remembers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tempo.leave(self, self._ended)

    async def due(self, deadline: float) -> None:
        """Wait until it is polled next, but not beyond a deadline on `time.monotonic`."""
        self._come, self._deadline = asyncio.get_running_loop().create_future(), deadline
        self.plan()
        try:
            await self._come
        finally:
            self._come = None
            if self._timer is not None:
                self._timer.cancel()

    def plan(self) -> None:
        """Look again when it is due: others have come or gone, or something was learned."""
        if self._come is None or self._come.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        age = self._age()
        due = self._turn.due(age, self._tempo.run_times.pace, self._tempo.crowd())
        pause = min(due - age, self._deadline - time.monotonic())
        if pause <= SOON:
            self._come.set_result(None)
        else:
            self._timer = self._come.get_loop().call_later(pause, self.plan)

    def polled(self, prediction: Prediction, asked: float) -> None:
        """It was polled.

        Args:
            prediction: As it was seen.
            asked: When it was asked for, on `time.monotonic`.
        """
        self._turn.polled(self._age())
        if prediction.running:
            self._runs = asked - self._started
            self._tempo.run_times.runs(self, self._runs)
        self._ended = run_time(prediction, self._runs, self._age())

    def _age(self) -> float:
        return time.monotonic() - self._started


class Tempo:
    """One model's predictions that this process waits for, and what is known of their run times."""

    def __init__(
        self, everybody: _Everybody, api_root: str, model: str, settings: CometAPISettings
    ) -> None:
        self._everybody, self._api_root, self._model = everybody, api_root, model
        self.run_times = RunTimes(settings.poll_share, settings.poll_min)
        self._waits: set[Wait] = set()
        #: When Prefect's server may be asked, and whether it has told what it knows: until then,
        #: writing would lose that.
        self._next_read, self._recalled = -math.inf, False
        self._next_write, self._written = -math.inf, 0
        self._write: asyncio.TimerHandle | None = None

    def join(self, wait: Wait, *, remembers: bool) -> None:
        """Somebody begins to wait; Prefect's server may be asked what is known."""
        self._waits.add(wait)
        self._everybody.changed(self, bool(self._waits), +1)
        if self._model:
            self.run_times.began(wait)
        now = time.monotonic()
        if remembers and self._model and not self._recalled and now >= self._next_read:
            self._next_read = now + AGAIN
            self._everybody.in_background(self._recall())

    def leave(self, wait: Wait, ended: float | None) -> None:
        """Somebody has found out when it ended, or waits no more."""
        self._waits.discard(wait)
        if self.run_times.ended(wait, ended):
            self.plan()
        self._everybody.changed(self, bool(self._waits), -1)
        self._write_soon()

    def plan(self) -> None:
        """Something was learned."""
        for wait in self._waits:
            wait.plan()

    def crowd(self) -> float:
        """See `crowded`."""
        return crowded(len(self._waits), self._everybody.number, len(self._everybody.models))

    async def _recall(self) -> None:
        known = await remembered.recall(self._api_root, self._model)
        if known is None:
            return
        self._recalled = True
        if known:
            self.run_times.remember(known)
            self.plan()
        self._write_soon()

    def _write_soon(self) -> None:
        """What is new: at once after the last has left, and in a while while others wait."""
        if not self._recalled or self.run_times.learned == self._written:
            return
        loop, now = asyncio.get_running_loop(), time.monotonic()
        pause = AGAIN if self._waits else max(0.0, self._next_write - now)
        if self._write is not None:
            if self._write.when() <= loop.time() + pause:
                return
            self._write.cancel()
        self._write = loop.call_later(pause, self._write_now)

    def _write_now(self) -> None:
        self._write = None
        if known := self.run_times.known():
            self._written, self._next_write = self.run_times.learned, time.monotonic() + AGAIN
            work = remembered.remember(self._api_root, self._model, known)
            self._everybody.in_background(work)


@dataclass
class _Everybody:
    """All who wait on one event loop."""

    tempos: dict[tuple[object, ...], Tempo] = field(default_factory=dict)
    #: Those that somebody waits for.
    models: set[Tempo] = field(default_factory=set)
    number: int = 0
    #: How many there were when all have planned anew.
    planned: int = 0
    #: asyncio itself forgets tasks that nobody holds.
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def changed(self, tempo: Tempo, waits: bool, by: int) -> None:
        """Somebody came or left. Who waits longer than needed looks again; the others will."""
        (self.models.add if waits else self.models.discard)(tempo)
        self.number += by
        self.planned = max(self.planned, self.number)
        if self.number < (1 - CHANGE) * self.planned:
            self.planned = self.number
            for each in self.models:
                each.plan()

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


#: By event loop: a forked child has a loop of its own, and begins anew.
_everybody: dict[asyncio.AbstractEventLoop, _Everybody] = {}
