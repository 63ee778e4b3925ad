"""Many predictions at once: supervised by one process, bounded, accounted for.

Inputs come in from where the caller is, items go out to there; everything between happens on the
background loop, one asyncio task for each prediction under way (`making`).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from prefect_cometapi import batch_rules, events, portal, settlement, stops
from prefect_cometapi.batch_models import (
    ITEMS_IN_RESULT,
    BatchItem,
    BatchResult,
    ItemStatus,
    PredictionRequest,
)
from prefect_cometapi.errors import InvalidInput, StorageError
from prefect_cometapi.journal import Journal
from prefect_cometapi.making import Making
from prefect_cometapi.orders import Order
from prefect_cometapi.workshop import Workshop, check_plain

#: Seconds for asking the service to cancel, when a person stops a batch: an interrupted run is
#: waited for as long, and some are for what is left.
CANCEL_SECONDS = stops.AT_STOP - 3.0
#: Seconds that writing the manifest may take: a gigabyte, perhaps, to a storage far away.
MANIFEST_TIMEOUT = 600.0
#: After so many in a row that the storage does not take, nothing more is paid for.
STORAGE_FAILURES = 10
#: Why an item is refused, where that may quote its prompt.
UNSAID = "It was refused where it was made; why is not repeated (setting `prompts`)."
#: Seconds between two looks at whether something is to be told.
TICK = 1.0


@dataclass(frozen=True)
class End:
    """No more items can be read; with an error that came in place of one."""

    error: Exception | None = None


#: An item, what is wrong with one, or their end.
Offered = PredictionRequest | InvalidInput | End


class Batch:
    """A batch at work. Belongs to the background loop.

    Args:
        shop: What its items share.
        journal: Its records.
        call: Which call of the journal's scope it is.
    """

    def __init__(self, shop: Workshop, journal: Journal, call: int) -> None:
        self.shop, self.options, self.tally = shop, shop.options, shop.tally
        self.journal, self.call = journal, call
        self._makings: dict[asyncio.Task[None], Making] = {}
        self._ended: deque[BatchItem] = deque()
        #: How many were handed to the caller, who has not taken them yet.
        self._handed = 0
        self._failures: list[BatchItem] = []
        #: How many have ended that no earlier run has paid for, and how many of them went wrong.
        self._new = self._new_failed = 0
        #: Something has happened; nothing is left to do; there is room for more.
        self._changed, self._over, self._vacant = (asyncio.Event() for _ in range(3))
        self._exhausted = self._stopping = False
        #: Why not all inputs were read.
        self._unread = ""
        #: How many in a row the storage has not taken.
        self._not_taken = 0
        self._interrupted: list[Making] = []
        self._broken: BaseException | None = None
        self._running: asyncio.Task[None] | None = None
        shop.at_halt = self._at_halt

    # --- from outside -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; what is offered from now on is made."""
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(lambda _: self._changed.set())

    async def step(
        self, offered: Sequence[Offered] = (), *, for_room: bool = True
    ) -> tuple[list[BatchItem], int]:
        """Take in items, and wait until there is something to tell.

        Args:
            offered: Items.
            for_room: Return also when there is room for more.

        Returns:
            What has ended since, and for how many items there is room. Nothing and none: it is
            over.

        Raises:
            CancelledError: The batch was stopped.
        """
        self._handed = 0
        for each in offered:
            self._take(each)
        while True:
            if self._broken:
                raise self._broken
            if self._running is not None and self._running.done():
                self._running.result()  # raises what it ended with
            room = 0 if self._exhausted or self._no_more else self._room()
            if self._ended or (for_room and room > 0) or self._is_over():
                ended = list(self._ended)
                self._ended.clear()
                if self._is_over():
                    self._over.set()
                self._handed = len(ended)
                return ended, room
            self._changed.clear()
            await self._changed.wait()

    def taken(self) -> None:
        """The caller has taken one of the items that `step` has told of."""
        self._handed = max(0, self._handed - 1)
        self._room()

    async def offer(self, each: Offered) -> bool:
        """Take in one item when there is room for it; returns whether more are wanted."""
        while not self._room() and not self._no_more:
            await self._vacant.wait()
        self._take(each)
        return not self._no_more

    async def close(self) -> None:
        """Stop what is still under way, as an interruption does."""
        if self._running is not None:
            if not self._over.is_set():
                self._running.cancel()
            # Its creates under way are brought to their end, and that is waited for.
            await portal.uninterrupted(asyncio.wait([self._running]))

    async def finish(self) -> BatchResult:
        """Write the manifest, and tell what became of all; closes the batch."""
        await self.close()
        manifest = None
        if not self.options.dry_run:
            try:
                async with asyncio.timeout(MANIFEST_TIMEOUT):
                    manifest = await self.journal.write_manifest(self.call)
            except Exception as error:  # what became of the items counts for more
                self.shop.observer.trouble(
                    f"The manifest was not written; the journal has all. {error!r}"
                )
        tally = self.tally
        few = tally.ended <= ITEMS_IN_RESULT
        rows = self.journal.index.rows(self.call) if few else ()
        result = tally.result(
            self.options,
            estimated_cost=self.shop.budget.estimate(),
            items=[BatchItem.model_validate_json(row) for row in rows],
            failures=batch_rules.first_failures(self._failures),
            ledger=str(self.journal.store_of_files),
            manifest=manifest,
            stopped=self.shop.halted or self._unread,
        )
        if manifest is not None:
            try:
                summary = events.summary_of(result)
                await self.journal.write_summary(manifest, json.dumps(summary, indent=1))
            except Exception as error:
                self.shop.observer.trouble(f"The summary of the batch was not written. {error!r}")
        await self.shop.observer.finished(result, tally)
        return result

    # --- the run of it ------------------------------------------------------------------------

    async def _run(self) -> None:
        await stops.guarded(self._work, self._stop)

    async def _work(self) -> None:
        timeout, timer = self.options.batch_timeout, None
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, self._out_of_time)
        self.shop.observer.began(self.tally, self.options, str(self.journal.store_of_files))
        try:
            while not self._over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        await self._over.wait()
                await self.shop.observer.tick(self.tally)
        finally:
            if timer is not None:
                timer.cancel()
            self._stopping, self._interrupted = True, list(self._makings.values())
            if left := list(self._makings):
                for task in left:
                    task.cancel()
                # A create that is under way is brought to its end: its id is money.
                await portal.uninterrupted(asyncio.wait(left))

    async def _stop(self, by_a_person: bool) -> None:
        running = [
            making
            for making in self._interrupted
            if making.prediction is not None and making.prediction.running
        ]
        self.tally.left_running = len(running)
        if not by_a_person:
            if running:
                self.shop.observer.trouble(batch_rules.interrupted(len(running)))
            return
        turns = asyncio.Semaphore(settlement.CANCELS)

        async def cancel(making: Making) -> None:
            assert making.prediction is not None  # noqa: S101 - for the type checker
            async with turns:
                await settlement.stop(
                    self.shop.client, self.shop.records, making.prediction, making
                )

        asked = [asyncio.create_task(cancel(making)) for making in running]
        try:
            if asked:
                await asyncio.wait(asked, timeout=CANCEL_SECONDS)
        finally:
            done = sum(task.done() for task in asked)
            for task in asked:
                task.cancel()
            if asked:
                said = batch_rules.stopped_by_a_person(done, len(asked), self.options.scope)
                self.shop.observer.trouble(said)

    @property
    def _no_more(self) -> bool:
        """Whether nothing more is taken in."""
        return self._stopping or bool(self.shop.halted)

    def _is_over(self) -> bool:
        if self._stopping and not self._over.is_set():
            return False  # it was interrupted, and does not end like one that was not
        return (self._exhausted or self._no_more) and not self._makings and not self._ended

    def _room(self) -> int:
        taken = len(self._makings) + len(self._ended) + self._handed
        room = max(0, self.options.in_flight - taken)
        (self._vacant.set if room else self._vacant.clear)()
        return room

    def _at_halt(self) -> None:
        self._vacant.set()
        self._changed.set()

    def _out_of_time(self) -> None:
        self.shop.halt(f"batch_timeout={self.options.batch_timeout:g} s is over.")
        for task, making in self._makings.items():
            if making.creating:  # what is waited for has the same deadline
                making.creating, making.cut_short = False, True
                task.cancel()

    # --- one item -----------------------------------------------------------------------------

    def _take(self, each: Offered) -> None:
        if self._stopping:
            return
        if not isinstance(each, End):
            self._take_in(each)
            return
        self._exhausted = True
        if each.error is not None:  # what was read before is made all the same
            shown = self.shop.client.settings.prompts  # what reads them may quote them
            why = batch_rules.told(each.error) if shown else type(each.error).__name__
            self._unread = f"The inputs could not be read any further: {why}"
            self.shop.cause = self.shop.cause or each.error
            self.shop.observer.trouble(self._unread)
        self._changed.set()

    def _take_in(self, request: PredictionRequest | InvalidInput) -> None:
        number, options = self.tally.looked_at, self.options
        self.tally.looked_at += 1
        refused = request if isinstance(request, InvalidInput) else None
        if isinstance(request, InvalidInput):
            request = PredictionRequest(input={})
        order = Order(
            request.model or options.model,
            request.input,
            request.sample or 0,
            request.key,
            options.scope,
            options.on_in_doubt,
            credentials=options.credentials,
        )
        try:
            if refused:
                raise refused
            order.check()
            check_plain(request)
            if request.refused:
                shown = self.shop.client.settings.prompts  # it may quote the row
                raise InvalidInput(
                    f"{request.refused if shown else UNSAID} Nothing was sent for it."
                )
            self.shop.budget.check_price(order.model)
            making = self._told_apart(number, request, order)
        except InvalidInput as error:
            self._end(self._refused(number, request, order, error))
            return
        if self.options.dry_run:
            self._end(making.planned())
            return
        task = asyncio.create_task(self._make(making))
        self._makings[task] = making
        task.add_done_callback(self._let_go)
        self.tally.under_way += 1

    def _told_apart(self, number: int, request: PredictionRequest, order: Order) -> Making:
        """The item, as a sample that no other item of this call is."""
        making = Making(self.shop, number, request, order)
        before = sample = self.journal.index.count(self.call, making.key)
        if before and (request.sample is not None or order.key is not None):
            what = "input" if order.key is None else f"key ({order.key!r})"
            raise InvalidInput(
                f"Another item has the same {what} and sample ({order.sample}): each needs one of "
                "its own. Nothing was sent for this one."
            )
        # Equal items are that many predictions: the second is sample 1, and so on.
        while before:
            making = Making(self.shop, number, request, replace(order, sample=sample))
            before, sample = self.journal.index.count(self.call, making.key), sample + 1
        return making

    def _refused(
        self, number: int, request: PredictionRequest, order: Order, error: InvalidInput
    ) -> BatchItem:
        plain = {}
        with suppress(InvalidInput):
            check_plain(request)
            plain = {"labels": request.labels, "origin": request.origin}
        return BatchItem(
            number=number,
            status=ItemStatus.REFUSED,
            model=str(order.model),
            key=None if order.key is None else str(order.key),
            **plain,
            error=batch_rules.told(error),
            error_type=type(error).__name__,
            ended_at=datetime.now(UTC),
        )

    def _let_go(self, task: asyncio.Task[None]) -> None:
        del self._makings[task]
        self._room()
        self.tally.under_way -= 1
        self._broken = self._broken or (None if task.cancelled() else task.exception())
        self._changed.set()

    def _end(self, item: BatchItem) -> None:
        self.journal.index.take_row(self.call, item)
        tally = self.tally
        tally.take(item)
        self._new += not item.found
        self._new_failed += not item.found and item.status.failure
        self.shop.observer.ended(item)
        self._ended.append(item)
        self._changed.set()
        refused = item.status is ItemStatus.NOT_SAVED and item.error_type == StorageError.__name__
        self._not_taken = self._not_taken + 1 if refused else 0
        if not item.status.failure:
            return
        if batch_rules.may_be_told(item, self._failures):
            self._failures.append(item)
        if self._not_taken >= STORAGE_FAILURES:
            self.shop.halt(f"the storage did not take {self._not_taken} in a row: {item.error}")
        enough = self.options.stop_after_failures
        if batch_rules.too_many(enough, self._new_failed, self._new):
            self.shop.halt(
                f"{self._new_failed:,} of {self._new:,} items of this run went wrong "
                f"(stop_after_failures={enough}); the last: {item.error}"
            )

    async def _make(self, making: Making) -> None:
        item, known = await making.make()
        if not known:
            try:  # before anybody is told: what was told is remembered
                values = item.model_dump(mode="json", exclude_defaults=True)
                await self.journal.append(making.key, urgent=False, item=values)
            except Exception as error:  # any: one item must not break the batch
                self.shop.halt(batch_rules.told(error), error)
        self._end(item)
