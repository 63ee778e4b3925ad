"""Failures that are expected, in the log of a run: said once, in words, without a traceback.

Prefect logs the exception of a task with its traceback, again for the flow, and its text once more
in "Finished in state Failed('…')". For an error of this package the reason is all there is to know,
so it is one line at ERROR. At the level DEBUG the tracebacks are there. What else goes wrong, a bug
in a flow, is logged as ever.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from weakref import WeakKeyDictionary

from prefect_cometapi.errors import CometAPIError

#: The loggers of runs, and of the process that a worker starts for one; and where in Prefect it is
#: that a failure is logged to them. What users log themselves is theirs.
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
_ENGINES = ("flow_engine", "task_engine", "engine")
_FINISHED = re.compile(r"(Finished in state \w+\().+\)", re.DOTALL)
_MANY = 1000


def is_expected(error: object) -> bool:
    """True for an error of this package, and for a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_expected, error.exceptions))
    return isinstance(error, CometAPIError)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def _said(error: BaseException) -> str:
    return "\n".join(f"{type(each).__name__}: {each}" for each in _leaves(error))


class _Plainly(logging.Filter):
    """Rewrites the lines of runs about such errors, and leaves out what has been said."""

    def __init__(self) -> None:
        super().__init__()
        #: In the logs of which flow runs an error was told.
        self._told: WeakKeyDictionary[BaseException, set[str]] = WeakKeyDictionary()
        #: The class of the last one that a run was told to have failed with.
        self._ended: OrderedDict[str, str] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record, or refuse it."""
        if record.module not in _ENGINES:
            return True
        try:
            return self._filter(record)
        except Exception:  # an odd line is better than a run that fails for it
            return True

    def _filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            return self._tell(record, error) if is_expected(error) else True
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:  # of a task that is tried again
            if isinstance(argument, BaseException) and is_expected(argument):
                _reword(record, argument)
        return self._finish(record)

    def _tell(self, record: logging.LogRecord, error: BaseException) -> bool:
        """Say what went wrong, once in each flow run's log."""
        _reword(record, error)
        flow_run = str(getattr(record, "flow_run_id", ""))
        told = [self._told.setdefault(each, set()) for each in _leaves(error)]
        known = all(flow_run in runs if flow_run else runs for runs in told)
        for runs in told:
            runs.add(flow_run)
        self._ended[_run_of(record)] = type(error).__name__
        if len(self._ended) > _MANY:
            self._ended.popitem(last=False)
        if known:
            _lower(record, logging.DEBUG)
        debug = logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        if not debug:
            record.exc_info = record.exc_text = None
        return debug or not known

    def _finish(self, record: logging.LogRecord) -> bool:
        """Of the line that a run has ended, leave out why where that was told."""
        line = _FINISHED.fullmatch(str(record.msg))
        told = self._ended.pop(_run_of(record), None) if line else None
        if line is None or told is None or told not in line[0]:
            return True
        record.msg = f"{line[1]})"
        _lower(record, logging.INFO)  # which it is for flow runs in any case
        return logging.getLogger(record.name).isEnabledFor(logging.INFO)


def _reword(record: logging.LogRecord, error: BaseException) -> None:
    """Say an error in words, where Python's own notation of it is."""
    text = record.getMessage().replace(repr(error), _said(error))
    record.msg, record.args = text, ()


def _lower(record: logging.LogRecord, level: int) -> None:
    record.levelno, record.levelname = level, logging.getLevelName(level)


def _run_of(record: logging.LogRecord) -> str:
    """The id of the task run or the flow run that a record is of."""
    return str(getattr(record, "task_run_id", None) or getattr(record, "flow_run_id", ""))


_plainly = _Plainly()


def tell_failures_plainly() -> None:
    """Filter what Prefect logs of failures; may be called any number of times."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_plainly)  # which adds it once
