"""Whatever comes back, in either shape or none, becomes the one prediction that it means, or an
error that does not pretend to know; nothing that was paid for is lost in reading.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from prefect_cometapi.errors import (
    AccountError,
    InvalidInput,
    PredictionNotFound,
    RequestError,
    RequestRejected,
    UnknownOutcome,
)
from prefect_cometapi.failures import Reply
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.wire import (
    STATUSES,
    encode_create,
    parse_cancel,
    parse_create,
    parse_query,
)

WIRE = Path(__file__).parent / "data" / "wire"
ROOT, MODEL, ID = (
    "https://api.example",
    "black-forest-labs/flux-schnell",
    "q4chw5rey9rmt0cww76t4h3ma4",
)
SENT = datetime(2026, 3, 12, 11, 27, 17, tzinfo=UTC)
URL = "https://replicate.delivery/xezq/abc/out-0.webp"
S = PredictionStatus


def answer(body: object, status: int = 200, **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw, SENT)


def sample(name: str) -> Any:
    (path,) = WIRE.glob(f"{name}.*json")
    return json.loads(path.read_text())["body"]


def create(body: object, status: int = 201, **headers: str) -> Prediction:
    return parse_create(
        answer(body, status, **headers),
        api_root=ROOT,
        model=MODEL,
        input={"prompt": "mine"},
        submitted_at=SENT,
    )


def query(body: object, status: int = 200) -> Prediction | None:
    return parse_query(answer(body, status), api_root=ROOT, prediction_id=ID, model="asked/for")


def read(body: object) -> Prediction:
    prediction = query(body)
    assert prediction is not None
    return prediction


def envelope(inner: object = None, **outer: Any) -> dict[str, Any]:
    return {"code": "success", "message": "", "data": {"task_id": ID, "data": inner, **outer}}


# --- the recordings ---------------------------------------------------------------------------


def test_create_sample() -> None:
    made = create(sample("create_201_starting"))
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
    assert create(sample("create_201_starting"), status).id == ID


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
    assert read(sample(name)) == Prediction(
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
    assert query(sample("poll_200_success_null_data")) is None


@pytest.mark.parametrize("data", [{}, [], "", None], ids=repr)
def test_empty_data_is_nothing_yet(data: object) -> None:
    assert query({"code": "success", "message": "", "data": data}) is None


# --- statuses ---------------------------------------------------------------------------------

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
        envelope(status=spelled, output=None),
        envelope({"output": None}, status=spelled),
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


# --- ids --------------------------------------------------------------------------------------

#: Bodies of a create that was accepted, and the id they hold.
IDS: dict[str, tuple[object, str]] = {
    "plain": ({"id": ID, "status": "starting"}, ID),
    "plain-without-status": ({"id": ID}, ID),
    "data.id": ({"code": "success", "data": {"id": ID, "status": "SUBMITTED"}}, ID),
    "data.task_id": ({"code": "success", "data": {"task_id": ID}}, ID),
    "data-as-text": ({"code": "success", "message": "", "data": ID}, ID),
    "inner": (envelope({"id": ID, "status": "starting"}, task_id=""), ID),
    "inner-wins": (envelope({"id": "inner", "status": "starting"}), "inner"),
    "envelope-where-inner-has-none": (envelope({"status": "starting"}), ID),
    "envelope-where-inner-is-null": (envelope({"id": None, "status": "starting"}), ID),
    "odd-characters": ({"id": "task_A-1"}, "task_A-1"),
    # The software family's envelope has the row number of its database beside the task's id.
    "row-number-beside-task-id": (envelope(id=4711, status="SUBMITTED"), ID),
    "row-number-and-empty-inner": (envelope({}, id=4711, status="SUBMITTED"), ID),
}


@pytest.mark.parametrize("name", IDS)
def test_the_id_of_a_create_is_found(name: str) -> None:
    body, found = IDS[name]
    made = create(body)
    assert made.id == found
    assert (made.api_root, made.model, made.submitted_at) == (ROOT, MODEL, SENT)
    assert made.input == {"prompt": "mine"}, "the service did not repeat it"
    assert not made.finished


NO_OBJECTS: list[object] = [None, True, 5, 1.5, "text", [], [{"id": ID}], {}]
#: Answers with 2xx that give no id to ask for: each may have been paid.
NO_ID: dict[str, object] = {
    "nothing": b"",
    "white-space": b" \n",
    "cut-off": b'{"id": "q4chw5rey9rmt0cw',
    "cut-off-after-the-id": b'{"id": "q4chw5rey9rmt0cww76t4h3ma4", "status": "star',
    "not-utf-8": b'{"id": "\xff"}',
    "text": b"accepted",
    "null-data": sample("poll_200_success_null_data"),
    "no-id": {"status": "starting"},
    "error-with-200": {"error": {"message": "upstream went away", "code": "upstream"}},
    "envelope-of-an-error": {"code": "fail_to_fetch_task", "message": "no", "data": None},
    "list-in-envelope": {"code": "success", "data": [{"id": ID}]},
    **{f"json-{body!r}": body for body in NO_OBJECTS},
    **{
        f"id-{unusable!r:.40}": {"id": unusable, "status": "starting"}
        for unusable in (
            *("../../v1/models", "a/b", "a%2fb", "a?b", "a#b", "..", ".", "a b", " a", "a\n"),
            *("é", "a\x00", "", "x" * 129, "a:b", "a\\b", "a;b", "a@b"),
            *(None, True, 1.5, [ID], {"id": ID}, 0),
        )
    },
}


@pytest.mark.parametrize("name", NO_ID)
def test_a_create_without_a_usable_id_may_have_been_paid(name: str) -> None:
    with pytest.raises(UnknownOutcome) as caught:
        create(NO_ID[name])
    assert caught.value.status == 201
    assert MODEL in str(caught.value)


def test_a_create_without_an_id_keeps_the_request_id() -> None:
    said = {"error": {"message": "no (request id: R1)", "code": "upstream"}}
    with pytest.raises(UnknownOutcome, match="R1") as caught:
        create(said)
    assert (caught.value.request_id, caught.value.code) == ("R1", "upstream")
    with pytest.raises(UnknownOutcome) as caught:
        create(b"", X_Oneapi_Request_Id="R2")
    assert caught.value.request_id == "R2"
    # Its support asks for it, and a message is all that is seen of it in Prefect's UI.
    assert "R2" in str(caught.value)


def test_a_web_page_was_no_create() -> None:
    with pytest.raises(RequestRejected):
        create(b"<!doctype html><html>...</html>", 200, Content_Type="text/html")


def test_the_input_that_the_service_repeats_is_shown() -> None:
    assert create({"id": ID, "input": {"prompt": "theirs"}}).input == {"prompt": "theirs"}


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
        pytest.param(answer({"id": ID, "status": "canceled"}), True, "is canceled", id="canceled"),
        pytest.param(answer({"id": ID, "status": "aborted"}), True, "is canceled", id="aborted"),
        pytest.param(answer(envelope(status="CANCELLED")), True, "is canceled", id="enveloped"),
        pytest.param(
            answer({"id": ID, "status": "succeeded"}),
            False,
            "already ended as succeeded",
            id="late",
        ),
        pytest.param(
            answer({"id": ID, "status": "processing"}), False, "still reports", id="still-running"
        ),
        pytest.param(
            answer(sample("poll_200_success_null_data")), False, "without saying", id="null-data"
        ),
        pytest.param(answer(b"", 204), False, "no prediction", id="empty"),
        pytest.param(
            answer({"detail": "Not found"}, 404), False, "no such prediction", id="not-found"
        ),
        pytest.param(answer(b"<html>", 200), False, "web page", id="not-forwarded"),
        pytest.param(answer({"error": "x"}, 401), False, "API key", id="key"),
        pytest.param(answer(b"", 502), False, "HTTP 502", id="gateway"),
    ],
)
def test_cancel_says_what_came_of_it(reply: Reply, accepted: bool, says: str) -> None:
    cancellation = parse_cancel(reply, api_root=ROOT, prediction_id=ID, model=MODEL)
    assert (cancellation.prediction_id, cancellation.accepted) == (ID, accepted)
    assert says in cancellation.message
    assert ID in cancellation.message


# --- inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "input",
    [
        {},
        {"prompt": "Ein Boot, 紙の船 🛶", "n": 1, "f": 0.5, "none": None, "yes": True},
        {"input_images": ["https://a.example/b?c=1&d=2", "data:image/png;base64,AA=="]},
        MappingProxyType({"deep": {"er": [{"est": ()}]}}),
    ],
    ids=["empty", "kinds", "files", "any-mapping"],
)
def test_an_input_arrives_as_it_was_given(input: Mapping[str, Any]) -> None:
    body = json.loads(encode_create(input))
    assert body == {"input": json.loads(json.dumps(dict(input)))}


def circular() -> dict[str, Any]:
    loop: dict[str, Any] = {"list": []}
    loop["list"].append(loop)
    return loop


def bottomless() -> dict[str, Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return {"deep": deep}


NAN = float("nan")
REFUSED: dict[str, object] = {
    "none": None,
    "text": "a boat",
    "json-text": '{"prompt": "a boat"}',
    "list": [("prompt", "a boat")],
    "number": 5,
    "nan": {"seed": NAN},
    "nan-nested": {"a": [{"b": NAN}]},
    "infinite": {"a": {"b": float("inf")}},
    "minus-infinite": {"a": [float("-inf")]},
    "number-as-name": {1: "a"},
    "none-as-name": {None: "a"},
    "number-as-name-nested": {"a": {"b": [{1: "x"}]}},
    "number-as-name-in-a-tuple": {"a": ({True: "x"},)},
    "bytes": {"image": b"\x89PNG"},
    "datetime": {"when": SENT},
    "path": {"image": WIRE},
    "set": {"a": {1, 2}},
    "surrogate": {"prompt": "\ud83d"},
    "surrogate-in-a-name": {"\ud83d": 1},
    "circular": circular(),
    "bottomless": bottomless(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_json_can_not_carry_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(InvalidInput, match="Nothing was sent"):
        encode_create(REFUSED[name])  # type: ignore[arg-type]


def test_errors_of_both_calls_are_classified_first() -> None:
    unauthorized = {"error": {"message": "invalid token", "code": ""}}
    for call in (create, query):
        with pytest.raises(AccountError) as caught:
            call(unauthorized, 401)
        assert isinstance(caught.value, RequestError)
