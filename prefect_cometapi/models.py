"""Plain data: predictions and the files saved from them.

Frozen pydantic models with a JSON round trip and without credentials, so that Prefect may
store them as results, show them and send them to other machines.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

#: How long the service keeps the outputs of a finished prediction (documented).
OUTPUT_LIFETIME = timedelta(hours=1)


class PredictionStatus(StrEnum):
    """Where a prediction is in its life. The names are Replicate's."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Canceled while it ran; billed for the time it ran.
    CANCELED = "canceled"
    #: Ended before it ran; not billed.
    ABORTED = "aborted"

    @property
    def finished(self) -> bool:
        """True where nothing more will happen to the prediction."""
        return self not in (PredictionStatus.STARTING, PredictionStatus.PROCESSING)


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Prediction(_Data):
    """One paid generation job, as the service last described it."""

    id: str = Field(description="The service's id of the prediction.")
    model: str = Field(description="The model, as `owner/name`.")
    status: PredictionStatus = Field(description="Where it is in its life.")
    api_root: str = Field(description="The API that it was created on; ids mean nothing elsewhere.")
    service_status: str = Field(
        default="", description="The status in the service's own word, also where it is unknown."
    )
    input: dict[str, Any] = Field(
        default_factory=dict,
        description="The model's input, as the service repeated it, else as it was sent.",
    )
    output: Any = Field(
        default=None, description="URLs, text, an object, a number: whatever the model makes."
    )
    outputs_pending: bool = Field(
        default=False,
        description="True where the service calls it a success, but has not handed over the "
        "prediction itself: it counts as processing, and `output` is what the reply's envelope "
        "named of it.",
    )
    error: str | None = Field(default=None, description="The service's reason for a failure.")
    logs: str = Field(default="", description="The model's own log.")
    metrics: dict[str, Any] = Field(
        default_factory=dict, description="The service's measurements, such as `predict_time`."
    )
    version: str | None = Field(default=None, description="The model's version; can be `hidden`.")
    data_removed: bool = Field(
        default=False, description="True once the service has deleted input, output and logs."
    )
    created_at: datetime | None = Field(default=None, description="By the service's clock.")
    started_at: datetime | None = Field(default=None, description="By the service's clock.")
    completed_at: datetime | None = Field(default=None, description="By the service's clock.")
    submitted_at: datetime | None = Field(
        default=None, description="When the create was sent, by the clock of the sender."
    )
    record_key: str | None = Field(
        default=None, description="Its record in the ledger, where this package created it."
    )
    scope: str | None = Field(default=None, description="The scope of that record.")
    attempt: int = Field(default=1, description="Which attempt at the same request it is.")

    @property
    def finished(self) -> bool:
        """True where nothing more will happen to it."""
        return self.status.finished

    @property
    def running(self) -> bool:
        """True while the service is at work on it, as far as is known."""
        return not self.finished and not self.outputs_pending

    def seen_as(self, seen: Prediction) -> Prediction:
        """What the service says now, with what it has forgotten or never knew."""
        return seen.model_copy(
            update={
                "model": seen.model or self.model,
                "input": seen.input or self.input,
                "submitted_at": self.submitted_at,
                "record_key": self.record_key,
                "scope": self.scope,
                "attempt": self.attempt,
                "created_at": seen.created_at or self.created_at,
            }
        )

    @property
    def run_time(self) -> float | None:
        """Seconds the model ran: the service's `predict_time`, or start to completion."""
        if not self.finished:
            return None
        predict_time = self.metrics.get("predict_time")
        if isinstance(predict_time, int | float) and 0 <= predict_time < 1e9:
            return float(predict_time)
        return _seconds(self.started_at, self.completed_at)

    @property
    def queue_time(self) -> float | None:
        """Seconds between creation and start, by the service's clock."""
        return _seconds(self.created_at, self.started_at)

    @property
    def expires_at(self) -> datetime | None:
        """When the service deletes the outputs; None while it is not finished."""
        if not self.finished or self.completed_at is None:
            return None
        try:
            return self.completed_at + OUTPUT_LIFETIME
        except OverflowError:  # a clock at the end of time
            return None

    @property
    def past_lifetime(self) -> bool:
        """True where the service has deleted the outputs by now, as far as is known."""
        if self.expires_at is not None:
            return self.expires_at < datetime.now(UTC)
        sent = self.submitted_at or self.created_at
        return sent is not None and datetime.now(UTC) - sent > OUTPUT_LIFETIME


class SavedFile(_Data):
    """One output, safe in the user's storage."""

    location: str = Field(description="Where it is: a path, or the storage's name for the object.")
    name: str = Field(description="Its name below the storage's root.")
    output: str = Field(description="Which output it is, such as `output[0]` or `output.mask`.")
    media_type: str = Field(description="What its first bytes say it is, such as `image/webp`.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Hash of its bytes, in hexadecimal.")


class Generation(_Data):
    """A prediction that succeeded, together with its saved files."""

    prediction: Prediction = Field(description="What the service says of it.")
    files: list[SavedFile] = Field(description="Its outputs, as they were saved.")


class Cancellation(_Data):
    """What came of asking the service to cancel a prediction."""

    prediction_id: str = Field(description="The service's id of it.")
    accepted: bool = Field(description="True where the service said that it is canceled.")
    message: str = Field(description="What the service answered, in a sentence.")
    prediction: Prediction | None = Field(
        default=None, description="The prediction as the answer described it, where it did."
    )

    def of(self, known: Prediction) -> Cancellation:
        """The same, with what is known of the prediction and was not in the answer."""
        seen = self.prediction and known.seen_as(self.prediction)
        return self.model_copy(update={"prediction": seen})


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())
