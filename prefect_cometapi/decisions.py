"""What people may decide about records of the ledger, and what is told them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.ledger import (
    PREFIX,
    Outcome,
    Record,
    Standing,
    excerpt_of,
    way_out,
)
from prefect_cometapi.models import Prediction, SavedFile

#: What a person has decided, which a person may decide otherwise.
DECISIONS = (Outcome.ABANDONED, Outcome.RESUBMITTED)


#: What has ended without anything to show for it, and may be made again, at a new price.
TO_MAKE_AGAIN = (Outcome.FAILED, Outcome.CANCELED, Outcome.STOPPED, Outcome.EXPIRED)


class Did(StrEnum):
    """What was done about a record."""

    SAVED = "saved"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    RUNNING = "still running"
    IN_DOUBT = "in doubt"
    SENDING = "being sent"
    ADOPTED = "adopted"
    ABANDONED = "abandoned"
    RESUBMITTED = "resubmitted"
    DELETED = "deleted"
    #: Nothing was tried: it is not in a state for it.
    REFUSED = "left as it was"
    #: It was tried, and did not work.
    TROUBLE = "not done"


_DONE = {
    *(Did.SAVED, Did.FAILED, Did.CANCELED),
    *(Did.ADOPTED, Did.ABANDONED, Did.RESUBMITTED, Did.DELETED),
}


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class LedgerEntry(_Data):
    """A record as it stands at the moment."""

    key: str = Field(description="The record's name in the ledger.")
    scope: str = Field(description="What shares the prediction; empty where that is not known.")
    standing: Standing = Field(description="Whether something is left to do about it.")
    record: Record | None = Field(description="None where it can not be read.")
    made_again: bool = Field(
        default=False, description="It came to nothing, and a later attempt is what counts."
    )

    @property
    def state(self) -> str:
        """How it ended, or else how it stands."""
        state = self.record.outcome if self.record and self.record.outcome else self.standing
        return f"{state}, made again" if self.made_again else state

    def result(self, did: Did, message: str, files: list[SavedFile] | None = None) -> RecordResult:
        """What was done about it."""
        return RecordResult(
            record_key=self.key,
            did=did,
            message=message,
            scope=self.scope,
            model=self.record.model if self.record else "",
            prediction_id=self.record.prediction_id if self.record else None,
            files=files or [],
        )


class RecordResult(_Data):
    """What was done about one record."""

    record_key: str
    did: Did
    message: str = Field(description="The same in words, with what to do next.")
    scope: str = ""
    model: str = ""
    prediction_id: str | None = None
    files: list[SavedFile] = Field(default_factory=list, description="What was saved of it.")

    @property
    def done(self) -> bool:
        """False where something is left to do, or could not be done."""
        return self.did in _DONE


class LedgerReport(_Data):
    """What was done, record by record, the oldest first."""

    results: list[RecordResult]

    @property
    def done(self) -> bool:
        """False where something is left to do, or could not be done."""
        return all(result.done for result in self.results)

    @property
    def summary(self) -> str:
        """How often what was done."""
        return counted(result.did for result in self.results) or "nothing to do"


def counted(words: Iterable[str]) -> str:
    """How often each word is there, the most frequent first."""
    return "; ".join(f"{count} {word}" for word, count in Counter(words).most_common())


def is_key(text: str) -> bool:
    """Whether it can be the key of a record, and not the name of something else."""
    return re.fullmatch(rf"{PREFIX}[0-9a-f]{{40}}", text) is not None


def entry_of(
    key: str, record: Record | None, scope: str, now: datetime, wait: timedelta
) -> LedgerEntry:
    """A record as it stands; one that can not be read is in doubt.

    Args:
        key: Its name.
        record: What can be read of it.
        scope: Its scope, where that is known from elsewhere.
        now: The time.
        wait: How long a create may take before it counts as lost.
    """
    standing = record.standing(now, wait) if record else Standing.IN_DOUBT
    scope = record.scope if record else scope
    return LedgerEntry(key=key, scope=scope, standing=standing, record=record)


def oldest_first(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The order in which outputs expire; in front, what can not be read."""
    longest_ago = datetime.min.replace(tzinfo=UTC)
    return sorted(entries, key=lambda entry: entry.record.sent_at if entry.record else longest_ago)


def being_sent(record: Record, wait: timedelta) -> str:
    """Why nobody can decide about it yet."""
    until = record.sent_at.astimezone(UTC) + wait
    return (
        "It is being sent, or its process has died doing that: it can be decided upon from "
        f"{until:%H:%M:%S} UTC on."
    )


