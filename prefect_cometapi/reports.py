"""What the Prefect UI is told about predictions: the log of a run, read like a story."""

from __future__ import annotations

import logging

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from prefect_cometapi.models import Cancellation, Prediction, SavedFile
from prefect_cometapi.observer import Observer

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class RunLog(Observer):
    """Writes to the log of the running task or flow, or to Prefect's own log outside of one."""

    def __init__(self, log: Log | None = None) -> None:
        try:
            self._log: Log = log or get_run_logger()
        except MissingContextError:
            self._log = get_logger("cometapi")
        self._lines_seen: dict[str, int] = {}

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        self._log.info("Created prediction %s of %s.", prediction.id, prediction.model)

    def found(self, prediction: Prediction) -> None:
        """It had been created by an earlier attempt of the same run."""
        self._log.info(
            "Found prediction %s of %s, which this scope has created before; it is %s. Nothing is "
            "paid twice (pass another `sample` for one more of the same input).",
            prediction.id,
            prediction.model,
            prediction.status,
        )

    def polled(self, prediction: Prediction) -> None:
        """Its state was read: the model's own new log lines, and how it ended."""
        lines, seen = prediction.logs.splitlines(), self._lines_seen.get(prediction.id, 0)
        for line in lines[seen:]:
            self._log.debug("%s: %s", prediction.id, line)
        self._lines_seen[prediction.id] = max(seen, len(lines))
        if prediction.finished:
            ran = f" after {prediction.run_time:.1f} s" if prediction.run_time is not None else ""
            self._log.info("Prediction %s %s%s.", prediction.id, prediction.status, ran)

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        if not files:
            self._log.warning("Prediction %s made no output to save.", prediction.id)
            return
        self._log.info(
            "Saved %d %s of prediction %s (%s): %s",
            len(files),
            "file" if len(files) == 1 else "files",
            prediction.id,
            _size(sum(file.size for file in files)),
            ", ".join(file.location for file in files),
        )

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved by an earlier attempt."""
        self._log.info(
            "The outputs of prediction %s were saved before: %s",
            prediction.id,
            ", ".join(file.location for file in files) or "there are none",
        )

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it, and answered."""
        level = logging.INFO if cancellation.accepted else logging.WARNING
        self._log.log(level, cancellation.message)

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
        self._log.warning(message)


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"
