"""Who is told what happens to a prediction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from prefect_cometapi.models import Cancellation, Prediction, SavedFile

if TYPE_CHECKING:  # a rule knows no storage
    from prefect_cometapi.errors import OutputExpired, RequestError, SubmissionInDoubt
    from prefect_cometapi.ledger import Record
    from prefect_cometapi.stores import Store


class Observer:
    """Is told what happens to a prediction. The methods do nothing here."""

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""

    def found(self, prediction: Prediction) -> None:
        """It had been created by an earlier attempt of the same run, and is not paid for again."""

    def refused(self, error: Exception) -> None:
        """Its create was not accepted; it may still be offered again."""

    def in_doubt(self, record: Record, error: SubmissionInDoubt) -> None:
        """Its create may or may not have been accepted, and is not sent again."""

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""

    def poll_failed(self, prediction: Prediction, error: RequestError) -> None:
        """Asking for its state brought nothing; it is asked again."""

    def goes_to(self, store: Store, prefix: str) -> None:
        """That is where its outputs go."""

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved by an earlier attempt, and are still there."""

    def expired(self, prediction: Prediction, error: OutputExpired) -> None:
        """The service has deleted its outputs before they were saved."""

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it, and answered."""

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""

    async def over(self, error: BaseException | None) -> None:
        """Nothing more happens.

        Args:
            error: What it ended with; None where all went well.
        """


@asynccontextmanager
async def told_when_over(observer: Observer) -> AsyncIterator[None]:
    """Tell an observer when some work is over."""
    try:
        yield
    except BaseException as error:
        await observer.over(error)
        raise
    await observer.over(None)


class Observers(Observer):
    """Tells several, one after the other."""

    def __init__(self, *others: Observer) -> None:
        self._others = others

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        for other in self._others:
            other.created(prediction)

    def found(self, prediction: Prediction) -> None:
        """It had been created before."""
        for other in self._others:
            other.found(prediction)

    def refused(self, error: Exception) -> None:
        """Its create was not accepted."""
        for other in self._others:
            other.refused(error)

    def in_doubt(self, record: Record, error: SubmissionInDoubt) -> None:
        """Its create may or may not have been accepted."""
        for other in self._others:
            other.in_doubt(record, error)

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""
        for other in self._others:
            other.polled(prediction)

    def poll_failed(self, prediction: Prediction, error: RequestError) -> None:
        """Asking for its state brought nothing."""
        for other in self._others:
            other.poll_failed(prediction, error)

    def goes_to(self, store: Store, prefix: str) -> None:
        """That is where its outputs go."""
        for other in self._others:
            other.goes_to(store, prefix)

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        for other in self._others:
            other.saved(prediction, files)

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved before."""
        for other in self._others:
            other.kept(prediction, files)

    def expired(self, prediction: Prediction, error: OutputExpired) -> None:
        """Its outputs were deleted before they were saved."""
        for other in self._others:
            other.expired(prediction, error)

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it."""
        for other in self._others:
            other.canceled(cancellation)

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
        for other in self._others:
            other.trouble(message)

    async def over(self, error: BaseException | None) -> None:
        """Nothing more happens."""
        for other in self._others:
            await other.over(error)


class WithoutPrompts(Observers):
    """Tells others of predictions whose inputs they do not get to know: the setting `prompts`."""

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        super().created(without_input(prediction))

    def found(self, prediction: Prediction) -> None:
        """It had been created before."""
        super().found(without_input(prediction))

    def in_doubt(self, record: Record, error: SubmissionInDoubt) -> None:
        """Its create may or may not have been accepted."""
        super().in_doubt(record.model_copy(update={"excerpt": ""}), error)

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""
        super().polled(without_input(prediction))

    def poll_failed(self, prediction: Prediction, error: RequestError) -> None:
        """Asking for its state brought nothing."""
        super().poll_failed(without_input(prediction), error)

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        super().saved(without_input(prediction), files)

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved before."""
        super().kept(without_input(prediction), files)

    def expired(self, prediction: Prediction, error: OutputExpired) -> None:
        """Its outputs were deleted before they were saved."""
        super().expired(without_input(prediction), error)

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it."""
        known = cancellation.prediction and without_input(cancellation.prediction)
        super().canceled(cancellation.model_copy(update={"prediction": known}))


def without_input(prediction: Prediction) -> Prediction:
    """A prediction of which nobody knows the input."""
    return prediction.model_copy(update={"input": {}})
