"""What was submitted: a record for each create, written before the money is spent. Pure.

The order is: claim and intent in one step, then the POST, once, then the id. A run that comes
back finds the id and re-attaches; an intent without an id is in doubt. The gap between the
service's "accepted" and the stored id is detected, not closed: the service has no idempotency key.

Where records live is for `records` to know.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prefect_cometapi.errors import SubmissionInDoubt
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile

SCHEMA = 1
#: Part of every key. Never changes: with another one, runs under way would pay again.
IDENTITY = 1
PREFIX = "cometapi-"
#: Longest part of a prompt, or of the service's words, that a record repeats.
EXCERPT = 120
#: What a Variable of Prefect's server holds at most, in characters, with some room to spare.
MAX_RECORD = 4_500


class Outcome(StrEnum):
    """How the story of a record ended."""

    SAVED = "saved"
    #: Failed or aborted; the reason is kept.
    FAILED = "failed"
    CANCELED = "canceled"
    #: Canceled because a person stopped the run. Starting it again makes it again.
    STOPPED = "stopped"
    #: Its outputs were deleted before they were saved.
    EXPIRED = "expired"
    #: Its outputs were given to the caller of a batch without storage.
    HANDED_OVER = "handed over"
    #: A person gave it up: it is not sent again, and not looked for.
    ABANDONED = "abandoned"
    #: It stays in doubt, and was allowed to be sent once more, as the next attempt.
    RESUBMITTED = "resubmitted"


class Standing(StrEnum):
    """What a record says at a moment."""

    SENDING = "being sent"
    IN_DOUBT = "in doubt"
    UNSAVED = "paid, not saved"
    ENDED = "ended"


class Record(BaseModel):
    """One create: the intent, then the prediction's id, then how it ended. Holds no credential."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    scope: str
    model: str
    api_root: str
    sample: int = 0
    key: str | None = Field(default=None, description="The caller's own key, where there is one.")
    attempt: int = 1
    first: str = Field(
        default="", description="Of a later attempt: the record of the first one at the request."
    )
    excerpt: str = Field(default="", description="The beginning of the prompt, for people.")
    sent_at: AwareDatetime
    prediction_id: str | None = None
    owner: str = Field(
        default="", description="Tells a claim of one's own, whose answer was lost, from another's."
    )
    patience: float = Field(
        default=0.0, description="Seconds that its sender may take, by the sender's settings."
    )
    lost: bool = Field(default=False, description="Its answer is known to be lost.")
    flow_runs: list[str] = Field(
        default_factory=list, description="The flow runs that sent it, up to the root."
    )
    credentials: str | None = Field(
        default=None, description="Name of the saved credentials block, where it was one."
    )
    outcome: Outcome | None = None
    reason: str = ""
    run_time: float | None = None
    files: list[SavedFile] | None = None
    storage: str = Field(default="", description="What the storage of the files is known by.")
    cancel_asked: bool = Field(
        default=False, description="The service was asked once to cancel it."
    )

    def standing(self, now: datetime, patience: timedelta) -> Standing:
        """What it says now.

        Args:
            now: The time.
            patience: How long a create may take before it counts as lost.
        """
        if self.outcome:
            return Standing.ENDED
        if self.prediction_id:
            return Standing.UNSAVED
        if self.lost:
            return Standing.IN_DOUBT
        # Both ways: a sender whose clock is ahead must not be waited for all the longer.
        fresh = abs(now - self.sent_at) < max(patience, timedelta(seconds=self.patience))
        return Standing.SENDING if fresh else Standing.IN_DOUBT

    def afresh(self) -> Record:
        """The intent, as of now."""
        return self.model_copy(update={"sent_at": datetime.now(UTC)})

    def ended(self, outcome: Outcome, reason: str = "") -> Record:
        """The record with an ending."""
        return self.model_copy(update={"outcome": outcome, "reason": shortened(reason, 300)})

    def settled(
        self,
        prediction: Prediction,
        outcome: Outcome | None,
        *,
        reason: str = "",
        files: list[SavedFile] | None = None,
        storage: str = "",
        cancel_asked: bool = False,
    ) -> Record | None:
        """The record with what has become known of its prediction; None where nothing is new."""
        if self.prediction_id not in (None, prediction.id):
            return None
        if self.outcome in (Outcome.ABANDONED, Outcome.RESUBMITTED):
            return None  # a person's decision
        # What is saved stays so, whatever becomes of it elsewhere; and what a person has stopped is
        # seen as canceled a moment later.
        if files is None and self.outcome and self.outcome in (outcome, *_LASTING):
            return None
        # Where storing the id failed when it was created, this is the next chance.
        update: dict[str, object] = {
            "prediction_id": prediction.id,
            "cancel_asked": cancel_asked or self.cancel_asked,
        }
        if prediction.run_time is not None:
            update["run_time"] = prediction.run_time
        if files is not None:
            update |= {"files": files, "storage": storage}
        changed = (self.ended(outcome, reason) if outcome else self).model_copy(update=update)
        return None if changed == self else changed

    def as_json(self, most: int = MAX_RECORD) -> dict[str, Any]:
        """As it is stored; what is least needed is left out where it is longer than `most`."""
        value = self.model_dump(mode="json", exclude_defaults=True, exclude={"schema_version"})
        value["schema_version"] = self.schema_version
        for name in ("files", "reason", "excerpt"):  # the least needed first
            if len(json.dumps(value)) > most:
                value.pop(name, None)
        return value

    def prediction(self, key: str, input: Mapping[str, Any] | None = None) -> Prediction:
        """Its prediction, as far as the record tells.

        Args:
            key: The record's.
            input: What was asked for, where the caller knows.
        """
        ended = self.outcome and STATUS_OF[self.outcome]
        return Prediction(
            id=self.prediction_id or "",
            model=self.model,
            status=ended or PredictionStatus.STARTING,
            api_root=self.api_root,
            input=dict(input or {}),
            error=self.reason or None if ended is PredictionStatus.FAILED else None,
            metrics={} if self.run_time is None else {"predict_time": self.run_time},
            data_removed=ended is PredictionStatus.SUCCEEDED,  # as far as is known here
            submitted_at=self.sent_at,
            record_key=key,
            scope=self.scope,
            attempt=self.attempt,
        )

    @property
    def tags(self) -> list[str]:
        """What it can be found by besides its key: its scope and the flow runs that sent it."""
        return list(dict.fromkeys([self.scope, *map(run_scope, self.flow_runs)]))

    @property
    def what(self) -> str:
        """What was asked for, in words."""
        parts = [f'"{self.excerpt}"' if self.excerpt else ""]
        parts.append(f"key {self.key!r}" if self.key is not None else f"sample {self.sample}")
        parts.append(f"attempt {self.attempt}" if self.attempt > 1 else "")
        return f"{self.model} ({', '.join(part for part in parts if part)})"


