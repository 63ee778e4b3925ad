"""A run's log says what went wrong once, in words and without a traceback, where it is an error of
this package; a bug has its traceback; and the state's message begins with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL

from prefect_cometapi import (
    CometAPICredentials,
    InvalidInput,
    PredictionFailed,
    acreate_prediction,
    generate,
    run_predictions,
)
from prefect_cometapi.failure_lines import is_expected, tell_failures_plainly
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT, boats
from tests.servers import BOAT, configure

pytestmark = pytest.mark.usefixtures("prefect_server")
INFO, ERROR = logging.INFO, logging.ERROR
Line = tuple[int, str]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)


@pytest.fixture
def credentials(cometapi_simulator: Simulator) -> CometAPICredentials:
    return CometAPICredentials.from_env()


def log_of(shape: Any) -> tuple[list[Line], str]:
    """What the server has of a run's log, to its end, and the message of its state."""
    state = shape(return_state=True)
    run, deadline = str(state.state_details.flow_run_id), time.monotonic() + 60
    words = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
    while True:
        answer = httpx.post(f"{PREFECT_API_URL.value()}/logs/filter", json=words)
        lines = answer.raise_for_status().json()
        if [
            each
            for each in lines
            if each["message"].startswith("Finished") and not each["task_run_id"]
        ]:
            break
        assert time.monotonic() < deadline, "the log has not arrived"
        time.sleep(0.1)
    message = httpx.get(f"{PREFECT_API_URL.value()}/flow_runs/{run}").json()["state"]["message"]
    return [(each["level"], each["message"]) for each in lines], message or ""


def matches(lines: list[Line], wanted: list[tuple[int, str]]) -> None:
    """The lines, one by one; a wanted text is the beginning, `…` stands for anything."""
    assert len(lines) == len(wanted), lines
    for (level, text), (wanted_level, beginning) in zip(lines, wanted, strict=True):
        pattern = ".*".join(map(re.escape, beginning.split("…")))
        assert re.match(pattern, text, re.DOTALL), (text, beginning)
        assert level == wanted_level, text


