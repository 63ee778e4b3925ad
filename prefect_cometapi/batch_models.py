"""Plain data of batches: what is asked for, what became of each item, and of all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_cometapi.models import SavedFile
from prefect_cometapi.redaction import without_secrets

#: Up to so many items are in the result itself; above, only the manifest in storage holds them.
ITEMS_IN_RESULT = 10_000
#: How many failures an error or a result tells one by one.
SAMPLE = 10


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PredictionRequest(_Data):
    """One item of a batch, where its input alone does not say it all."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    input: dict[str, Any] = Field(description="The model's parameters.")
    model: str | None = Field(default=None, description="Another model than the batch's.")
    key: str | None = Field(
        default=None,
        description="Your own name for the item, such as a row's id, in place of its input: the "
        "same key in the same scope is the same prediction.",
    )
    sample: int | None = Field(
        default=None,
        description="Tells equal items apart: 0, 1, 2, …; None lets the batch count them.",
    )
    labels: dict[str, Any] = Field(
        default_factory=dict, description="Comes back with the result; plain JSON values."
    )
    origin: dict[str, Any] = Field(
        default_factory=dict,
        description="Where the input came from, such as a template and its row: kept beside the "
        "result, and so without secrets and queries of URLs; plain JSON values.",
    )
    refused: str = Field(
        default="",
        description="Why it can not be made, such as a column that its row lacks: it counts as "
        "refused, and nothing is sent for it.",
    )

    @field_validator("key", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        """A row's id is a number more often than not."""
        number = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if number else value

    @field_validator("origin", mode="after")
    @classmethod
    def _as_it_may_be_kept(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Here, before it gets into a journal, a manifest, a result or a provenance."""
        return without_secrets(value)


#: What an item may be given as.
Input = Mapping[str, Any] | PredictionRequest


class Shard(_Data):
    """One of the parts of a batch that is worked on by several processes; see `split_scope`.

    Plain data, so that it travels to any machine, and as a parameter of a deployment.
    """

    of_scope: str = Field(description="The scope of the whole.")
    number: int = Field(ge=1, description="Which one it is, from 1.")
    of: int = Field(ge=1, description="How many there are.")

    @classmethod
    def all_of(cls, scope: str, shards: int) -> list[Self]:
        """All shards of a scope that is split into so many."""
        return [cls(of_scope=scope, number=each + 1, of=shards) for each in range(shards)]

    @property
    def scope(self) -> str:
        """Its own scope, which is what `run_predictions` is to be given."""
        return f"{self.of_scope}, shard {self.number} of {self.of}"

    def takes(self, item: Input) -> bool:
        """Whether an item belongs to this shard: by its key, else by its input.

        Every item belongs to one shard, the same on every machine and in every run.
        """
        key, input = None, item
        if isinstance(item, PredictionRequest):
            key, input = item.key, item.input
        try:
            # Never changes: with another one, items would be paid for again in other shards.
            identity = ["key", key] if key is not None else ["input", dict(input)]
            text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        except (TypeError, ValueError):  # no input at all: refused by one shard, not by each
            return self.number == 1
        digest = hashlib.sha256(text.encode()).digest()
        return int.from_bytes(digest[:8]) % self.of == self.number - 1

    def pick(self, items: Iterable[Input]) -> Iterator[Input]:
        """The items that belong to this shard, read one by one."""
        return filter(self.takes, items)


class ItemStatus(StrEnum):
    """What became of an item."""

    #: Its outputs are in storage.
    SAVED = "saved"
    #: It succeeded, and the batch has no storage: `output` is what the service said.
    SUCCEEDED = "succeeded"
    #: It failed or was aborted.
    FAILED = "failed"
    #: Somebody canceled it.
    CANCELED = "canceled"
    #: Refused, here or by the service, before anything was paid.
    REFUSED = "refused"
    #: It may have been accepted and paid for, and its id is not known.
    IN_DOUBT = "in doubt"
    #: Not finished at its deadline.
    TIMED_OUT = "timed out"
    #: Paid for, and not brought home; it can be collected while the service has it.
    NOT_SAVED = "paid, not saved"
    #: Its outputs were deleted before they were saved.
    EXPIRED = "expired"
    #: A person gave it up.
    ABANDONED = "abandoned"
    #: Nothing was sent, because the batch has ended, or because the service was out of reach.
    NOT_SENT = "not sent"
    #: Only of a dry run: it would be sent.
    PLANNED = "would be sent"
    #: Only of a dry run: it was paid for already, and would be waited for and saved.
    UNDER_WAY = "under way"

    @property
    def good(self) -> bool:
        """True where nothing is left to wish for."""
        return self in (ItemStatus.SAVED, ItemStatus.SUCCEEDED)

    @property
    def failure(self) -> bool:
        """True where something is left to wish for, and nobody has decided that."""
        return not self.good and self not in (
            ItemStatus.ABANDONED,
            ItemStatus.PLANNED,
            ItemStatus.UNDER_WAY,
        )


class BatchItem(_Data):
    """What became of one item."""

    number: int = Field(description="Its place among the inputs, from 0.")
    status: ItemStatus = Field(description="How it ended.")
    model: str = Field(description="Its model, as `owner/name`.")
    key: str | None = Field(default=None, description="Your own name for it, where it has one.")
    sample: int = Field(default=0, description="Which one of equal items it is, from 0.")
    labels: dict[str, Any] = Field(default_factory=dict, description="As its request had them.")
    origin: dict[str, Any] = Field(
        default_factory=dict, description="Where its input came from, without secrets."
    )
    excerpt: str = Field(default="", description="The beginning of the prompt, for people.")
    prediction_id: str | None = Field(default=None, description="The service's id of it.")
    record_key: str | None = Field(default=None, description="Its record in the ledger.")
    attempt: int = Field(default=1, description="Which attempt at the same request it is.")
    found: bool = Field(default=False, description="It was paid for by an earlier run.")
    files: list[SavedFile] = Field(default_factory=list, description="What was saved of it.")
    output: Any = Field(default=None, description="The service's output; only without storage.")
    error: str = Field(default="", description="What went wrong, and what to do next.")
    error_type: str = Field(default="", description="The class of that error.")
    reason: str = Field(
        default="", description="Why it went wrong, in the service's words where it gave any."
    )
    request_id: str | None = Field(
        default=None, description="The service's id of the request that failed, for its support."
    )
    run_time: float | None = Field(default=None, description="Seconds the model ran.")
    queue_time: float | None = Field(default=None, description="Seconds before it was started.")
    delay: float | None = Field(
        default=None,
        description="Seconds from its completion, by the service's clock, until it was known here.",
    )
    saved_after: float | None = Field(
        default=None,
        description="Seconds from its completion, by the service's clock, until it was in storage.",
    )
    polls: int = Field(default=0, description="How often this run has asked for its state.")
    created_at: datetime | None = Field(default=None, description="When the create was sent.")
    ended_at: datetime | None = Field(default=None, description="When it was saved or given up.")

    @property
    def what(self) -> str:
        """The item in words."""
        name = f"key {self.key!r}" if self.key is not None else f"item {self.number}"
        return f'{name} ("{self.excerpt}")' if self.excerpt else name


class Spread(_Data):
    """How a time is spread over items, in seconds."""

    median: float = Field(description="Half took no longer.")
    p95: float = Field(description="95 % took no longer.")
    longest: float = Field(description="What the slowest took.")


class FailedItem(_Data):
    """One of several items that went wrong for the same reason, by what it can be found by."""

    number: int = Field(description="Its place among the inputs, from 0.")
    key: str | None = Field(default=None, description="Your own name for it, where it has one.")
    excerpt: str = Field(default="", description="The beginning of the prompt, for people.")
    prediction_id: str | None = Field(default=None, description="The service's id of it.")
    record_key: str | None = Field(default=None, description="Its record in the ledger.")
    request_id: str | None = Field(
        default=None, description="The service's id of the request that failed, for its support."
    )


class FailureGroup(_Data):
    """Items that went wrong for the same reason."""

    status: ItemStatus = Field(description="How they ended.")
    error_type: str = Field(default="", description="The class of their error.")
    reason: str = Field(default="", description="In the words of the first of them.")
    count: int = Field(default=0, description="How many there are.")
    items: list[FailedItem] = Field(
        default_factory=list, description="The first of them; of those in doubt, more."
    )


class BatchResult(_Data):
    """What became of a batch: small, also where it had a million items."""

    scope: str = Field(description="The scope under which each item is paid once.")
    model: str = Field(description="The batch's model, as `owner/name`.")
    total: int = Field(description="Items that were looked at.")
    unread: int = Field(
        default=0,
        description="Inputs that were not looked at, because the batch was ended early; only where "
        "their number is known.",
    )
    counts: dict[ItemStatus, int] = Field(description="How many items ended how.")
    created: int = Field(default=0, description="Predictions that this run has created.")
    found: int = Field(default=0, description="Items that an earlier run had paid for.")
    estimated_cost: float | None = Field(
        default=None,
        description="An estimate: what this run has created (a dry run: would create), times the "
        "setting `prices`. None where a price is not set.",
    )
    seconds: float = Field(default=0.0, description="How long the run took.")
    polls: int = Field(default=0, description="How often the run has asked for states.")
    polls_failed: int = Field(default=0, description="How often that brought no state.")
    creates_again: int = Field(
        default=0, description="How often a create was offered again, after it was not accepted."
    )
    rate_limited: int = Field(default=0, description="How many of both were 429s.")
    delay_p95: float | None = Field(
        default=None, description="95 % were known to be complete within so many seconds."
    )
    run_times: Spread | None = Field(default=None, description="How long the model ran.")
    queue_times: Spread | None = Field(
        default=None, description="How long predictions waited before they were started."
    )
    saved_after: Spread | None = Field(
        default=None, description="From completion until the outputs were in storage; of this run."
    )
    files: int = Field(default=0, description="Files that this run has saved.")
    size: int = Field(default=0, description="Their bytes.")
    items: list[BatchItem] = Field(
        default_factory=list, description="All items in their order, where they are few enough."
    )
    failures: list[BatchItem] = Field(
        default_factory=list, description="The first that went wrong; those in doubt first."
    )
    reasons: list[FailureGroup] = Field(
        default_factory=list,
        description="What went wrong, by reason: what is in doubt first, then the most frequent.",
    )
    ledger: str = Field(
        default="", description="The storage of the records and the manifest, in words."
    )
    manifest: str | None = Field(
        default=None,
        description="Name of the file in the ledger's storage that holds all items, one a line.",
    )
    stopped: str = Field(default="", description="Why the batch was ended early; else empty.")
    dry_run: bool = Field(default=False, description="Nothing was sent; it says what would be.")

    def count(self, *statuses: ItemStatus) -> int:
        """How many items have one of these statuses."""
        return sum(self.counts.get(status, 0) for status in statuses)

    @property
    def inputs(self) -> int:
        """How many there were, as far as is known: looked at or not."""
        return self.total + self.unread

    @property
    def failed(self) -> int:
        """How many items went wrong."""
        return sum(number for status, number in self.counts.items() if status.failure)

    @property
    def summary(self) -> str:
        """The counts in words, the good ones first."""
        order = list(ItemStatus)
        parts = sorted(self.counts.items(), key=lambda part: order.index(part[0]))
        words = [f"{number:,} {status}" for status, number in parts if number]
        if self.unread:
            words.append(f"{self.unread:,} not looked at")
        return ", ".join(words) or "no items"
