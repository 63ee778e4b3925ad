"""What a reply says: a `Reply` in, a `Prediction` or a classified error out. No I/O, no clock.

Two shapes arrive: the plain prediction of Replicate's API, and the same inside a task envelope.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prefect_cometapi.errors import InvalidInput, RequestError, UnknownOutcome
from prefect_cometapi.failures import (
    Call,
    Reply,
    as_text,
    code_of,
    quote,
    raise_for_error,
    request_id_of,
)
from prefect_cometapi.models import Cancellation, Prediction, PredictionStatus
from prefect_cometapi.urls import check_prediction_id

#: Every status of both reply shapes. A word that is not here means "not finished": only the
#: caller's deadline ends that wait.
STATUSES: Mapping[str, PredictionStatus] = {
    "starting": PredictionStatus.STARTING,
    "processing": PredictionStatus.PROCESSING,
    "succeeded": PredictionStatus.SUCCEEDED,
    "failed": PredictionStatus.FAILED,
    "canceled": PredictionStatus.CANCELED,
    "aborted": PredictionStatus.ABORTED,
    "not_start": PredictionStatus.STARTING,
    "submitted": PredictionStatus.STARTING,
    "queued": PredictionStatus.STARTING,
    "in_progress": PredictionStatus.PROCESSING,
    "unknown": PredictionStatus.PROCESSING,
    "success": PredictionStatus.SUCCEEDED,
    "failure": PredictionStatus.FAILED,
    "error": PredictionStatus.FAILED,
    "cancelled": PredictionStatus.CANCELED,
}


def encode_create(input: Mapping[str, Any]) -> bytes:
    """The body of a create. Refuses what JSON can not carry, before anything is sent.

    Raises:
        InvalidInput: Not an object, not JSON, or NaN or an infinity in it.
    """
    if not isinstance(input, Mapping):
        raise InvalidInput(
            f"The input is a {type(input).__name__}, not an object of parameters such as "
            '{"prompt": "A paper boat"}. Nothing was sent.'
        )
    try:
        _check_names(input)
        return json.dumps({"input": dict(input)}, allow_nan=False, ensure_ascii=False).encode()
    except InvalidInput:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        # UnicodeEncodeError (half of a surrogate pair) is a ValueError too.
        raise InvalidInput(f"The input is not valid JSON: {error}. Nothing was sent.") from None


def _check_names(value: object) -> None:
    # json.dumps would quietly write {1: …} as {"1": …}, and two such names as one.
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise InvalidInput(
                    f"The input has a parameter named {name!r}, not a text. Nothing was sent."
                )
            _check_names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_names(inner)


def parse_create(
    reply: Reply, *, api_root: str, model: str, input: Mapping[str, Any], submitted_at: datetime
) -> Prediction:
    """Read the answer to a create.

    Raises:
        RequestError: Classified; `UnknownOutcome` where the create may have been accepted.
    """
    raise_for_error(reply, Call.CREATE, f"model {model}")
    record, envelope = _unwrap(reply.json)
    # Text only: the envelope's number beside the task id is a row of the gateway's database.
    ids = (record.get("id"), envelope.get("id"), envelope.get("task_id"), record.get("task_id"))
    prediction_id = next((found for found in ids if isinstance(found, str) and found), "")
    try:
        check_prediction_id(prediction_id)
    except InvalidInput:
        raise _unreadable(
            reply, f"The create of a prediction of {model} was answered without a usable id"
        ) from None
    prediction = _prediction(record, envelope, api_root, prediction_id, model)
    return prediction.model_copy(
        update={"input": prediction.input or dict(input), "submitted_at": submitted_at}
    )


def parse_query(
    reply: Reply,
    *,
    api_root: str,
    prediction_id: str,
    model: str = "",
    call: Call = Call.QUERY,
) -> Prediction | None:
    """Read the answer to a query; None means that the service has nothing to tell yet.

    Args:
        reply: The answer.
        api_root: Where it was asked for.
        prediction_id: The id that was asked for. It is kept, whatever id the answer names,
            because it is the one that is known to work.
        model: What to call the model where the answer does not say.
        call: What the answer is to; a cancel is answered like a query.

    Raises:
        RequestError: Classified.
    """
    raise_for_error(reply, call, f"prediction {prediction_id}")
    body = reply.json
    if isinstance(body, dict) and body.get("code") == "success" and not body.get("data"):
        return None
    record, envelope = _unwrap(body)
    if not any(isinstance(part.get("status"), str) for part in (record, envelope)):
        raise _unreadable(reply, f"The answer about prediction {prediction_id} is no prediction")
    return _prediction(record, envelope, api_root, prediction_id, model)


def parse_cancel(
    reply: Reply, *, api_root: str, prediction_id: str, model: str = ""
) -> Cancellation:
    """Read the answer to a cancel. Never raises: canceling is best effort, and says what came."""
    prediction = None
    try:
        prediction = parse_query(
            reply, api_root=api_root, prediction_id=prediction_id, model=model, call=Call.CANCEL
        )
    except RequestError as error:
        message = str(error)
    else:
        message = _cancel_message(prediction_id, prediction)
    return Cancellation(
        prediction_id=prediction_id,
        accepted=prediction is not None and prediction.status in _STOPPED,
        message=message,
        prediction=prediction,
    )


_STOPPED = (PredictionStatus.CANCELED, PredictionStatus.ABORTED)


def _cancel_message(prediction_id: str, prediction: Prediction | None) -> str:
    if prediction is None:
        return f"The cancel of prediction {prediction_id} was answered without saying its state."
    if prediction.status in _STOPPED:
        return f"Prediction {prediction_id} is canceled."
    if prediction.finished:
        return f"Prediction {prediction_id} had already ended as {prediction.status}."
    return (
        f"The cancel of prediction {prediction_id} was taken, but the service still reports it as "
        f"{prediction.service_status}."
    )


def _unreadable(reply: Reply, what: str) -> UnknownOutcome:
    return UnknownOutcome(
        f"{what} (HTTP {reply.status}).{quote(reply)}",
        status=reply.status,
        code=code_of(reply.json) or None,
        request_id=request_id_of(reply),
    )


def _unwrap(body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The prediction itself, and the task envelope around it; either may be empty."""
    if not isinstance(body, dict):
        return {}, {}
    if "data" not in body or ("id" in body and "status" in body):
        return body, {}
    data = body["data"]
    if isinstance(data, str):  # an envelope that holds nothing but the id
        return {}, {"task_id": data}
    if not isinstance(data, dict):
        return {}, {}
    inner = data.get("data")
    if isinstance(inner, dict):
        return inner, data
    return data, data  # one level only: whichever fields are there


