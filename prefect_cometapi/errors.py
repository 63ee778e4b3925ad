"""The exception tree. Every message says what happened, to which prediction, and what to do next.

    CometAPIError
    ├── ConfigurationError          a setting, a credential or a URL is not usable
    │   └── MissingAPIKey           no key was found anywhere
    ├── InvalidInput                refused here, before anything was sent (also a ValueError)
    ├── RequestError                one HTTP request did not bring what was asked for
    │   ├── NeverDelivered          nothing reached the service: safe to send again
    │   ├── RateLimited             429: not accepted, wait
    │   ├── UnknownOutcome          sent, then no usable answer: it may have been carried out
    │   └── RequestRejected         the service said no; sending the same again will not help
    │       ├── AccountError        key, permission, quota or credit (401, 402, 403)
    │       ├── InputRejected       the model's input is wrong (400, 422, 500 invalid_request)
    │       ├── ModelNotFound       no such model for this account
    │       └── PredictionNotFound  no such prediction (any more)
    ├── LedgerError                 what was submitted could not be looked up; nothing was sent
    ├── SubmissionInDoubt           a create may have been accepted and paid for; its id is lost
    ├── PredictionError             the prediction itself did not succeed
    │   ├── PredictionFailed        failed or aborted, with the service's reason
    │   │   └── ContentRefused      by the service's filter of contents
    │   ├── PredictionCanceled      somebody canceled it
    │   └── PredictionTimeout       not finished at the deadline; still running and collectable
    ├── PromptsNotWritten           a language model did not write the prompts asked for
    ├── BatchFailed                 items of a batch went wrong; everything else was done first
    │   └── BatchStopped            it was ended before all was tried
    └── OutputError                 the prediction succeeded, its files could not be brought home
        ├── OutputExpired           the service has deleted the outputs
        ├── OutputRefused           a URL that may not be talked to, or a file that is too large
        ├── OutputUnavailable       the delivery host is in trouble, or too slow
        ├── OutputDamaged           cut short, empty, or not what it claims to be
        └── StorageError            the storage did not take the file

All of them survive pickling, so that Prefect can store them as results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from prefect_cometapi.batch_models import BatchResult
    from prefect_cometapi.models import Prediction


class CometAPIError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(CometAPIError, ValueError):
    """A setting, a credential or a URL is not usable as it is."""


class MissingAPIKey(ConfigurationError):
    """No API key was found anywhere."""


class InvalidInput(CometAPIError, ValueError):
    """An argument was refused before anything was sent, so nothing was paid."""


class RequestError(CometAPIError):
    """One HTTP request did not bring what was asked for.

    Attributes:
        status: HTTP status of the reply, or None where none came.
        code: The service's machine-readable error code, where it sent one.
        request_id: The service's own id of the request; its support asks for it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id


class NeverDelivered(RequestError):
    """Nothing reached the service (refused, DNS, TLS, proxy): nothing was paid."""


class RateLimited(RequestError):
    """The service asked to slow down (429); the request was not accepted.

    Attributes:
        retry_after: Seconds that the service asked to wait, or None where it named none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class UnknownOutcome(RequestError):
    """The request was sent and no usable answer came: it may have been carried out."""


class RequestRejected(RequestError):
    """The service refused the request; sending the same again will not help."""


class AccountError(RequestRejected):
    """The key, its permissions, the quota or the credit (401, 402, 403)."""


class InputRejected(RequestRejected):
    """The service says that the model's input is wrong.

    Attributes:
        invalid_fields: One line a field, as the service words it.
    """

    def __init__(
        self, message: str, *, invalid_fields: tuple[str, ...] = (), **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.invalid_fields = invalid_fields


class ModelNotFound(RequestRejected):
    """The service has no such model for this account."""


class PredictionNotFound(RequestRejected):
    """The service knows no prediction with this id."""


class LedgerError(CometAPIError):
    """The ledger of submissions could not be reached, so nothing was sent."""


class SubmissionInDoubt(CometAPIError):
    """A create was sent and may have been accepted and paid for, but its id is not known.

    It is never sent again unasked, because every accepted create costs money.

    Attributes:
        record_key: Its record in the ledger, for the commands of `ledger`; None without one.
        abandoned: A person has given it up, and nothing is left to decide.
        cause: What has just happened to its create; None where it was found to be in doubt.
        request_id: The service's own id of that create, where an answer came that names one.
    """

    def __init__(
        self,
        message: str,
        *,
        record_key: str | None = None,
        abandoned: bool = False,
        cause: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.record_key, self.abandoned = record_key, abandoned
        self.cause, self.request_id = cause, request_id


class PredictionError(CometAPIError):
    """The prediction did not succeed.

    Attributes:
        prediction: Its last known state, or None.
    """

    def __init__(self, message: str, *, prediction: Prediction | None = None) -> None:
        super().__init__(message)
        self.prediction = prediction


class PredictionFailed(PredictionError):
    """The prediction ended as failed or aborted."""


class ContentRefused(PredictionFailed):
    """The service's filter refused the prompt or the result; the same again is not tried."""


class PredictionCanceled(PredictionError):
    """The prediction was canceled."""


class PredictionTimeout(PredictionError):
    """The prediction was not finished at the deadline. It goes on, and can still be collected."""


class PromptsNotWritten(CometAPIError):
    """A language model did not write as many usable prompts as it was asked for, in several rounds.

    Attributes:
        prompts: Those that it wrote.
    """

    def __init__(self, message: str, *, prompts: list[str] | None = None) -> None:
        super().__init__(message)
        self.prompts = prompts or []


class BatchFailed(CometAPIError):
    """Items of a batch went wrong; everything else was done first.

    Attributes:
        result: What became of the batch; always there where this package raises it.
    """

    def __init__(self, message: str, *, result: BatchResult | None = None) -> None:
        super().__init__(message)
        self.result = cast("BatchResult", result)


class BatchStopped(BatchFailed):
    """A batch was ended before all was tried. What was under way was brought to its end."""


class OutputError(CometAPIError):
    """The prediction succeeded, but an output could not be brought to storage."""


class OutputExpired(OutputError):
    """The service has deleted the outputs (it does so one hour after completion)."""


class OutputRefused(OutputError):
    """An output that this package will not fetch: a forbidden URL, or over the size limit."""


class OutputUnavailable(OutputError):
    """An output could not be fetched: its host is in trouble, out of reach or too slow."""


class OutputDamaged(OutputError):
    """An output arrived cut short, empty, or is not what it claims to be."""


class StorageError(OutputError):
    """The storage did not take a file, or can not be written to."""
