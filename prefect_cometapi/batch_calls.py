"""A batch from the side of its caller: inputs are read where the caller is, in his own way.

A sync iterable is read in the caller's thread, an async one on the caller's loop, so that database
connections, generators and Prefect's contexts work in them as anywhere else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import anyio
from prefect.context import TaskRunContext

from prefect_cometapi import orders, portal, stops
from prefect_cometapi.batch import Batch, End, Offered
from prefect_cometapi.batch_models import BatchItem, BatchResult, Input, PredictionRequest
from prefect_cometapi.batch_records import default_ledger, held_journal, read_journal
from prefect_cometapi.batch_rules import LOCAL_MOST, Budget, check_count, ending
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import CometAPIError, InvalidInput
from prefect_cometapi.lifecycle import check_attempts, check_timeout
from prefect_cometapi.limits import open_limit
from prefect_cometapi.prefect_api import current_scope, deployment_id, lineage
from prefect_cometapi.provenance_files import circumstances_here
from prefect_cometapi.storage import Storage, check_prefix, check_writable, open_storage
from prefect_cometapi.stores import Folder
from prefect_cometapi.tally import BatchObserver, BatchOptions
from prefect_cometapi.workshop import Workshop

Inputs = Iterable[Input] | AsyncIterable[Input]

#: What could be iterated over, and is not meant.
_NO_INPUTS = (str, bytes, Mapping)
#: So many inputs are read between two looks at what has ended, or as many as come in so many
#: seconds: what makes its rows slowly must not keep the first of them waiting.
CHUNK, CHUNK_SECONDS = 50, 0.05


@dataclass(frozen=True)
class BatchCall:
    """What was asked for; see `run_predictions`."""

    client: CometAPIClient
    options: BatchOptions
    storage: Storage | None
    observer: BatchObserver
    #: None: only what ends the batch early is raised.
    allow_failures: float | None = 0
    scope: str | None = None
    ledger: Storage | None = None
    local_ledger: bool = False
    max_predictions: int | None = None
    max_cost: float | None = None
    limit: str | None = None

    def check(self) -> None:
        """Refuse what can not be right, before anything is read or sent.

        Raises:
            InvalidInput: Says what.
        """
        options = self.options
        orders.check_request(options.model, {}, scope=self.scope)
        orders.check_choice("on_in_doubt", options.on_in_doubt, ("raise", "resubmit"))
        check_attempts(options.attempts)
        check_timeout(options.prediction_timeout, options.on_timeout)
        if options.batch_timeout is not None:
            check_timeout(options.batch_timeout)
        check_count("in_flight", options.in_flight)
        for name, value in (("retry_failed", options.retry_failed), ("dry_run", options.dry_run)):
            if not isinstance(value, bool):
                raise InvalidInput(f"{name} is {value!r:.80}; it is True or False.")
        if options.provenance and self.storage is None:
            raise InvalidInput(
                "provenance=True writes beside the files, and storage is None, which saves none. "
                "Nothing was sent."
            )
        if self.allow_failures is not None:
            check_count("allow_failures", self.allow_failures, least=0, share=True)
        if options.stop_after_failures is not None:
            check_count("stop_after_failures", options.stop_after_failures, share=True)
        if self.max_predictions is not None:
            check_count("max_predictions", self.max_predictions)
        cost = self.max_cost
        number = isinstance(cost, int | float) and not isinstance(cost, bool)
        if cost is not None and not (number and 0 < cost < math.inf):
            raise InvalidInput(f"max_cost is {cost!r:.80}; it is a positive number.")


class OpenBatch:
    """A batch that is open, for a caller anywhere."""

    def __init__(self, call: BatchCall, inputs: Inputs) -> None:
        call.check()
        self._call, self._sizes = call, _sizes(inputs, call.options.model)
        self._size = None if self._sizes is None else self._sizes.total()
        self._stack = AsyncExitStack()
        self._batch: Batch | None = None
        self._result: BatchResult | None = None
        self._fine = False

    @property
    def batch(self) -> Batch:
        """The batch."""
        assert self._batch is not None  # noqa: S101 - for the type checker
        return self._batch

    @portal.on_background_loop
    async def open(self) -> None:
        """Check all that can be checked, and hold the records."""
        await stops.guarded(self._open)  # it may have to wait for another process

    async def _open(self) -> None:
        call, options, size = self._call, self._call.options, self._size
        settings = call.client.settings
        budget = Budget(settings.prices, call.max_predictions, call.max_cost)
        budget.check_price(options.model)
        if self._sizes is not None:
            budget.check_sizes(self._sizes)
        prefix, store = check_prefix(options.prefix), None
        if call.storage is not None:
            await check_writable(call.storage, prefix)
            store = await open_storage(call.storage)
        ledger = default_ledger(call.storage, settings) if call.ledger is None else call.ledger
        await check_writable(ledger)
        await self._check_local(ledger, budget)
        limit = await open_limit(call.limit) if call.limit is not None else None
        flow_runs = [str(run) for run in await lineage()]
        scope = call.scope or await current_scope()
        hold = (
            read_journal(ledger, scope)
            if options.dry_run
            else held_journal(ledger, scope, flow_runs, call.observer.trouble)
        )
        held = await self._stack.enter_async_context(hold)
        budget.made = held.made
        # A batch waits out what would fail one prediction: it has a deadline of its own.
        patience = min(options.prediction_timeout, 86_400.0)
        patient = settings.model_copy(
            update={"submit_timeout": math.inf, "reconnect_timeout": patience}
        )
        client = call.client.telling(call.observer.trouble, patient)
        options = replace(options, scope=scope, prefix=prefix)
        shop = Workshop(
            client,
            options,
            held.journal,
            store,
            flow_runs,
            budget,
            call.observer,
            limit.take if limit else None,
        )
        shop.tally.expected = size
        if options.provenance:
            shop.circumstances = await circumstances_here()
        self._batch = Batch(shop, held.journal, next(held.calls))
        self._batch.start()

    async def _check_local(self, ledger: Storage, budget: Budget) -> None:
        """Records on a disk that goes with the pod would be paid for a second time."""
        here = isinstance(await open_storage(ledger), Folder)
        if not here or self._call.local_ledger or not await deployment_id():
            return
        what = (
            "This run is deployed, and keeps its records in a folder of this machine: where that "
            "goes with the machine, a retry pays for everything again. Keep them on a storage "
            "block (ledger=, or the setting `ledger`), or say local_ledger=True"
        )
        if self._size is not None and self._size >= LOCAL_MOST:
            raise InvalidInput(f"{what}. Nothing was sent.")
        self._call.observer.trouble(f"{what}. It is refused from {LOCAL_MOST} items on.")
        if budget.most is None or budget.most > LOCAL_MOST:
            budget.most, budget.most_because = LOCAL_MOST, f"{what}. So {LOCAL_MOST} are enough"

    @portal.on_background_loop
    async def step(
        self, offered: Sequence[Offered] = (), *, for_room: bool = True
    ) -> tuple[list[BatchItem], int]:
        """See `Batch.step`."""
        return await self.batch.step(offered, for_room=for_room)

    @portal.on_background_loop
    async def offer(self, each: Offered) -> bool:
        """See `Batch.offer`."""
        return await self.batch.offer(each)

    def taken(self) -> None:
        """See `Batch.taken`."""
        portal.background_loop().call_soon_threadsafe(self.batch.taken)

    @portal.on_background_loop
    async def finish(self) -> BatchResult:
        """See `Batch.finish`; raises where it did not go as the caller allows."""
        result = await self.batch.finish()
        self._result = result
        error, cause = ending(result, self._call.allow_failures), self.batch.shop.cause
        # A dry run only tells what is wrong, unless it could not look at all inputs.
        self._fine = error is None or (result.dry_run and cause is None)
        if error is None or self._fine:
            return result
        if not self._call.client.settings.prompts and not isinstance(cause, CometAPIError):
            cause = None  # what reads the inputs may quote them, and Prefect logs tracebacks
        raise error from cause

    @portal.on_background_loop
    async def close(self) -> None:
        """Stop what is under way, and let go of the records."""
        try:
            if self._batch is not None:
                await self._batch.close()
        finally:
            await portal.uninterrupted(self._stack.aclose())
        if self._batch is not None:
            shop = self.batch.shop
            await shop.observer.closed(
                shop.store, shop.options, shop.tally, self._result, fine=self._fine
            )


def as_offered(item: object) -> Offered:
    """An item as it came, or what is wrong with it."""
    if isinstance(item, PredictionRequest):
        return item
    if isinstance(item, Mapping):
        return PredictionRequest.model_construct(input=dict(item))
    return InvalidInput(
        f"An item is a {type(item).__name__}; it is the model's input as a dict, or a "
        "PredictionRequest. Nothing was sent for it."
    )


def check_again(inputs: object) -> None:
    """Refuse inputs that an earlier try of the same task run has read, or a part of them.

    Raises:
        InvalidInput: Prefect tries the task again, and the inputs can be read only once.
    """
    context = TaskRunContext.get()
    again = context is not None and context.task_run.run_count > 1
    if again and isinstance(inputs, Iterator | AsyncIterator):
        raise InvalidInput(
            "Prefect tries this task again, and its inputs are a generator, of which the first try "
            "has read a part. Give a list, or let the flow be retried instead of the task: its "
            "scope is the same. Nothing was sent by this try."
        )


def _sizes(inputs: object, model: str) -> Counter[str] | None:
    """How many items of each model there are, where that can be known without reading them."""
    if isinstance(inputs, list | tuple):
        return Counter(
            (item.model if isinstance(item, PredictionRequest) else None) or model
            for item in inputs
        )
    try:
        return Counter({model: len(inputs)})  # type: ignore[arg-type]
    except TypeError:
        return None


def _chunk(items: Iterator[Input], most: int) -> list[Offered]:
    """The next items; with their end, or with what came in place of one."""
    offered, until = list[Offered](), time.monotonic() + CHUNK_SECONDS
    try:
        for item in items:
            offered.append(as_offered(item))
            if len(offered) >= most or time.monotonic() >= until:
                return offered
        end = End()
    except Exception as error:  # what is under way is brought home all the same
        end = End(error)
    return [*offered, end]


def drive(call: BatchCall, inputs: Inputs) -> Generator[BatchItem, None, BatchResult]:
    """Run a batch from sync code; yields what has ended, returns the result."""
    if not isinstance(inputs, Iterable) or isinstance(inputs, _NO_INPUTS):
        raise InvalidInput(
            f"The inputs are a {type(inputs).__name__}; they are an iterable of dicts (of an async "
            "one in the async twin). Nothing was sent."
        )
    check_again(inputs)
    batch = OpenBatch(call, inputs)
    try:
        portal.call(batch.open)
        items, offered = iter(inputs), list[Offered]()
        while True:
            ended, room = portal.call(batch.step, offered)
            yield from ended
            if not ended and not room:
                return portal.call(batch.finish)
            offered = _chunk(items, min(room, CHUNK)) if room else []
    finally:
        portal.call(batch.close)


async def adrive(
    call: BatchCall, inputs: Inputs, results: list[BatchResult]
) -> AsyncGenerator[BatchItem]:
    """Run a batch from async code; yields what has ended, and leaves the result in `results`."""
    if not isinstance(inputs, AsyncIterable | Iterable) or isinstance(inputs, _NO_INPUTS):
        raise InvalidInput(
            f"The inputs are a {type(inputs).__name__}; they are an iterable of dicts, or an async "
            "one. Nothing was sent."
        )
    check_again(inputs)
    batch, feeding = OpenBatch(call, inputs), None
    try:
        await batch.open()
        feeding = asyncio.create_task(_feed(batch, inputs))
        while ended := (await batch.step(for_room=False))[0]:
            for item in ended:
                batch.taken()
                yield item
        results.append(await batch.finish())
    finally:
        # Prefect's time-outs are anyio's, which cancel again at every turn of the loop.
        with anyio.CancelScope(shield=True):
            if feeding is not None:
                feeding.cancel()
                await asyncio.wait([feeding], timeout=portal.CLEAN_UP)
            await batch.close()


async def _feed(batch: OpenBatch, inputs: Inputs) -> None:
    end = End()
    try:
        if isinstance(inputs, AsyncIterable):
            async for item in inputs:
                if not await batch.offer(as_offered(item)):
                    return
        else:
            for item in inputs:
                if not await batch.offer(as_offered(item)):
                    return
    except Exception as error:  # what is under way is brought home all the same
        end = End(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        end = End(RuntimeError("reading them was canceled from within"))
    await batch.offer(end)
