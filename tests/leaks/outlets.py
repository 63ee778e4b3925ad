"""Where a process of the leak test writes: everything at DEBUG, tracebacks with local variables."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.traceback import Traceback

LOGGERS = (
    *("asyncio", "httpx", "httpcore", "prefect", "prefect_cometapi", "websockets"),
    *(f"httpcore.{part}" for part in ("connection", "http11", "proxy")),
    *("prefect.flow_runs", "prefect.task_runs", "prefect.cometapi", "prefect.client"),
)
#: What happened, for the test: names of exceptions and of what was given.
SEEN: list[str] = []


class _WithArguments(logging.Formatter):
    """A line, and what it was made of."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)} {record.msg!r} {record.args!r}"


class _WithLocals(logging.Formatter):
    """What Sentry and pytest's --showlocals make of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        text, record.exc_text = record.exc_text, None  # which the other formatters made
        try:
            return super().format(record)
        finally:
            record.exc_text = text

    def formatException(self, ei: object) -> str:  # noqa: N802 - the library's name
        assert isinstance(ei, tuple)
        return "".join(traceback.TracebackException(*ei, capture_locals=True).format())


def open_outlets() -> None:
    """Write what every logger says to standard error and, with local variables, to files."""
    plain, with_locals = logging.StreamHandler(), logging.FileHandler("locals.log", "w", "utf-8")
    plain.setFormatter(_WithArguments("%(threadName)s %(name)s %(message)s"))
    with_locals.setFormatter(_WithLocals("%(name)s %(message)s"))
    with_locals.setLevel(logging.ERROR)
    for name in ("", *LOGGERS):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
        if not name or not logger.propagate:
            logger.addHandler(plain)
            logger.addHandler(with_locals)


def _as_rich_shows_it(error: BaseException) -> str:
    """The local variables in rich's tracebacks; laying them out would take seconds each time."""
    trace = Traceback.extract(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_length=100,
        locals_max_string=10_000,
    )
    return "".join(
        f"{frame.name}: {name} = {node}\n"
        for stack in trace.stacks
        for frame in stack.frames
        for name, node in (frame.locals or {}).items()
    )


def tell(error: BaseException, *, with_locals: bool = True) -> None:
    """Write an exception in every way there is."""
    SEEN.append(type(error).__name__)
    if with_locals:
        logging.getLogger("told").error("It failed: %r", error, exc_info=error)
        with Path("rich-locals.log").open("a") as file:
            file.write(_as_rich_shows_it(error))
    else:
        print("".join(traceback.format_exception(error)), repr(error), vars(error), file=sys.stderr)


def attempt(work: Callable[[], object], *, with_locals: bool = True) -> None:
    """Do something that may fail."""
    try:
        result = work()
    except Exception as error:
        tell(error, with_locals=with_locals)
    else:
        SEEN.append(type(result).__name__)
        logging.getLogger("told").debug("It worked: a %s", type(result).__name__)


def close_outlets() -> None:
    """Say what was seen."""
    Path("seen.json").write_text(json.dumps(SEEN))
