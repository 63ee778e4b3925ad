"""Every word for a status, in any letter case and in either shape, is one status of ours."""

from typing import Any

import pytest

from prefect_cometapi.models import PredictionStatus
from prefect_cometapi.wire import STATUSES
from tests.replies import ID, envelope, read

S = PredictionStatus

PLAIN = {
    "starting": S.STARTING,
    "processing": S.PROCESSING,
    "succeeded": S.SUCCEEDED,
    "failed": S.FAILED,
    "canceled": S.CANCELED,
    "aborted": S.ABORTED,
}
ENVELOPE = {
    "NOT_START": S.STARTING,
    "SUBMITTED": S.STARTING,
    "QUEUED": S.STARTING,
    "IN_PROGRESS": S.PROCESSING,
    "UNKNOWN": S.PROCESSING,
    "SUCCESS": S.SUCCEEDED,
    "FAILURE": S.FAILED,
    "FAILED": S.FAILED,
    "ERROR": S.FAILED,
    "CANCELED": S.CANCELED,
    "CANCELLED": S.CANCELED,
}
NEVER_SEEN = dict.fromkeys(["booting", "PAUSED", "", "succeeded?", "失敗", "0"], S.PROCESSING)


@pytest.mark.parametrize("spell", [str, str.lower, str.upper, str.title], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("word", "status"), [*PLAIN.items(), *ENVELOPE.items()])
def test_every_status_in_any_letter_case_and_either_shape(
    word: str, status: PredictionStatus, spell: Any
) -> None:
    spelled = spell(word)
    for body in (
        {"id": ID, "status": spelled},
        envelope(status=spelled, output="made"),
        envelope({"output": "made"}, status=spelled),
    ):
        prediction = read(body)
        assert (prediction.status, prediction.service_status) == (status, spelled)


def test_no_status_is_read_that_is_not_on_the_page() -> None:
    assert set(STATUSES) == {word.lower() for word in (*PLAIN, *ENVELOPE)}


@pytest.mark.parametrize("word", NEVER_SEEN, ids=repr)
def test_a_status_never_seen_is_not_finished(word: str) -> None:
    for body in ({"id": ID, "status": word}, envelope(status=word), envelope({"status": word})):
        prediction = read(body)
        assert not prediction.finished
        assert prediction.service_status == word, (
            "the service's own word is what people can look up"
        )


@pytest.mark.parametrize(
    ("inner", "outer", "status"),
    [
        pytest.param("processing", "SUCCESS", S.PROCESSING, id="inner-wins-unfinished"),
        pytest.param("succeeded", "IN_PROGRESS", S.SUCCEEDED, id="inner-wins-finished"),
        pytest.param("aborted", "FAILURE", S.ABORTED, id="inner-wins-finer"),
        pytest.param(None, "SUCCESS", S.PROCESSING, id="inner-null"),
        pytest.param("", "FAILURE", S.FAILED, id="inner-empty"),
        pytest.param("succeeded", None, S.SUCCEEDED, id="outer-null"),
        pytest.param("weird", "odd", S.PROCESSING, id="neither-known"),
    ],
)
def test_two_statuses(inner: str | None, outer: str | None, status: PredictionStatus) -> None:
    assert read(envelope({"id": ID, "status": inner}, status=outer)).status is status