_LASTING = (Outcome.SAVED, Outcome.STOPPED)

#: How a record that ended looks to somebody who asks for its prediction.
STATUS_OF = {
    Outcome.SAVED: PredictionStatus.SUCCEEDED,
    Outcome.EXPIRED: PredictionStatus.SUCCEEDED,
    Outcome.HANDED_OVER: PredictionStatus.SUCCEEDED,
    Outcome.FAILED: PredictionStatus.FAILED,
    Outcome.CANCELED: PredictionStatus.CANCELED,
    Outcome.STOPPED: PredictionStatus.CANCELED,
}


def run_scope(flow_run_id: object) -> str:
    """The scope of a flow run, which is what its predictions share by default."""
    return f"flow-run:{flow_run_id}"


def record_key(
    scope: str,
    api_root: str,
    model: str,
    input: Mapping[str, Any],
    sample: int,
    *,
    key: str | None = None,
    attempt: int = 1,
) -> str:
    """The name under which a create is known: equal for the same request in the same scope.

    It depends on neither the API key nor the package's version nor the machine.

    Args:
        scope: What shares predictions.
        api_root: The API.
        model: The model.
        input: Its parameters.
        sample: Tells equal requests apart.
        key: The caller's own name for the request, in place of the input.
        attempt: Counts from 1.
    """
    identity = [
        IDENTITY,
        scope,
        api_root,
        model,
        dict(input) if key is None else ["key", key],
        sample,
    ]
    if attempt > 1:
        identity.append(attempt)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return PREFIX + hashlib.sha256(canonical.encode()).hexdigest()[:40]


def key_of(record: Record, input: Mapping[str, Any]) -> str:
    """The name under which an intent is known."""
    return record_key(
        record.scope,
        record.api_root,
        record.model,
        input,
        record.sample,
        key=record.key,
        attempt=record.attempt,
    )


