"""Predictions are plain data: they go through JSON and pickles unchanged and hold no surprises."""

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from prefect_cometapi.models import (
    Cancellation,
    Generation,
    Prediction,
    PredictionStatus,
    SavedFile,
)

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)


def prediction(**fields: Any) -> Prediction:
    given: dict[str, Any] = {
        "id": "abc",
        "model": "owner/name",
        "status": "succeeded",
        "api_root": "https://api.example",
    }
    return Prediction(**given | fields)


FULL = prediction(
    service_status="SUCCESS",
    input={"prompt": "Ein Boot, 紙の船 🛶", "n": 1, "deep": {"list": [1, 2.5, None, True]}},
    output=["https://replicate.delivery/x/out-0.webp"],
    error="why",
    logs="step 1\nstep 2",
    metrics={"predict_time": 0.43, "image_count": 1},
    version="hidden",
    data_removed=True,
    created_at=NOON,
    started_at=NOON + timedelta(microseconds=258_001),
    completed_at=datetime(2026, 3, 12, 14, tzinfo=timezone(timedelta(hours=1))),
    submitted_at=NOON - timedelta(seconds=1),
)
FILE = SavedFile(
    location="s3://bucket/abc-0.webp",
    name="abc-0.webp",
    output="output[0]",
    media_type="image/webp",
    size=7,
    sha256="00ff",
)
MODELS: dict[str, BaseModel] = {
    "barest": prediction(),
    "full": FULL,
    "file": FILE,
    "generation": Generation(prediction=FULL, files=[FILE]),
    "cancellation": Cancellation(
        prediction_id="abc", accepted=True, message="It is.", prediction=FULL
    ),
    **{
        f"output-{type(output).__name__}": prediction(output=output)
        for output in ("text", 3, 2.5, True, None, ["a", None], {"a": {"b": [1]}})
    },
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_round_trips(model: BaseModel) -> None:
    kind = type(model)
    assert kind.model_validate_json(model.model_dump_json()) == model
    assert kind.model_validate(model.model_dump(mode="json")) == model
    assert pickle.loads(pickle.dumps(model)) == model  # noqa: S301


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_is_frozen_and_reads_what_a_newer_version_wrote(model: BaseModel) -> None:
    name = next(iter(type(model).model_fields))
    with pytest.raises(ValidationError):
        setattr(model, name, None)
    assert type(model).model_validate({**model.model_dump(), "of_a_later_version": 1}) == model


@pytest.mark.parametrize(
    ("status", "finished"),
    [
        ("starting", False),
        ("processing", False),
        ("succeeded", True),
        ("failed", True),
        ("canceled", True),
        ("aborted", True),
    ],
)
def test_finished(status: str, finished: bool) -> None:
    assert PredictionStatus(status).finished is finished
    assert prediction(status=status).finished is finished


def test_no_status_is_without_a_row_above() -> None:
    assert len(PredictionStatus) == 6


@pytest.mark.parametrize(
    ("fields", "run_time", "queue_time"),
    [
        pytest.param({}, None, None, id="nothing-known"),
        pytest.param({"metrics": {"predict_time": 3}}, 3.0, None, id="measured"),
        pytest.param(
            {
                "metrics": {"predict_time": 0.5},
                "started_at": NOON,
                "completed_at": NOON + timedelta(seconds=9),
            },
            0.5,
            None,
            id="measured-wins-over-clock",
        ),
        pytest.param(
            {
                "created_at": NOON,
                "started_at": NOON + timedelta(seconds=2),
                "completed_at": NOON + timedelta(seconds=5),
            },
            3.0,
            2.0,
            id="by-clock",
        ),
        pytest.param(
            {
                "metrics": {"predict_time": "0.5"},
                "started_at": NOON,
                "completed_at": NOON + timedelta(seconds=9),
            },
            9.0,
            None,
            id="measurement-that-is-no-number",
        ),
        pytest.param(
            {"created_at": NOON, "started_at": NOON - timedelta(seconds=2)},
            None,
            0.0,
            id="clocks-out-of-order-are-never-negative",
        ),
    ],
)
def test_times(fields: dict[str, Any], run_time: float | None, queue_time: float | None) -> None:
    assert prediction(**fields).run_time == run_time
    assert prediction(**fields).queue_time == queue_time


@pytest.mark.parametrize(
    ("status", "completed_at", "expires_at"),
    [
        pytest.param("succeeded", NOON, NOON + timedelta(hours=1), id="an-hour-after-completion"),
        pytest.param("succeeded", None, None, id="completion-not-known"),
        # The recorded envelope of a running prediction has a `completed_at` inside.
        pytest.param("processing", NOON, None, id="not-finished"),
    ],
)
def test_expires_at(
    status: str, completed_at: datetime | None, expires_at: datetime | None
) -> None:
    assert prediction(status=status, completed_at=completed_at).expires_at == expires_at


def test_has_no_field_for_a_credential() -> None:
    fields = {name for kind in (Prediction, SavedFile, Cancellation) for name in kind.model_fields}
    fields -= {"record_key"}  # a name in the ledger
    assert not {name for name in fields if "key" in name or "token" in name or "secret" in name}
