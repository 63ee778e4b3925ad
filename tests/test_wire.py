"""Whatever comes back, in either shape or none, becomes the one prediction that it means, or an
error that does not pretend to know.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_cometapi.errors import AccountError, PredictionNotFound, RequestError, UnknownOutcome
from prefect_cometapi.failures import Reply
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.wire import parse_cancel
from tests.replies import ID, ROOT, SENT, body_of, create, envelope, query, read, reply
from tests.servers import MODEL

URL = "https://replicate.delivery/xezq/abc/out-0.webp"
S = PredictionStatus


# --- the recordings ---------------------------------------------------------------------------


def test_create_sample() -> None:
    made = create(body_of("create_201_starting"))
    assert made == Prediction(
        id=ID,
        model=MODEL,
        status=S.STARTING,
        service_status="starting",
        api_root=ROOT,
        input={
            "aspect_ratio": "1:1",
            "output_format": "webp",
            "output_quality": 80,
            "prompt": "A paper boat floating on calm water at sunrise.",
        },
        version="hidden",
        created_at=datetime(2026, 3, 12, 11, 27, 18, 258_000, UTC),
        submitted_at=SENT,
    )


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_2xx_is_a_create_that_succeeded(status: int) -> None:
    assert create(body_of("create_201_starting"), status).id == ID


@pytest.mark.parametrize(
    ("name", "status", "word", "output", "error"),
    [
        ("poll_200_plain_succeeded", S.SUCCEEDED, "succeeded", [URL], None),
        ("poll_200_wrapped_success", S.SUCCEEDED, "succeeded", [URL], None),
        ("poll_200_wrapped_failure", S.FAILED, "failed", None, "NSFW content detected"),
        ("poll_200_wrapped_in_progress", S.PROCESSING, "processing", None, None),
    ],
)
def test_query_samples(
    name: str, status: PredictionStatus, word: str, output: object, error: str | None
) -> None:
    assert read(body_of(name)) == Prediction(
        id=ID,
        model=MODEL,
        status=status,
        service_status=word,
        api_root=ROOT,
        input={"prompt": "x"},
        output=output,
        error=error,
        metrics={"image_count": 1, "predict_time": 0.43},
        version="hidden",
        created_at=datetime(2026, 3, 12, 11, 27, 18, 258_000, UTC),
        started_at=datetime(2026, 3, 12, 11, 27, 18, 262_000, UTC),
        completed_at=datetime(2026, 3, 12, 11, 27, 18, 700_000, UTC),
    )


def test_null_data_is_nothing_yet() -> None:
    assert query(body_of("poll_200_success_null_data")) is None


@pytest.mark.parametrize("data", [{}, [], "", None], ids=repr)
def test_empty_data_is_nothing_yet(data: object) -> None:
    assert query({"code": "success", "message": "", "data": data}) is None


# --- fall-backs -------------------------------------------------------------------------------


def given(**fields: Any) -> Mapping[str, Any]:
    return fields


@pytest.mark.parametrize(
    ("inner", "outer", "fields"),
    [
        pytest.param(
            given(status="failed", error="inner"),
            given(fail_reason="outer"),
            given(error="inner"),
            id="inner-error-wins",
        ),
        pytest.param(
            given(status="failed", error=None),
            given(fail_reason="outer"),
            given(error="outer"),
            id="fail-reason-for-null",
        ),
        pytest.param(
            None,
            given(status="FAILURE", fail_reason="outer"),
            given(error="outer", status=S.FAILED),
            id="fail-reason-alone",
        ),
        pytest.param(
            given(status="failed", error=None),
            given(fail_reason=""),
            given(error=None),
            id="failed-without-any-reason",
        ),
        pytest.param(
            given(status="failed", error={"code": 7}),
            given(),
            given(error='{"code": 7}'),
            id="error-as-object",
        ),
        pytest.param(
            # Siblings of the service put the result's URL into fail_reason.
            given(status="succeeded", output=[URL]),
            given(fail_reason=URL),
            given(error=None, output=[URL]),
            id="no-error-where-it-succeeded",
        ),
        pytest.param(
            given(status="succeeded", output=[URL]),
            given(result_url="https://other.example/x"),
            given(output=[URL]),
            id="inner-output-wins",
        ),
        pytest.param(
            given(status="succeeded", output=None),
            given(result_url=URL),
            given(output=URL),
            id="result-url-for-null",
        ),
        pytest.param(
            None,
            given(status="SUCCESS", result_url=URL),
            given(output=URL, outputs_pending=True, status=S.PROCESSING, service_status="SUCCESS"),
            id="result-url-alone",
        ),
        pytest.param(
            {},
            given(status="SUCCESS", result_url=URL),
            given(output=URL, outputs_pending=True, status=S.PROCESSING),
            id="result-url-beside-nothing",
        ),
        pytest.param(
            None,
            given(status="SUCCESS", result_url=""),
            given(output=None, outputs_pending=True, status=S.PROCESSING),
            id="success-alone",
        ),
        pytest.param(
            None,
            given(status="SUCCESS", output=[URL, URL], result_url=URL),
            given(output=[URL, URL], outputs_pending=False, status=S.SUCCEEDED),
            id="the-outputs-themselves-in-the-envelope",
        ),
        pytest.param(
            given(status="succeeded"),
            given(result_url=""),
            given(output=None),
            id="empty-result-url",
        ),
        pytest.param(
            given(status="processing"),
            given(result_url=URL),
            given(output=None),
            id="no-result-url-before-the-end",
        ),
        pytest.param(
            given(status="succeeded", output=None, data_removed=True),
            given(),
            given(data_removed=True, output=None),
            id="data-removed",
        ),
        pytest.param(
            given(status="succeeded", data_removed="false"),
            given(),
            given(data_removed=False),
            id="data-removed-is-a-boolean",
        ),
        pytest.param(
            given(status="succeeded", input=None, metrics=None, logs=None, version=None),
            given(),
            given(input={}, metrics={}, logs="", version=None),
            id="nulls",
        ),
        pytest.param(
            given(status="succeeded", input=[1], metrics="x", logs=["a"], version=5, model=None),
            given(),
            given(input={}, metrics={}, logs='["a"]', version="5", model="asked/for"),
            id="odd-kinds",
        ),
    ],
)
def test_fields_of_an_envelope(
    inner: Mapping[str, Any] | None, outer: Mapping[str, Any], fields: Mapping[str, Any]
) -> None:
    prediction = read(envelope(inner, **outer))
    assert {name: getattr(prediction, name) for name in fields} == fields


@pytest.mark.parametrize(
    "output",
    [None, URL, [URL], ["to", "ken"], {"mask": URL}, 0, 2.5, False, "", "data:,x", [[None]]],
    ids=repr,
)
def test_an_output_can_be_any_json(output: object) -> None:
    assert read({"id": ID, "status": "succeeded", "output": output}).output == output


TIMES: dict[str, tuple[object, datetime | None]] = {
    "iso-utc": ("2026-03-12T11:27:18Z", datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)),
    "iso-nanoseconds": (
        "2026-03-12T11:27:18.258123456Z",
        datetime(2026, 3, 12, 11, 27, 18, 258_123, UTC),
    ),
    "iso-offset": ("2026-03-12T12:27:18+01:00", datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)),
    "iso-without-zone": ("2026-03-12T11:27:18", datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)),
    "epoch-seconds": (1773314838, datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)),
    "epoch-fraction": (1773314838.5, datetime(2026, 3, 12, 11, 27, 18, 500_000, UTC)),
    "epoch-milliseconds": (1773314838258, datetime(2026, 3, 12, 11, 27, 18, 258_000, UTC)),
    "zero": (0, None),
    "empty": ("", None),
    "null": (None, None),
    "negative": (-1, None),
    "too-large": (10**30, None),
    "text": ("yesterday", None),
    "list": ([1773314838], None),
    "infinite": (float("inf"), None),
}


@pytest.mark.parametrize("name", TIMES)
def test_times(name: str) -> None:
    written, moment = TIMES[name]
    inner = dict.fromkeys(["created_at", "started_at", "completed_at"], written)
    outer = dict.fromkeys(["submit_time", "start_time", "finish_time"], written)
    later = dict.fromkeys(outer, 1999999999)
    shapes = {
        "plain": {"id": ID, "status": "succeeded", **inner},
        "inner": envelope({"status": "succeeded", **inner}, **(later if moment else {})),
        "outer": envelope({"status": "succeeded", **dict.fromkeys(inner)}, **outer),
        "one level": envelope(status="SUCCESS", **outer),
    }
    for shape, body in shapes.items():
        prediction = read(body)
        found = (prediction.created_at, prediction.started_at, prediction.completed_at)
        assert found == (moment, moment, moment), shape


@pytest.mark.parametrize("other", ["another", "../x", 5, None, ""], ids=repr)
def test_a_query_keeps_the_id_that_works(other: object) -> None:
    assert read({"id": other, "status": "starting"}).id == ID
    assert read(envelope({"id": other, "status": "starting"}, task_id=other)).id == ID


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"5", b'"x"', b"[]", b"{}", b'{"id": "abc"}', b'{"status": 5}'),
        *(
            b'{"status": null}',
            b'{"code": "fail", "message": "m", "data": null}',
            b'{"error": "x"}',
        ),
        *(b'{"code": "success", "data": "abc"}', b'{"code": "success", "data": [1]}'),
    ],
    ids=repr,
)
def test_an_answer_that_is_no_prediction_says_nothing_about_it(body: bytes) -> None:
    with pytest.raises(UnknownOutcome, match=ID):
        query(body)


@pytest.mark.parametrize("body", [{"code": "task_not_exist", "message": "m", "data": None}])
def test_not_found_is_read_whatever_the_status(body: object) -> None:
    for status in (200, 400, 404, 500):
        with pytest.raises(PredictionNotFound):
            query(body, status)


@pytest.mark.parametrize("text", ["half \ud83d", "nul \x00"], ids=["half-an-emoji", "nul"])
@pytest.mark.parametrize("field", ["logs", "error", "output", "input"])
def test_odd_text_does_not_cost_the_prediction(field: str, text: str) -> None:
    """Text cut in the middle of an emoji arrives; what is paid must still be storable."""
    value: object = {"prompt": text, text: [text]} if field == "input" else text
    made = create({"id": ID, "status": "failed", field: value})
    assert Prediction.model_validate_json(made.model_dump_json()).id == ID


# --- cancel -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "accepted", "says"),
    [
        pytest.param(
            reply(200, {"id": ID, "status": "canceled"}), True, "is canceled", id="canceled"
        ),
        pytest.param(
            reply(200, {"id": ID, "status": "aborted"}), True, "is canceled", id="aborted"
        ),
        pytest.param(reply(200, envelope(status="CANCELLED")), True, "is canceled", id="enveloped"),
        pytest.param(
            reply(200, {"id": ID, "status": "succeeded"}),
            False,
            "already ended as succeeded",
            id="late",
        ),
        pytest.param(
            reply(200, {"id": ID, "status": "processing"}),
            False,
            "still reports",
            id="still-running",
        ),
        pytest.param(
            reply(200, body_of("poll_200_success_null_data")),
            False,
            "without saying",
            id="null-data",
        ),
        pytest.param(reply(204, b""), False, "no prediction", id="empty"),
        pytest.param(
            reply(404, {"detail": "Not found"}), False, "no such prediction", id="not-found"
        ),
        pytest.param(reply(200, b"<html>"), False, "web page", id="not-forwarded"),
        pytest.param(reply(401, {"error": "x"}), False, "API key", id="key"),
        pytest.param(reply(502, b""), False, "HTTP 502", id="gateway"),
    ],
)
def test_cancel_says_what_came_of_it(reply: Reply, accepted: bool, says: str) -> None:
    cancellation = parse_cancel(reply, api_root=ROOT, prediction_id=ID, model=MODEL)
    assert (cancellation.prediction_id, cancellation.accepted) == (ID, accepted)
    assert says in cancellation.message
    assert ID in cancellation.message


def test_errors_of_both_calls_are_classified_first() -> None:
    unauthorized = {"error": {"message": "invalid token", "code": ""}}
    for call in (create, query):
        with pytest.raises(AccountError) as caught:
            call(unauthorized, 401)
        assert isinstance(caught.value, RequestError)
