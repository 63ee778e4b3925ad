"""The lines that a model logs are in the run's log at DEBUG, each once, as they come."""

from __future__ import annotations

import logging

import pytest

from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.run_log import RunLog
from tests.servers import made_of


def seen(logs: str, *, id: str = "one", finished: bool = False) -> Prediction:
    status = PredictionStatus.SUCCEEDED if finished else PredictionStatus.PROCESSING
    return made_of(None, id=id, logs=logs, status=status, metrics={"predict_time": 3.14})


def test_each_line_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = RunLog(logging.getLogger("a run"))
    log.polled(seen("Using seed: 7\n  0%"))
    log.polled(seen("", id="another"))
    log.polled(seen("Using seed: 7\n  0%"))
    log.polled(seen("Using seed: 7\n  0%\n100%\n", finished=True))
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.DEBUG, "one: Using seed: 7"),
        (logging.DEBUG, "one:   0%"),
        (logging.DEBUG, "one: 100%"),
        (logging.INFO, "Prediction one succeeded after 3.1 s."),
    ]


def test_a_line_is_told_once_it_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = RunLog(logging.getLogger("a run"))
    for logs in ("Loading wei", "Loading weights: 100 %\n", "Loading weights: 100 %\nDone"):
        log.polled(seen(logs))
    log.polled(seen("Loading weights: 100 %\nDone.", finished=True))
    assert caplog.messages[:-1] == ["one: Loading weights: 100 %", "one: Done."]


def test_at_info_there_is_the_story_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RunLog(logging.getLogger("a run"))
    log.polled(seen("Using seed: 7"))
    log.polled(seen("Using seed: 7\n100%", finished=True))
    assert caplog.messages == ["Prediction one succeeded after 3.1 s."]
