"""What Prefect is told as events: which change of which prediction or batch, in which words. Pure.

`event_sending` sends them. Automations match the labels of resources, which are texts, and count
events; numbers are in the payload, for templates and for people. Nothing of it is secret: no more
of a prompt than its excerpt, no URL of an output, no key.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect_cometapi import asset_keys, endings
from prefect_cometapi.batch_models import BatchItem, BatchResult, ItemStatus
from prefect_cometapi.ledger import Record, excerpt_of, sentences, shortened
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile

#: What of a batch's predictions is told; of single ones, everything is.
WhichEvents = Literal["exceptions", "all", "none"]
WHICH_EVENTS = ("exceptions", "all", "none")

PREDICTION = "cometapi.prediction"
BATCH = "cometapi.batch"
FINISHED = f"{BATCH}.finished"
#: Longest reason that an event repeats, and longest name of a resource, in characters.
REASON, NAME = 300, 120
#: So many names of files are told one by one.
MANY_NAMES = 20
COMMAND = "python -m prefect_cometapi ledger"


class Change(StrEnum):
    """What has become of a prediction. Each is told once."""

    #: It was accepted, and is paid for.
    CREATED = "created"
    SUCCEEDED = "succeeded"
    #: Its outputs are in storage.
    SAVED = "saved"
    FAILED = "failed"
    CANCELED = "canceled"
    #: It may have been accepted and paid for; its id is not known.
    IN_DOUBT = "in-doubt"
    #: Its outputs were deleted before they were saved.
    EXPIRED = "expired"
    #: It is paid for, and the run has given it up without its outputs in storage.
    NOT_SAVED = "not-saved"

    @property
    def event(self) -> str:
        """The event's name."""
        return f"{PREDICTION}.{self}"


#: What is told of the predictions of a batch, where nobody asked for more.
EXCEPTIONS = frozenset(
    (Change.FAILED, Change.CANCELED, Change.IN_DOUBT, Change.EXPIRED, Change.NOT_SAVED)
)
#: How a prediction ended, as a change.
ENDINGS = {
    PredictionStatus.SUCCEEDED: Change.SUCCEEDED,
    PredictionStatus.FAILED: Change.FAILED,
    PredictionStatus.ABORTED: Change.FAILED,
    PredictionStatus.CANCELED: Change.CANCELED,
}
#: What an item's end is a change to, where its prediction has not told it itself.
OF_ITEMS = {
    ItemStatus.IN_DOUBT: Change.IN_DOUBT,
    ItemStatus.EXPIRED: Change.EXPIRED,
    ItemStatus.TIMED_OUT: Change.NOT_SAVED,
    ItemStatus.NOT_SAVED: Change.NOT_SAVED,
}


@dataclass(frozen=True)
class Subject:
    """The prediction that an event is about, as far as it is known."""

    model: str
    prediction_id: str | None = None
    record_key: str | None = None
    scope: str | None = None
    attempt: int = 1
    api_root: str = ""
    excerpt: str = ""
    sent_at: datetime | None = None
    run_time: float | None = None
    queue_time: float | None = None

    @property
    def id(self) -> str:
        """What it is known by: the service's id, or, in doubt, its record's key."""
        return self.prediction_id or self.record_key or "unknown"

    @property
    def name(self) -> str:
        """What people call it."""
        return shortened(
            f"{self.model}: {self.excerpt}" if self.excerpt else f"{self.model} {self.id}".strip(),
            NAME,
        )


@dataclass(frozen=True)
class Notice:
    """An event that is to be sent.

    Attributes:
        event: Its name.
        resource: What it is about, by labels.
        related: What that has to do with; Prefect adds the run, its flow and its deployment.
        payload: Plain JSON values.
        id: Of an event about a change, made of that change: told twice, it is the same event.
    """

    event: str
    resource: dict[str, str]
    related: list[dict[str, str]] = field(default_factory=list)
    payload: dict[str, Any] = field(default_factory=dict)
    id: UUID | None = None


