"""The log of a run, which reads like a story."""

from __future__ import annotations

import logging
import time

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from prefect_cometapi.batch_models import BatchResult
from prefect_cometapi.batch_rules import counted
from prefect_cometapi.models import Cancellation, Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.tally import BatchObserver, BatchOptions, Tally, progress_line

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class RunLog(Observer):
    """Writes to the log of the running task or flow, or to Prefect's own log outside of one."""

    def __init__(self, log: Log | None = None) -> None:
        try:
            self.log: Log = log or get_run_logger()
        except MissingContextError:
            self.log = get_logger("cometapi")
        self._lines_seen: dict[str, int] = {}

    def created(self, prediction: Prediction) -> None:
        """It was created, and is paid for."""
        self.log.info("Created prediction %s of %s.", prediction.id, prediction.model)

    def found(self, prediction: Prediction) -> None:
        """It had been created by an earlier attempt of the same run."""
        self.log.info(
            "Found prediction %s of %s, which this scope has created before; it is %s. Nothing is "
            "paid twice (pass another `sample` for one more of the same input).",
            prediction.id,
            prediction.model,
            prediction.status,
        )

    def polled(self, prediction: Prediction) -> None:
        """Its state was read: the model's own new log lines, and how it ended."""
        lines, seen = prediction.logs.splitlines(), self._lines_seen.get(prediction.id, 0)
        if not (prediction.finished or prediction.logs.endswith("\n")):
            lines = lines[:-1]  # it may go on
        for line in lines[seen:]:
            self.log.debug("%s: %s", prediction.id, line)
        self._lines_seen[prediction.id] = max(seen, len(lines))
        if prediction.finished:
            ran = f" after {prediction.run_time:.1f} s" if prediction.run_time is not None else ""
            self.log.info("Prediction %s %s%s.", prediction.id, prediction.status, ran)

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        if not files:
            self.log.warning("Prediction %s made no output to save.", prediction.id)
            return
        self.log.info(
            "Saved %d %s of prediction %s (%s): %s",
            len(files),
            "file" if len(files) == 1 else "files",
            prediction.id,
            _size(sum(file.size for file in files)),
            ", ".join(file.location for file in files),
        )

    def kept(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs had been saved by an earlier attempt."""
        self.log.info(
            "The outputs of prediction %s were saved before: %s",
            prediction.id,
            ", ".join(file.location for file in files) or "there are none",
        )

    def canceled(self, cancellation: Cancellation) -> None:
        """The service was asked to cancel it, and answered."""
        level = logging.INFO if cancellation.accepted else logging.WARNING
        self.log.log(level, cancellation.message)

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
        self.log.warning(message)


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


#: A line of progress is written whenever so much of the time has passed again, in seconds: a short
#: batch is told of soon, and a night's batch by a few dozen lines.
LINE_SHARE, LINE_MIN, LINE_MAX = 0.2, 10.0, 300.0
#: How many troubles are told one by one in the time between two lines.
TROUBLES = 5


class BatchLog(BatchObserver):
    """Writes how a batch goes on to the log of its run."""

    def __init__(self, log: Log | None = None) -> None:
        self._log = log or RunLog().log
        self._next_line = 0.0
        self._troubles = 0

    def began(self, tally: Tally, options: BatchOptions, ledger: str) -> None:
        """It is about to look at the first input."""
        if not options.dry_run:
            number = "" if tally.expected is None else f" of {counted(tally.expected)}"
            self._log.info(
                "A batch%s of %s, scope %r; its records are in the %s.",
                number,
                options.model,
                options.scope,
                ledger,
            )
        self._next_line = tally.started + LINE_MIN

    async def tick(self, tally: Tally) -> None:
        """A second has passed: perhaps it is time for a line."""
        now = time.monotonic()
        if now >= self._next_line:
            pause = (now - tally.started) * LINE_SHARE
            self._next_line = now + min(max(pause, LINE_MIN), LINE_MAX)
            self._log.info("%s", progress_line(tally, now))
            self._tell_of_the_rest()

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with: the first are told, then their number."""
        self._troubles += 1
        if self._troubles <= TROUBLES:
            self._log.warning(message)
        else:
            self._log.debug(message)

    async def finished(self, result: BatchResult, tally: Tally) -> None:
        """It is over."""
        self._tell_of_the_rest()
        if result.dry_run:
            cost = result.estimated_cost
            price = "no price is set for all models" if cost is None else f"an estimated {cost:g}"
            self._log.info(
                "A dry run: %s, of %s; to create: %s predictions (%s). Nothing was sent.",
                result.summary,
                counted(result.inputs),
                f"{result.created:,}",
                price,
            )
            return
        self._log.info(
            "%s, of %s in %.1f s; %s created now, %s paid for before. Manifest: %s",
            result.summary,
            counted(result.inputs),
            result.seconds,
            f"{result.created:,}",
            f"{result.found:,}",
            result.manifest,
        )

    def _tell_of_the_rest(self) -> None:
        if (more := self._troubles - TROUBLES) > 0:
            self._log.warning(
                "… and %d more warnings like these; they are in the log at DEBUG.", more
            )
        self._troubles = 0