def what_to_do(entry: LedgerEntry, wait: timedelta) -> str:
    """What a person can do about a record; empty where there is nothing to do."""
    record, command = entry.record, "python -m prefect_cometapi ledger"
    if record is None or entry.standing is Standing.IN_DOUBT:
        return way_out(entry.key)
    if entry.standing is Standing.SENDING:
        return being_sent(record, wait)
    if entry.standing is Standing.UNSAVED:
        return (
            f"Save it, within an hour of its completion: `{command} collect {entry.key} --storage "
            "STORAGE`. Or run again in the same scope."
        )
    if record.outcome in TO_MAKE_AGAIN and not entry.made_again:
        return (
            f"To make it again, at a new price: `{command} resubmit {entry.key}`. Then run again "
            "in the same scope."
        )
    return ""


def objection(decision: Outcome, entry: LedgerEntry, wait: timedelta) -> str:
    """Why a record can not be abandoned or resubmitted; empty where it can.

    Args:
        decision: `ABANDONED` or `RESUBMITTED`.
        entry: The record.
        wait: How long a create may take before it counts as lost.
    """
    record = entry.record
    if record is None or entry.standing is Standing.IN_DOUBT or record.outcome in DECISIONS:
        return ""
    if entry.made_again:
        return "A later attempt at the same request is what counts."
    if decision is Outcome.RESUBMITTED and record.outcome in TO_MAKE_AGAIN:
        return ""
    if entry.standing is Standing.SENDING:
        return being_sent(record, wait)
    if entry.standing is Standing.ENDED:
        return f"It is not in doubt: prediction {record.prediction_id} is {record.outcome}."
    if decision is Outcome.ABANDONED:
        return ""
    return (
        f"It is not in doubt: prediction {record.prediction_id} is paid for. Collect it, or "
        "abandon it first."
    )


def adoption(record: Record, standing: Standing, prediction_id: str, wait: timedelta) -> Record:
    """The record with the id of the prediction that it turned out to be.

    Raises:
        InvalidInput: It is another prediction, or may still become one.
    """
    others = record.prediction_id not in (None, prediction_id)
    if others and record.outcome is not Outcome.ABANDONED:
        raise InvalidInput(
            f"The record is prediction {record.prediction_id} already ({record.what}). Nothing "
            "was changed. If that was a mistake, abandon it, and adopt it anew."
        )
    if standing is Standing.SENDING:
        raise InvalidInput(f"{being_sent(record, wait)} Nothing was changed.")
    outcome = None if record.outcome in DECISIONS else record.outcome
    return record.model_copy(update={"prediction_id": prediction_id, "outcome": outcome})


def mismatch(record: Record, seen: Prediction) -> str:
    """Why what the service knows under an id can not be what the record asked for; or nothing."""
    known, asked = (model.partition(":")[0].lower() for model in (seen.model, record.model))
    if known and asked and known != asked:
        return f"the record asked for {record.model}, and it is of {seen.model}"
    begins = excerpt_of(seen.input)
    if record.excerpt and begins and begins != record.excerpt:
        return f'the record\'s prompt is "{record.excerpt}", and its prompt is "{begins}"'
    return ""


def prunable(
    entries: Iterable[LedgerEntry], now: datetime, older_than: timedelta, everything: bool = False
) -> list[LedgerEntry]:
    """Which records are of no use any more.

    Args:
        entries: All there are.
        now: The time.
        older_than: How long ago they were sent, at least.
        everything: Also those in doubt (the unreadable ones included) and those never saved.
    """

    def of_no_use(entry: LedgerEntry) -> bool:
        if entry.record is None or entry.standing is Standing.SENDING:
            return everything and entry.record is None
        ended = everything or entry.standing is Standing.ENDED
        return ended and now - entry.record.sent_at >= older_than

    entries = list(entries)
    # An attempt is found by way of those before it: without them it would be sent once more.
    kept = {_request(entry) for entry in entries if not of_no_use(entry)}
    return [entry for entry in entries if of_no_use(entry) and _request(entry) not in kept]


def told_apart(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The same entries, where those that came to nothing know whether they were made again."""
    entries, latest = list(entries), dict[str, int]()
    for entry in entries:
        attempt = entry.record.attempt if entry.record else 0
        latest[_request(entry)] = max(attempt, latest.get(_request(entry), 0))
    return [
        entry.model_copy(update={"made_again": True})
        if entry.record
        and entry.record.outcome in TO_MAKE_AGAIN
        and latest[_request(entry)] > entry.record.attempt
        else entry
        for entry in entries
    ]


def _request(entry: LedgerEntry) -> str:
    """What the attempts at one request have in common."""
    return entry.record.first or entry.key if entry.record else entry.key