def intent(
    *,
    scope: str,
    model: str,
    api_root: str,
    input: Mapping[str, Any],
    sample: int,
    key: str | None,
    attempt: int,
    flow_runs: list[str],
    credentials: str | None,
    patience: timedelta,
    prompts: bool = True,
) -> Record:
    """The intent to create a prediction, as of now; `prompts` is the setting of that name."""
    return Record(
        scope=scope,
        model=model,
        api_root=api_root,
        sample=sample,
        key=key,
        attempt=attempt,
        first=record_key(scope, api_root, model, input, sample, key=key) if attempt > 1 else "",
        excerpt=excerpt_of(input) if prompts else "",
        sent_at=datetime.now(UTC),
        owner=uuid4().hex,
        flow_runs=flow_runs,
        patience=patience.total_seconds(),
        credentials=credentials,
    )


def read_record(value: Any) -> Record | None:
    """A stored value as a record; None where it can not be read, which is "in doubt".

    So is one of a later version of this package, which may mean something else by it.
    """
    try:
        record = Record.model_validate(value)
    except ValidationError:
        return None
    return record if record.schema_version <= SCHEMA else None


#: Where URLs carry signatures.
_QUERY = re.compile(r"(https?://[^\s?#]+)[?#]\S*", re.IGNORECASE)


def shortened(text: str, length: int) -> str:
    """Text in one line of at most `length` characters, without the queries of URLs in it."""
    line = _QUERY.sub(r"\1", " ".join(text.split()))
    return line if len(line) <= length else f"{line[: length - 1]}…"


def sentences(text: str, length: int) -> str:
    """As many whole sentences of a text as fit: no command in it is cut in two."""
    if len(line := shortened(text, sys.maxsize)) <= length:
        return line
    end = max(line.rfind(". ", 0, length), line.rfind(": ", 0, length))
    return f"{line[:end]}." if end > 0 else shortened(line, length)


def excerpt_of(input: Mapping[str, Any]) -> str:
    """The beginning of an input's prompt, for people; empty without one."""
    prompt = input.get("prompt")
    return shortened(prompt, EXCERPT) if isinstance(prompt, str) else ""


def in_doubt(
    key: str, record: Record | None, price: float | None, cause: Exception | None = None
) -> SubmissionInDoubt:
    """The error for an intent that has no id.

    Args:
        key: The record's.
        record: The record, where it can be read.
        price: What one prediction of the model costs, where that is known.
        cause: What has just happened; None for an intent that was found.
    """
    what, when = "a prediction whose record can not be read", ""
    if record:
        what, sent_at = record.what, record.sent_at.astimezone(UTC)
        when = f" in scope {record.scope!r} at {sent_at:%Y-%m-%d %H:%M:%S} UTC"
    happened = (
        str(cause or "") or "An earlier attempt submitted it, and its answer was never stored."
    )
    # The reason first: lists of runs show the beginning.
    return SubmissionInDoubt(
        f"In doubt: the create of {what}. It may have been accepted and paid for{_cost(price)}. "
        f"{happened} It was sent{when}, and is not sent again unasked. {way_out(key)}",
        record_key=key,
        cause=str(cause) if cause else None,
        request_id=getattr(cause, "request_id", None),
    )


def _cost(price: float | None) -> str:
    if price is None:
        return " (the price of one prediction; the setting `prices` would tell it here)"
    return f" ({price:g}, by the setting `prices`)"


def abandoned(key: str, record: Record) -> SubmissionInDoubt:
    """The error for a record that a person has given up."""
    return SubmissionInDoubt(
        f"The create of {record.what}, scope {record.scope!r}, was abandoned by a person, so it is "
        "neither sent nor waited for. To send it again after all: `python -m prefect_cometapi "
        f"ledger resubmit {key}`, or `adopt` what it is.",
        record_key=key,
        abandoned=True,
    )


def way_out(key: str) -> str:
    """What a person can do about a record in doubt."""
    command = "python -m prefect_cometapi ledger"
    return (
        "Look for it in the vendor's dashboard. If it is there: "
        f"`{command} adopt {key} PREDICTION_ID`. If it is not, or you accept to pay twice: "
        f"`{command} resubmit {key}`. If it is not wanted any more: `{command} abandon {key}`. "
        "Then run again in the same scope (a retry does)."
    )