def _prediction(
    record: dict[str, Any], envelope: dict[str, Any], api_root: str, prediction_id: str, model: str
) -> Prediction:
    # The inner prediction's fields win over the envelope's, which lags behind it; a word that
    # only one of them has in a known form is taken from that one.
    words = [str(word) for word in (record.get("status"), envelope.get("status")) if word]
    known = [word for word in words if word.lower() in STATUSES]
    word = (known or words or [""])[0]
    status = STATUSES.get(word.lower(), PredictionStatus.PROCESSING)
    succeeded = status is PredictionStatus.SUCCEEDED
    output = record.get("output")
    if output is None and succeeded:
        output = envelope.get("result_url") or None
    # An envelope whose prediction is missing names one output at most, of however many there are.
    told = record is not envelope and str(record.get("status")).lower() in STATUSES
    pending = succeeded and not told and record.get("output") is None
    reason = _first(record.get("error"), envelope.get("fail_reason"))
    inputs, metrics = record.get("input"), record.get("metrics")
    return Prediction(
        id=prediction_id,
        model=as_text(record.get("model")) or model,
        status=PredictionStatus.PROCESSING if pending else status,
        service_status=word,
        api_root=api_root,
        input=inputs if isinstance(inputs, dict) else {},
        output=output,
        outputs_pending=pending,
        error=as_text(reason) or None if not succeeded else None,
        logs=as_text(record.get("logs")),
        metrics=metrics if isinstance(metrics, dict) else {},
        version=as_text(record.get("version")) or None,
        data_removed=record.get("data_removed") is True,
        created_at=_time(_first(record.get("created_at"), envelope.get("submit_time"))),
        started_at=_time(_first(record.get("started_at"), envelope.get("start_time"))),
        completed_at=_time(_first(record.get("completed_at"), envelope.get("finish_time"))),
    )


def _first(*values: Any) -> Any:
    """The first value that says something: the service writes 0 and "" for "none"."""
    return next((value for value in values if value), None)


def _time(value: Any) -> datetime | None:
    """A moment, from ISO 8601 text or from seconds or milliseconds since 1970."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, int | float) and value > 0:
            return datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
