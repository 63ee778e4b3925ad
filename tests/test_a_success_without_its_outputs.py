"""A success that the envelope alone tells of is waited for, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_cometapi.endings import HANDOVER, handed_over
from prefect_cometapi.models import Prediction, PredictionStatus

URL = "https://delivery.example/a.webp"
NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(hours=2)


@pytest.mark.parametrize(
    ("fields", "seconds", "taken"),
    [
        pytest.param({"output": URL}, 0, False, id="asked-for-again"),
        pytest.param({"output": URL}, HANDOVER - 1, False, id="for-a-minute"),
        pytest.param({"output": URL}, HANDOVER, True, id="then-what-it-names-is-all-there-is"),
        pytest.param({"output": None}, 9e9, False, id="nothing-named-is-never-all"),
        pytest.param(
            {"output": None, "submitted_at": LONG_AGO, "completed_at": NOW},
            HANDOVER,
            False,
            id="done-just-now-however-long-ago-it-was-sent",
        ),
        pytest.param(
            {"output": None, "submitted_at": LONG_AGO}, HANDOVER, False, id="done-nobody-knows-when"
        ),
        pytest.param(
            {"output": None, "completed_at": LONG_AGO}, 0, True, id="its-outputs-are-deleted"
        ),
    ],
)
def test_handed_over(fields: dict[str, Any], seconds: float, taken: bool) -> None:
    pending = Prediction(
        id="p",
        model="o/n",
        status=PredictionStatus.PROCESSING,
        api_root="https://api.example",
        outputs_pending=True,
        **fields,
    )
    assert not pending.running
    seen = handed_over(pending, seconds)
    assert seen.finished == taken
    assert seen.output == pending.output


def test_what_is_running_is_running() -> None:
    running = Prediction(
        id="p", model="o/n", status=PredictionStatus.PROCESSING, api_root="https://api.example"
    )
    assert handed_over(running, 9e9) is running
    assert running.running
