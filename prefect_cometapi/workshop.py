"""What the items of a batch share: the API, the storage, the records, and what may be created."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from prefect_cometapi.batch_models import PredictionRequest
from prefect_cometapi.batch_records import Permitted
from prefect_cometapi.batch_rules import Budget, NotSent
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.journal import Journal
from prefect_cometapi.ledger import Record
from prefect_cometapi.provenance import Circumstances
from prefect_cometapi.stores import Store
from prefect_cometapi.tally import BatchObserver, BatchOptions, Tally

#: Creates under way or in line at once: at half a second each, eighty a second. The rest wait here,
#: where nothing is promised to them yet when a batch has to stop.
CREATES = 40


def check_plain(request: PredictionRequest) -> None:
    """Refuse what could not be written into the manifest.

    Raises:
        InvalidInput: Its labels or its origin are not plain JSON values.
    """
    for name, value in (("labels", request.labels), ("origin", request.origin)):
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"The {name} of an item are not plain JSON values: {error}. Nothing was sent."
            ) from None


class Workshop:
    """What the items of a batch share.

    Args:
        client: The API to use.
        options: What is wanted.
        index: What the records say.
        records: The records.
        store: Where outputs go; None for nowhere.
        flow_runs: Whose work it is.
        budget: What may be created.
        observer: Told how it goes on.
        before_create: Awaited before each create: a limit that other processes share.

    Attributes:
        tally: How far the batch is.
        halted: Why nothing more is sent; empty while something is.
        cause: The error that is behind that, where there is one.
    """

    def __init__(
        self,
        client: CometAPIClient,
        options: BatchOptions,
        journal: Journal,
        store: Store | None,
        flow_runs: list[str],
        budget: Budget,
        observer: BatchObserver,
        before_create: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.client, self.options, self.store = client, options, store
        self.index = journal.index
        self.records = Permitted(journal, self._permit, self._go_on, budget.give_back)
        self.flow_runs, self.budget, self.observer = flow_runs, budget, observer
        self.before_create, self.creating = before_create, asyncio.Semaphore(CREATES)
        self.tally, self.halted = Tally(created=budget.created), ""
        client.repeated = self.tally.sent_again
        #: Whose run this is, for the provenance beside each file; None writes none.
        self.circumstances: Circumstances | None = None
        self.cause: BaseException | None = None
        #: Called when nothing more is sent.
        self.at_halt: Callable[[], object] = lambda: None
        self.at_end = asyncio.Event()

    def halt(self, why: str, cause: BaseException | None = None) -> None:
        """Send nothing more; what is under way goes on to its end."""
        if not self.halted:
            self.halted, self.cause = why, cause
            self.at_end.set()
            self.observer.trouble(f"The batch sends nothing more: {why}")
            self.at_halt()

    def go_on(self) -> None:
        """Ask whether anything may still be sent.

        Raises:
            NotSent: No more.
        """
        if self.halted:
            raise NotSent("Nothing was sent, because the batch has ended.")

    def _go_on(self) -> None:
        # What was permitted before a bound was reached is within it.
        if self.cause is not None:
            self.go_on()

    def _permit(self, record: Record) -> None:
        self.go_on()
        if why := self.budget.objection(record.model):
            self.halt(f"{why}.")
            raise NotSent(f"Nothing was sent: {why}.")
        self.budget.take(record.model)