def of_prediction(prediction: Prediction) -> Subject:
    """A prediction, as the service last described it."""
    return Subject(
        prediction.model,
        prediction.id,
        prediction.record_key,
        prediction.scope,
        prediction.attempt,
        prediction.api_root,
        excerpt_of(prediction.input),
        prediction.submitted_at,
        prediction.run_time,
        prediction.queue_time,
    )


def of_record(record: Record, key: str | None) -> Subject:
    """A prediction, by what was written down before it was sent."""
    return Subject(
        record.model,
        record.prediction_id,
        key,
        record.scope,
        record.attempt,
        record.api_root,
        record.excerpt,
        record.sent_at,
    )


def of_item(item: BatchItem, scope: str) -> Subject:
    """The prediction of an item of a batch."""
    return Subject(
        item.model,
        item.prediction_id,
        item.record_key,
        scope,
        item.attempt,
        "",
        item.excerpt,
        item.created_at,
        item.run_time,
        item.queue_time,
    )


def of_change(
    change: Change,
    subject: Subject,
    *,
    batch: str | None = None,
    reason: str = "",
    error_type: str = "",
    files: Iterable[SavedFile] | None = None,
    price: float | None = None,
) -> Notice:
    """The event of a change.

    Args:
        change: What has become of the prediction.
        subject: The prediction.
        batch: The scope of the batch that it belongs to.
        reason: Why, where it went wrong.
        error_type: The class of the error that says so.
        files: What was saved.
        price: What it is estimated to cost.
    """
    resource = {
        "prefect.resource.id": f"{PREDICTION}.{subject.id}",
        "prefect.resource.name": subject.name,
        "cometapi.model": subject.model,
        "cometapi.scope": subject.scope,
        "cometapi.record": subject.record_key,
        "cometapi.error": error_type,
    }
    payload: dict[str, Any] = {
        "prediction_id": subject.prediction_id,
        "model": subject.model,
        "excerpt": subject.excerpt,
        "scope": subject.scope,
        "record_key": subject.record_key,
        "attempt": subject.attempt,
        "api_root": subject.api_root,
        "sent_at": subject.sent_at and subject.sent_at.isoformat(),
        "run_time": subject.run_time,
        "queue_time": subject.queue_time,
        "estimated_cost": price,
        "reason": sentences(reason, REASON),
        "error_type": error_type,
        "command": _command(change, subject),
        "list_command": _list_command(change, subject),
    }
    place = ""
    if files is not None:
        files = list(files)
        place = files[0].location if files else ""  # saved elsewhere too, it is saved once more
        payload |= {
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "names": [file.name for file in files[:MANY_NAMES]],
        }
    return Notice(
        change.event,
        _known(resource),
        [_model(subject.model), *([_batch(batch)] if batch is not None else [])],
        _known(payload),
        id_of(change, subject, place),
    )


def id_of(change: Change, subject: Subject, place: str = "") -> UUID:
    """The id of the event of a change: always the same one."""
    identity = (change.event, subject.id, subject.record_key or "", place)
    return uuid5(NAMESPACE_URL, " ".join(identity).encode("utf-8", "replace").decode())


def why(prediction: Prediction) -> tuple[str, str]:
    """Why a prediction failed or was canceled, and what that is as an error."""
    if prediction.status is PredictionStatus.SUCCEEDED:
        return "", ""
    reason = prediction.error or ""
    if prediction.status is PredictionStatus.CANCELED:
        return reason or "It was canceled.", "PredictionCanceled"
    refused = endings.refuses_content(reason)
    return (
        reason or "The service gave no reason.",
        "ContentRefused" if refused else "PredictionFailed",
    )


def _command(change: Change, subject: Subject) -> str:
    """What a person may run now; of a failure, that pays for it again."""
    key = subject.record_key
    if key is None:
        return ""
    match change:
        case Change.IN_DOUBT:
            return f"{COMMAND} show {key}"
        case Change.NOT_SAVED:
            return f"{COMMAND} collect {key} --storage STORAGE"
        case Change.FAILED | Change.CANCELED | Change.EXPIRED:
            return f"{COMMAND} resubmit {key}"
    return ""


