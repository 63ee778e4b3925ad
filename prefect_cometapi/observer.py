"""Who is told what happens to a prediction."""

from __future__ import annotations

from prefect_cometapi.models import Cancellation, Prediction, SavedFile


class Observer:
    """Is told what happens to a prediction. The methods do nothing here."""

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""

    def found(self, prediction: Prediction) -> None:
        """It had been created by an earlier attempt of the same run, and is not paid for again."""

    def polled(self, prediction: Prediction) -> None:
        """Its state was read."""

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved by an earlier attempt, and are still there."""

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it, and answered."""

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
