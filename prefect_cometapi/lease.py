"""Which process is at work on a batch: one at a time, known on Prefect's server by one Variable.

Prompts that are being written are held in the same way.

Creating a Variable that exists fails, so one of many is first. The holder renews it; whoever finds
it unrenewed for long enough, by the server's own clock, takes its place. A holder that could not
renew sends nothing more until it has, so two never pay for the same. The Variable stays when the
batch is over: it says where the records of the scope are.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists

from prefect_cometapi.errors import LedgerError
from prefect_cometapi.holders import Holder
from prefect_cometapi.holdings import (
    SCOPE,
    TAG,
    Holding,
    Place,
    as_ledger_error,
    delete,
    read,
    request,
    variable_name,
)
from prefect_cometapi.ledger import run_scope
from prefect_cometapi.portal import interruption_waits, uninterrupted
from prefect_cometapi.prefect_api import ask

#: How often a holder says that it is there, in seconds.
RENEW = 15.0
#: For how long after that it may send creates, in seconds: four renewals.
VALID = 60.0
#: After how many seconds without one it counts as dead: a create that was sent in the last valid
#: moment has been answered or given up by then, with the default time-outs.
EXPIRES = 130.0
#: How long a holder that comes back late waits whether somebody was about to take its place.
SECOND_LOOK = 5.0
#: How often it is looked whether the lease is valid again, in seconds.
GLANCE = 0.2
#: How often one who waits for another looks, in seconds.
LOOK = 2.0


class Lease:
    """The right of this process to send creates of a scope. Belongs to the background loop.

    Attributes:
        runs: How many runs have worked on the batch before.
    """

    def __init__(self, holding: Holding, tags: list[str], what: str) -> None:
        self.runs = holding.runs
        self._holding, self._tags, self._what = holding, tags, what
        self._id: UUID | None = None
        self._valid_until = -math.inf
        self._lost = ""
        self._not_before, self._wall = -math.inf, -math.inf
        self._renewing: asyncio.Task[None] | None = None

    @classmethod
    async def take(
        cls,
        scope: str,
        place: Place,
        flow_runs: list[str],
        notify: Callable[[str], object],
        *,
        tag: str = TAG,
        what: str = "",
    ) -> Lease:
        """Wait until nobody else is at work on the batch, and hold it.

        Args:
            scope: The batch's.
            place: Where its records are.
            flow_runs: Whom it can be found by, too.
            notify: Told when it has to wait.
            tag: What marks its Variable, where it is no batch.
            what: What it is then, in words.

        Raises:
            InvalidInput: Its records are in another place.
            LedgerError: Prefect's server could not be used. Nothing was sent.
        """
        me = Holder.this_process()
        tags = [tag, SCOPE + scope, *(SCOPE + run_scope(run) for run in flow_runs)]
        what, told = what or f"the batch of scope {scope!r}", False
        while True:
            began, taken_over = _now(), False
            found = await read(scope)
            runs = 0
            if found is not None:
                known, age, _ = found
                known.check_place(place)
                runs = known.runs
                if not _is_free(known, age):
                    if not told:
                        host = known.holder.host if known.holder else "?"
                        notify(
                            f"Another process ({host}) is at work on {what}, or was {age:.0f} s "
                            "ago when it died; waiting until it is done, or has not been heard of "
                            f"for {EXPIRES:.0f} s."
                        )
                        told = True
                    await asyncio.sleep(LOOK)
                    continue
                taken_over = known.holder is not None and not known.holder.is_dead
            lease = cls(
                Holding(
                    scope=scope,
                    place=place.reference,
                    identity=place.identity,
                    runs=runs,
                    holder=me,
                ),
                list(dict.fromkeys(tags)),
                what,
            )
            try:  # in one step: without the Variable nobody knows where the records are
                there = await uninterrupted(lease._take_the_place_of(found and found[2]))
            except asyncio.CancelledError:
                await uninterrupted(lease.release(found[0].left if found else 0))
                raise
            if there:
                # One that was slow to be deleted may have been renewed since it was looked at, and
                # be believed in for as long.
                slow = taken_over and _now() - began > SECOND_LOOK / 2
                lease._not_before = _now() + VALID if slow else -math.inf
                lease._hold(began)
                lease._renewing = asyncio.create_task(lease._renew_for_ever())
                return lease

    async def held(self) -> None:
        """Wait until the lease is valid, right before something is paid for.

        Raises:
            LedgerError: Another process has taken it.
        """
        while not self._lost and not self._is_valid():
            if interruption_waits():  # this is awaited where interruptions are held up
                raise LedgerError("It was interrupted before the lease was valid.")
            await asyncio.sleep(GLANCE)
        if self._lost:
            raise LedgerError(self._lost)

    def _is_valid(self) -> bool:
        # The wall clock goes on where a whole virtual machine was paused.
        asleep = time.time() - self._wall >= VALID
        return self._not_before <= _now() < self._valid_until and not asleep

    async def write_runs(self, runs: int) -> None:
        """Say how many runs have worked on the batch.

        Raises:
            LedgerError: It could not be written.
        """
        self._holding = self._holding.model_copy(update={"runs": runs})
        if not await self._renew():
            raise LedgerError(f"{self._lost or 'The batch could not be held.'} Nothing was sent.")

    async def release(self, left: int | None = None, *, forget: bool = False) -> None:
        """Let the next one have it at once. Never fails: without, the next one waits a little.

        Args:
            left: How many records have something left to do, where that is known.
            forget: Nothing has to be known of it any more.
        """
        if self._renewing is not None:
            self._renewing.cancel()
        self._holding = self._holding.model_copy(update={"holder": None, "left": left})
        with suppress(Exception):
            if not self._lost and self._id is not None:
                await (delete(self._id) if forget else self._write())
        self._lost = self._lost or "It is over."

    async def _take_the_place_of(self, other: UUID | None) -> bool:
        if other is not None:
            await delete(other)
        return await self._create()

    async def _create(self) -> bool:
        new = VariableCreate(
            name=variable_name(self._holding.scope), value=self._value(), tags=self._tags
        )
        with as_ledger_error():
            try:
                made = await ask(lambda client: client.create_variable(new))
            except ObjectAlreadyExists:
                # Perhaps by this process, and only the answer was lost.
                found = await read(self._holding.scope)
                if found is None or found[0].holder != self._holding.holder:
                    return False
                self._id = found[2]
                return True
        self._id = made.id
        return True

    def _hold(self, since: float) -> None:
        self._valid_until, self._wall = since + VALID, time.time() - (_now() - since)

    async def _renew_for_ever(self) -> None:
        while not self._lost:
            await asyncio.sleep(RENEW)
            with suppress(Exception):  # the next time, or never: then nothing is sent
                await self._renew()

    async def _renew(self) -> bool:
        late = not self._is_valid() and _now() >= self._not_before
        began = _now()
        there = await self._write()
        if there and late:
            # Somebody may have seen it expired, and be between his look and his claim.
            await asyncio.sleep(SECOND_LOOK)
            began = _now()
            there = await self._write()
        if there:
            self._hold(began)
            return True
        self._lost = (
            f"Another process has taken {self._what} over, because this one was not heard of for "
            "too long. Nothing more is sent from here."
        )
        return False

    async def _write(self) -> bool:
        """Renew the Variable; False where it is another's by now."""
        change = {"value": self._value(), "tags": self._tags}
        reply = await request("PATCH", f"/variables/{self._id}", urgent=True, json=change)
        return reply is not None

    def _value(self) -> Any:
        # Something has to change, or the server may leave the time of the change as it was.
        seen = datetime.now(UTC).isoformat()
        return self._holding.model_copy(update={"seen": seen}).model_dump(mode="json")


def _is_free(holding: Holding, age: float) -> bool:
    """Whether another process may take it, so many seconds after it was renewed."""
    return holding.holder is None or holding.holder.is_dead or age >= EXPIRES


def _now() -> float:
    """Seconds that have passed since some moment, also while the machine slept."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