def _list_command(change: Change, subject: Subject) -> str:
    """What lists others of the same scope that it has become of."""
    if change not in EXCEPTIONS or subject.scope is None:
        return ""
    only = {Change.IN_DOUBT: " --in-doubt", Change.NOT_SAVED: " --unsaved"}.get(change, "")
    return f"{COMMAND} list{only} --scope {shlex.quote(subject.scope)}"


#: What share of a batch's items went wrong, as a label: automations can not compare numbers.
FAILURE_SHARES = (
    (0.0, "none"),
    (0.01, "up to 1%"),
    (0.05, "1-5%"),
    (0.10, "5-10%"),
    (0.25, "10-25%"),
    (0.50, "25-50%"),
    (1.0, "over 50%"),
)


def share_class(failed: int, total: int) -> str:
    """The name of a share of failures."""
    share = failed / total if total else 0.0
    return next(name for most, name in FAILURE_SHARES if share <= most)


def numbers_of(result: BatchResult) -> dict[str, Any]:
    """What became of a batch, in numbers, with the same names wherever they are told."""
    count = result.count
    wrong = result.failed + result.unread
    return {
        "total": result.inputs,
        "saved": count(ItemStatus.SAVED),
        "succeeded": count(ItemStatus.SUCCEEDED),
        "failed": count(ItemStatus.FAILED),
        "canceled": count(ItemStatus.CANCELED),
        "expired": count(ItemStatus.EXPIRED),
        "in_doubt": count(ItemStatus.IN_DOUBT),
        "paid_not_saved": count(ItemStatus.NOT_SAVED, ItemStatus.TIMED_OUT),
        "refused": count(ItemStatus.REFUSED),
        "not_sent": count(ItemStatus.NOT_SENT),
        "abandoned": count(ItemStatus.ABANDONED),
        "unread": result.unread,
        "went_wrong": wrong,
        "failure_share": round(wrong / result.inputs, 4) if result.inputs else 0.0,
        "created": result.created,
        "found": result.found,
        "estimated_cost": result.estimated_cost,
        "seconds": result.seconds,
        "polls": result.polls,
        "delay_p95": result.delay_p95,
        "files": result.files,
        "bytes": result.size,
    }


def summary_of(result: BatchResult) -> dict[str, Any]:
    """What became of a batch, as it is kept beside its manifest: all but the items."""
    plain = result.model_dump(mode="json", exclude={"items"}, exclude_none=True)
    return {**plain, **_known(numbers_of(result))}


def of_batch(result: BatchResult) -> Notice:
    """The event of a batch that has come to its end."""
    numbers = numbers_of(result)
    resource = _batch(result.scope) | {
        "prefect.resource.name": shortened(f"{result.model}: {result.scope}", NAME),
        "cometapi.model": result.model,
        "cometapi.scope": result.scope,
        "cometapi.failure-share": share_class(numbers["went_wrong"], numbers["total"]),
        "cometapi.in-doubt": _yes(numbers["in_doubt"]),
        "cometapi.paid-not-saved": _yes(numbers["paid_not_saved"]),
        "cometapi.stopped": _yes(result.stopped),
    }
    del resource["prefect.resource.role"]
    payload = {
        "scope": result.scope,
        "model": result.model,
        "summary": result.summary,
        "stopped": shortened(result.stopped, REASON),
        **numbers,
        "manifest": result.manifest,
        "command": f"{COMMAND} list --scope {shlex.quote(result.scope)}",
    }
    return Notice(FINISHED, resource, [_model(result.model)], _known(payload))


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Only what is known."""
    return {name: value for name, value in values.items() if value is not None and value != ""}


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _model(model: str) -> dict[str, str]:
    """The model, under the same key as an asset."""
    return {
        "prefect.resource.id": asset_keys.of_model(model or "unknown"),
        "prefect.resource.role": "model",
        "prefect.resource.name": model or "unknown",
    }


def _batch(scope: str) -> dict[str, str]:
    """A batch; the hash is the end of the name of its folder in the ledger."""
    return {
        "prefect.resource.id": f"{BATCH}.{hashlib.sha256(scope.encode()).hexdigest()[:12]}",
        "prefect.resource.role": "batch",
        "prefect.resource.name": shortened(scope, NAME),
    }