BEGIN, FAILED = (INFO, "Beginning flow run"), (INFO, "Finished in state Failed()")
CREATED = (INFO, f"Created prediction … of {TEXT}.")
CASES: dict[str, tuple[list[str], list[str], list[tuple[int, str]], str]] = {
    "failed": (
        [],
        ["failed"],
        [CREATED, (INFO, "Prediction … failed after 0.")],
        f"PredictionFailed: CUDA out of memory. Prediction … of {TEXT} failed. To make it again",
    ),
    "refused by the filter": (
        [],
        ["refused"],
        [CREATED, (INFO, "Prediction … failed after 0.")],
        f"ContentRefused: NSFW content detected. Prediction … of {TEXT} was refused for its",
    ),
    "in doubt": (
        ["lost"],
        [],
        [],
        f'SubmissionInDoubt: In doubt: the create of {TEXT} ("A paper boat", sample 0). It may '
        "have been accepted and paid for",
    ),
    "expired": (
        [],
        ["removed"],
        [CREATED, (INFO, "Prediction … succeeded after 0.")],
        "OutputExpired: The outputs of prediction … are deleted, as the service does one hour",
    ),
    "timed out": (
        [],
        ["endless"],
        [CREATED],
        f"PredictionTimeout: Prediction … of {TEXT} was not seen to finish in 0.5 s; its last",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_went_wrong_is_one_line(
    case: str, credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    creates, fates, story, reason = CASES[case]
    cometapi_simulator.script("create", creates)
    cometapi_simulator.script("prediction", fates)

    @flow
    def some_flow() -> None:
        generate(credentials, TEXT, BOAT, tmp_path, timeout=0.5)

    lines, message = log_of(some_flow)
    error = (ERROR, f"Task run failed with exception: {reason}")
    matches(lines, [BEGIN, *story, error, FAILED, FAILED])
    assert "Traceback" not in str(lines)
    assert "\\n" not in lines[-3][1]  # as Python would write the end of a line
    matches([(0, message)], [(0, f"Flow run encountered an exception: {reason}")])


def test_a_success_reads_like_a_story(credentials: CometAPICredentials, tmp_path: Path) -> None:
    @flow
    def some_flow() -> None:
        generate(credentials, TEXT, BOAT, tmp_path)

    completed = (INFO, "Finished in state Completed()")
    story = [
        CREATED,
        (INFO, "Prediction … succeeded after 0.… s."),
        (INFO, f"Saved 1 file of prediction … (… bytes): {tmp_path}"),
    ]
    matches(log_of(some_flow)[0], [BEGIN, *story, completed, completed])


def test_a_batch_with_failures(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"] * 2)

    @flow
    def some_flow() -> None:
        run_predictions(credentials, TEXT, boats(5), tmp_path)

    lines, message = log_of(some_flow)
    reason = "BatchFailed: 2 of 5 items went wrong: 3 saved, 2 failed (scope 'flow-run:"
    story = [
        (INFO, f"A batch of 5 items of {TEXT}, scope 'flow-run:"),
        (INFO, "3 saved, 2 failed, of 5 items in …; 5 created now, 0 paid for before. Manifest: "),
    ]
    error = (ERROR, f"Task run failed with exception: {reason}…\n- item … CUDA out of memory…\n")
    matches(lines, [BEGIN, *story, error, FAILED, FAILED])
    assert "Traceback" not in str(lines)
    assert message.startswith(f"Flow run encountered an exception: {reason}")


def test_async_flows_and_those_side_by_side(
    credentials: CometAPICredentials, cometapi_simulator: Simulator
) -> None:
    cometapi_simulator.set_fault("create.lost", 1.0)

    @flow
    async def some_flow() -> None:
        both = [acreate_prediction(credentials, TEXT, BOAT, sample=number) for number in range(2)]
        errors = await asyncio.gather(*both, return_exceptions=True)
        raise ExceptionGroup("both", [each for each in errors if isinstance(each, Exception)])

    async def run() -> Any:
        return await some_flow(return_state=True)

    lines, _ = log_of(lambda return_state: asyncio.run(run()))
    errors = [text for level, text in lines if level == ERROR]
    assert len(errors) == 2
    assert all("SubmissionInDoubt: In doubt: the create" in text for text in errors)
    assert "Traceback" not in str(lines)


def test_a_task_that_is_tried_again(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    patient: Any = generate.with_options(retries=1)

    @flow
    def some_flow() -> None:
        patient(credentials, TEXT, BOAT, tmp_path)

    lines, _ = log_of(some_flow)
    assert [level for level, text in lines if "CUDA out of memory" in text] == [INFO, ERROR]
    assert "PredictionFailed('" not in str(lines)
    assert "Traceback" not in str(lines)


def test_a_failure_of_the_flow_itself(credentials: CometAPICredentials) -> None:
    @flow
    def some_flow() -> None:
        generate.fn(credentials, "no model", BOAT, "anywhere")

    lines, message = log_of(some_flow)
    reason = "InvalidInput: …no model…Nothing was sent."
    matches(lines, [BEGIN, (ERROR, f"Encountered exception during execution: {reason}"), FAILED])
    matches([(0, message)], [(0, f"Flow run encountered an exception: {reason}")])


# --- bugs -------------------------------------------------------------------------------------


def test_a_bug_keeps_its_traceback(credentials: CometAPICredentials) -> None:
    @task
    def with_a_bug() -> None:
        raise KeyError("a bug")

    @flow
    def some_flow() -> None:
        with_a_bug()

    lines, message = log_of(some_flow)
    errors = [text for level, text in lines if level == ERROR]
    assert len([text for text in errors if "Traceback" in text and "with_a_bug" in text]) == 2
    assert (
        "Finished in state Failed(\"Task run encountered an exception KeyError: 'a bug'\")"
        in errors
    )
    assert message == "Flow run encountered an exception: KeyError: 'a bug'"


def test_a_bug_on_the_way_of_a_failure_keeps_it_too(
    credentials: CometAPICredentials, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])

    @flow
    def some_flow() -> None:
        try:
            generate(credentials, TEXT, BOAT, tmp_path)
        except PredictionFailed as error:
            raise RuntimeError("what now?") from error

    lines, message = log_of(some_flow)
    errors = [text for level, text in lines if level == ERROR]
    assert len(errors) == 2
    assert "Traceback" not in errors[0]
    assert "Traceback" in errors[1]
    assert lines[-1] == (INFO, f"Finished in state Failed({message!r})")


# --- without a server -------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[list[logging.LogRecord]]:
    """What comes through the filter of the log of flow runs."""
    found: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    log, handler = logging.getLogger("prefect.flow_runs"), Handler()
    level = log.level
    log.addHandler(handler)
    tell_failures_plainly()
    yield found
    log.setLevel(level)
    log.removeHandler(handler)


def log_as(module: str, error: BaseException, level: int = INFO, run: str = "a run") -> None:
    """Log an exception as a module of Prefect does."""
    log = logging.getLogger("prefect.flow_runs")
    log.setLevel(level)
    extra = {"flow_run_id": run}
    made = log.makeRecord(
        log.name, ERROR, f"{module}.py", 1, "It failed: %r", (error,), (type(error), error, None),
        extra=extra,
    )  # fmt: skip
    log.handle(made)


def test_at_debug_there_are_tracebacks(written: list[logging.LogRecord]) -> None:
    error = InvalidInput("two\nlines")
    log_as("flow_engine", error, logging.DEBUG)
    log_as("flow_engine", error, logging.DEBUG)
    assert [each.getMessage() for each in written] == ["It failed: InvalidInput: two\nlines"] * 2
    assert [each.levelno for each in written] == [ERROR, logging.DEBUG]
    assert all(each.exc_info for each in written)


def test_it_is_said_once_in_the_log_of_each_run(written: list[logging.LogRecord]) -> None:
    error = InvalidInput("no")
    for run in ("parent", "child", "parent"):
        log_as("flow_engine", error, run=run)
    assert [getattr(each, "flow_run_id", "") for each in written] == ["parent", "child"]
    assert not [each for each in written if each.exc_info]


def test_what_users_log_is_theirs(written: list[logging.LogRecord]) -> None:
    log_as("my_flow", InvalidInput("two\nlines"))
    assert written[0].exc_info
    assert written[0].getMessage() == "It failed: InvalidInput('two\\nlines')"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidInput("no"), True),
        (ExceptionGroup("all", [InvalidInput("no"), PredictionFailed("no")]), True),
        (ExceptionGroup("some", [InvalidInput("no"), KeyError("a bug")]), False),
        (KeyError("a bug"), False),
    ],
)
def test_what_is_expected(
    error: Exception, expected: bool, written: list[logging.LogRecord]
) -> None:
    assert is_expected(error) is expected
    log_as("task_engine", error)
    assert bool(written[0].exc_info) is not expected


def test_a_filter_is_added_once() -> None:
    before: Callable[[], list[Any]] = lambda: list(logging.getLogger("prefect.task_runs").filters)  # noqa: E731
    first = before()
    tell_failures_plainly()
    assert before() == first
