"""How a prediction ended, as a result or an error with what to do next. Pure."""

from __future__ import annotations

import re

from prefect_cometapi.errors import (
    ContentRefused,
    PredictionCanceled,
    PredictionFailed,
    PredictionNotFound,
    PredictionTimeout,
    RequestError,
)
from prefect_cometapi.models import Prediction, PredictionStatus


def _again(prediction: Prediction) -> str:
    if prediction.record_key is None:
        return "To make it again, at a new price, create it once more."
    return (
        "To make it again, at a new price: `python -m prefect_cometapi ledger resubmit "
        f"{prediction.record_key}`, and run again in the same scope; or ask for another `sample`."
    )


#: What models and their filters say of a prompt or a picture that they refuse (seen on Replicate:
#: "NSFW content detected", "flagged as sensitive (E005)"; the rest are their neighbours).
_REFUSAL = re.compile(
    r"\bnsfw\b|\bE005\b|flagged as sensitive|safety (filter|checker|system|policy)"
    r"|content (policy|filter|moderation)|moderation (filter|policy|system)|\bmoderated\b",
    re.IGNORECASE,
)


def refuses_content(reason: str) -> bool:
    """True where a failure's reason is the content: the same again would be refused again."""
    return _REFUSAL.search(reason) is not None


#: Seconds that the service may take to hand over the outputs of what it calls a success.
HANDOVER = 60.0


def handed_over(prediction: Prediction, seconds: float) -> Prediction:
    """The prediction as it counts after so many seconds in which no more than this came.

    A success whose outputs never come is one with the output that the envelope named; without any
    it is waited for, except where its outputs are deleted by now.
    """
    if not prediction.outputs_pending:
        return prediction
    taken = prediction.model_copy(update={"status": PredictionStatus.SUCCEEDED})
    deleted = prediction.completed_at is not None and taken.past_lifetime
    enough = seconds >= HANDOVER and prediction.output is not None
    return taken if enough or deleted else prediction


def succeeded(prediction: Prediction) -> Prediction:
    """The finished prediction, if it succeeded.

    Raises:
        PredictionCanceled: It was canceled.
        ContentRefused: A filter refused its content.
        PredictionFailed: It failed or was aborted.
    """
    if prediction.status is PredictionStatus.SUCCEEDED:
        return prediction
    if prediction.status is PredictionStatus.CANCELED:
        raise PredictionCanceled(
            f"{_ended(prediction, 'was canceled')} The time it ran is billed. "
            f"{_again(prediction)}{_last_lines(prediction)}",
            prediction=prediction,
        )
    if refuses_content(prediction.error or ""):
        raise ContentRefused(
            f"{_ended(prediction, 'was refused for its content')} Change the prompt; the same "
            f"again would be refused again.{_last_lines(prediction)}",
            prediction=prediction,
        )
    aborted = prediction.status is PredictionStatus.ABORTED
    how = "was aborted before it ran, and not billed" if aborted else "failed"
    raise PredictionFailed(
        f"{_ended(prediction, how)} {_again(prediction)}{_last_lines(prediction)}",
        prediction=prediction,
    )


def not_found(prediction: Prediction, error: RequestError) -> RequestError:
    """The error with what to do about the record, where the service knows no such prediction."""
    if not isinstance(error, PredictionNotFound) or prediction.record_key is None:
        return error
    command, key = "python -m prefect_cometapi ledger", prediction.record_key
    return PredictionNotFound(
        f"{error} If its record was given a wrong id: `{command} abandon {key}`, then "
        f"`{command} adopt {key} PREDICTION_ID`. To make it again, at a new price: `{command} "
        f"abandon {key}`, then `{command} resubmit {key}`.",
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )


def _collect(prediction: Prediction) -> str:
    if prediction.record_key is None:
        return ""
    return (
        f" (or `python -m prefect_cometapi ledger collect {prediction.record_key} --storage "
        "STORAGE`)"
    )


def late(prediction: Prediction, timeout: float, trouble: str = "") -> PredictionTimeout:
    """The error for a prediction that is left running at its deadline."""
    return PredictionTimeout(
        f"{_not_seen_to_finish(prediction, timeout, trouble)} Nothing was canceled. If it exists "
        "it goes on, and can be collected without paying again: "
        f'poll_prediction(credentials, "{prediction.id}"){_collect(prediction)}.'
        f"{_last_lines(prediction)}",
        prediction=prediction,
    )


def late_and_canceled(prediction: Prediction, timeout: float, answer: str) -> PredictionTimeout:
    """The error for a prediction that was canceled at its deadline, as the caller wished."""
    return PredictionTimeout(
        f"{_not_seen_to_finish(prediction, timeout, '')} The service was asked to cancel it: "
        f"{answer} The time it ran is billed. {_again(prediction)}{_last_lines(prediction)}",
        prediction=prediction,
    )


def _not_seen_to_finish(prediction: Prediction, timeout: float, trouble: str) -> str:
    status = prediction.service_status or prediction.status
    if prediction.outputs_pending:
        status += ", but the service has not handed over its outputs"
    return (
        f"{_name(prediction)} was not seen to finish in {timeout:g} s; its last known status is "
        f"{status}.{' ' + trouble if trouble else ''}"
    )


def _name(prediction: Prediction) -> str:
    return f"Prediction {prediction.id}{f' of {prediction.model}' if prediction.model else ''}"


def _ended(prediction: Prediction, how: str) -> str:
    """How it ended, and the service's reason for that first: lists of runs show the beginning."""
    if not prediction.error:
        return f"{_name(prediction)} {how}; the service gave no reason."
    return f"{prediction.error.rstrip('.')}. {_name(prediction)} {how}."


def _last_lines(prediction: Prediction, lines: int = 5) -> str:
    last = [line for line in prediction.logs.splitlines() if line.strip()][-lines:]
    return (
        "\nThe last lines of its log:\n" + "\n".join(f"  {line}" for line in last) if last else ""
    )
