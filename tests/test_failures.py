"""Every way in which a request can fail is classified as the failure table has it, by reading the
reply whole: the HTTP status alone misleads, and a create that may have been paid is never re-sent.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi.errors import (
    AccountError,
    InputRejected,
    ModelNotFound,
    NeverDelivered,
    PredictionNotFound,
    RateLimited,
    RequestError,
    RequestRejected,
    UnknownOutcome,
)
from prefect_cometapi.failures import (
    NOT_FOUND_TOLERANCE,
    Call,
    Reply,
    Step,
    asked_wait,
    code_of,
    next_step,
    raise_for_error,
    request_id_of,
    words_of,
)

WIRE = Path(__file__).parent / "data" / "wire"
NOW = datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)
HTML = b"<!doctype html><html>...</html>"
CREATE, QUERY, CANCEL = Call.CREATE, Call.QUERY, Call.CANCEL


def reply(status: int, body: object = b"", **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw, NOW)


def sample(name: str) -> Reply:
    """A recorded reply; see `_provenance` in the file."""
    (path,) = WIRE.glob(f"{name}.*json")
    recorded = json.loads(path.read_text())
    body = recorded["body"]
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    kind = recorded.get("content_type", "application/json")
    return Reply(recorded.get("status", 200), {"Content-Type": kind}, raw, NOW)


def failure(of: Reply, call: Call) -> RequestError | None:
    try:
        raise_for_error(of, call, "model owner/name")
    except RequestError as error:
        return error
    return None


AGAIN, RAISE, IN_DOUBT = Step.SEND_AGAIN, Step.RAISE, Step.IN_DOUBT
COMET = "comet_api_error"


def comet(code: str, message: str = "no") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": COMET, "param": ""}}


#: reply; what it is to a create; what follows; what it is to an (old) query; what follows.
Row = tuple[Reply, type[RequestError] | None, Step | None, type[RequestError] | None, Step | None]
TABLE: dict[str, Row] = {
    # --- the recordings
    "err_200_html": (sample("err_200_html"), RequestRejected, RAISE, RequestRejected, AGAIN),
    "err_400_task_not_exist": (
        sample("err_400_task_not_exist"),
        InputRejected,
        RAISE,
        PredictionNotFound,
        RAISE,
    ),
    "err_401_comet": (sample("err_401_comet"), AccountError, RAISE, AccountError, RAISE),
    "replicate_401": (sample("replicate_401"), AccountError, RAISE, AccountError, RAISE),
    "replicate_402": (sample("replicate_402"), AccountError, RAISE, AccountError, RAISE),
    "replicate_422": (sample("replicate_422"), InputRejected, RAISE, RequestRejected, AGAIN),
    "replicate_429": (sample("replicate_429_documented"), RateLimited, AGAIN, RateLimited, AGAIN),
    "replicate_429_low_credit": (
        sample("replicate_429_low_credit"),
        RateLimited,
        AGAIN,
        RateLimited,
        AGAIN,
    ),
    "err_500_comet_invalid_request": (
        sample("err_500_comet_invalid_request"),
        InputRejected,
        RAISE,
        RequestRejected,
        AGAIN,
    ),
    "err_503_comet_model_not_found": (
        sample("err_503_comet_model_not_found"),
        ModelNotFound,
        RAISE,
        ModelNotFound,
        AGAIN,
    ),
    # --- the rows of the wire page that nobody has recorded
    "400": (reply(400, {"error": "bad"}), InputRejected, RAISE, RequestRejected, AGAIN),
    "403-blocked": (reply(403, HTML), AccountError, RAISE, AccountError, RAISE),
    "403-quota": (
        reply(403, comet("insufficient_user_quota")),
        AccountError,
        RAISE,
        AccountError,
        RAISE,
    ),
    "quota-behind-another-status": (
        reply(500, {"code": "insufficient_user_quota", "message": "no", "data": None}),
        AccountError,
        RAISE,
        AccountError,
        RAISE,
    ),
    "429-without-a-body": (reply(429), RateLimited, AGAIN, RateLimited, AGAIN),
    "429-html": (reply(429, HTML), RateLimited, AGAIN, RateLimited, AGAIN),
    **{
        f"{status}-{name}": (reply(status, body), UnknownOutcome, IN_DOUBT, UnknownOutcome, AGAIN)
        for status in (500, 502, 503, 504, 520, 521, 522, 523, 524)
        for name, body in {
            "empty": b"",
            "html": HTML,
            "json": comet("upstream_error"),
            "text-error": {"error": "trouble"},
            "array": [1],
            "cut": b'{"error": {"code": "invalid_req',
        }.items()
    },
    "404-model": (
        reply(404, {"detail": "Not found"}),
        ModelNotFound,
        RAISE,
        PredictionNotFound,
        RAISE,
    ),
    "404-task-not-exist": (
        reply(404, comet("task_not_exist")),
        ModelNotFound,
        RAISE,
        PredictionNotFound,
        RAISE,
    ),
    # Documented is the *message* task_not_exist; that there is a code of that name is inferred.
    "400-task-not-exist-as-message": (
        reply(400, comet("", "task_not_exist (request id: abc)")),
        InputRejected,
        RAISE,
        PredictionNotFound,
        RAISE,
    ),
    "404-web-page": (reply(404, HTML), ModelNotFound, RAISE, RequestRejected, AGAIN),
    "301": (reply(301, Location="/docs"), RequestRejected, RAISE, RequestRejected, AGAIN),
    "302-html": (reply(302, HTML), RequestRejected, RAISE, RequestRejected, AGAIN),
    "405": (reply(405), RequestRejected, RAISE, RequestRejected, AGAIN),
    "413": (reply(413, b"too large"), RequestRejected, RAISE, RequestRejected, AGAIN),
    "200-html-by-its-bytes": (
        reply(200, b"\n  <html>", content_type="application/json"),
        RequestRejected,
        RAISE,
        RequestRejected,
        AGAIN,
    ),
    "201-html-by-its-type": (
        reply(201, b"Welcome", Content_Type="text/HTML; charset=utf-8"),
        RequestRejected,
        RAISE,
        RequestRejected,
        AGAIN,
    ),
    "200-json-declared-as-html": (
        reply(200, {"id": "abc"}, content_type="text/html"),
        None,
        None,
        None,
        None,
    ),
    **{f"{status}": (reply(status, {"id": "a"}), None, None, None, None) for status in (200, 202)},
}


@pytest.mark.parametrize("name", TABLE)
def test_failure_table(name: str) -> None:
    of, to_create, then_create, to_query, then_query = TABLE[name]
    for call, kind, step in ((CREATE, to_create, then_create), (QUERY, to_query, then_query)):
        error = failure(of, call)
        assert type(error) is (kind or type(None)), call
        if error is not None:
            assert next_step(call, error) is step
            assert error.status == of.status
            assert str(call) in str(error)
            assert "model owner/name" in str(error)
            assert f"HTTP {of.status}" in str(error)


def test_every_error_sample_has_a_row() -> None:
    stems = {path.name.partition(".")[0] for path in WIRE.glob("*.json")}
    errors = {stem for stem in stems if stem.startswith(("err_", "replicate_"))}
    assert errors - {"replicate_429_documented"} <= set(TABLE)
    assert stems - errors == {
        "create_201_starting",
        "poll_200_plain_succeeded",
        "poll_200_success_null_data",
        "poll_200_wrapped_failure",
        "poll_200_wrapped_in_progress",
        "poll_200_wrapped_success",
    }


YOUNG, OLD = NOT_FOUND_TOLERANCE - 0.001, NOT_FOUND_TOLERANCE


@pytest.mark.parametrize(
    ("error", "create", "young_query", "old_query", "cancel"),
    [
        (NeverDelivered("x"), AGAIN, AGAIN, AGAIN, AGAIN),
        (RateLimited("x"), AGAIN, AGAIN, AGAIN, AGAIN),
        (UnknownOutcome("x"), IN_DOUBT, AGAIN, AGAIN, AGAIN),
        (RequestRejected("x"), RAISE, AGAIN, AGAIN, RAISE),
        (AccountError("x"), RAISE, RAISE, RAISE, RAISE),
        (InputRejected("x"), RAISE, AGAIN, AGAIN, RAISE),
        (ModelNotFound("x"), RAISE, AGAIN, AGAIN, RAISE),
        (PredictionNotFound("x"), RAISE, AGAIN, RAISE, RAISE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RequestError) else value.name,
)
def test_next_step(
    error: RequestError, create: Step, young_query: Step, old_query: Step, cancel: Step
) -> None:
    for age in (0.0, YOUNG, OLD, math.inf):
        assert next_step(CREATE, error, age=age) is create
        assert next_step(CANCEL, error, age=age) is cancel
    assert next_step(QUERY, error, age=0.0) is young_query
    assert next_step(QUERY, error, age=YOUNG) is young_query
    assert next_step(QUERY, error, age=OLD) is old_query
    assert next_step(QUERY, error) is old_query, "an unknown age is no reason to be patient"


def test_nothing_but_a_safe_failure_lets_a_create_be_sent_again() -> None:
    kinds: list[type[RequestError]] = [RequestError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    again = {kind for kind in kinds if next_step(CREATE, kind("x")) is AGAIN}
    assert again == {NeverDelivered, RateLimited}


#: headers and body of a 429, and the seconds that it asks to wait.
WAITS: dict[str, tuple[dict[str, str], object, float | None]] = {
    "nothing": ({}, b"", None),
    "retry-after-seconds": ({"Retry-After": "7"}, b"", 7.0),
    "retry-after-any-case": ({"rEtRy-aFtEr": " 7 "}, b"", 7.0),
    "retry-after-fraction": ({"retry-after": "0.5"}, b"", 0.5),
    "retry-after-zero": ({"Retry-After": "0"}, b"", 0.0),
    "retry-after-http-date": ({"Retry-After": "Thu, 12 Mar 2026 11:27:48 GMT"}, b"", 30.0),
    "retry-after-date-with-zone": ({"Retry-After": "Thu, 12 Mar 2026 12:27:48 +0100"}, b"", 30.0),
    "retry-after-date-without-zone": ({"Retry-After": "Thu, 12 Mar 2026 11:27:48"}, b"", 30.0),
    "retry-after-date-in-the-past": ({"Retry-After": "Thu, 12 Mar 2026 11:00:00 GMT"}, b"", 0.0),
    "reset-seconds": ({"RateLimit-Reset": "12"}, b"", 12.0),
    "reset-epoch": ({"ratelimit-reset": f"{NOW.timestamp() + 9:.0f}"}, b"", 9.0),
    "reset-epoch-in-the-past": ({"ratelimit-reset": f"{NOW.timestamp() - 9:.0f}"}, b"", None),
    "body": ({}, {"retry_after": 5}, 5.0),
    "body-as-text": ({}, {"retry_after": "5"}, 5.0),
    "body-nested": ({}, {"error": {"message": "slow", "retry_after": 6}}, 6.0),
    "words-5": ({}, {"detail": "Your rate limit resets in ~5s."}, 5.0),
    "words-30": ({}, {"detail": "Request was throttled. Your rate limit resets in ~30s."}, 30.0),
    "words-without-tilde": ({}, {"error": "it resets in 30 s"}, 30.0),
    "words-fraction": ({}, {"message": "resets in ~1.5s"}, 1.5),
    "words-milliseconds": ({}, comet("", "resets in 250ms"), 0.25),
    "words-minutes": ({}, comet("", "resets in ~2m."), 120.0),
    "words-as-text": ({}, b"resets in ~5s", 5.0),
    "longest-wins": (
        {"Retry-After": "3", "ratelimit-reset": "4"},
        {"retry_after": 5, "detail": "resets in ~30s"},
        30.0,
    ),
    "longest-wins-header": ({"Retry-After": "9"}, {"detail": "resets in ~5s"}, 9.0),
    "usable-beside-garbage": ({"Retry-After": "soon", "ratelimit-reset": "-4"}, b"[", None),
    "body-beside-garbage": ({"Retry-After": "NaN"}, {"retry_after": 5}, 5.0),
    **{
        f"garbage-header-{value}": ({"Retry-After": value, "ratelimit-reset": value}, b"", None)
        for value in ("", "-5", "NaN", "inf", "-inf", "1e400", "soon", "0x10", "2026-03-12", "5 s")
    },
    **{
        f"garbage-date-{value}": ({"Retry-After": value}, b"", None)
        for value in (
            "Thu, 12 Mar 2026",
            "Thu, 99 Mar 2026 11:27:48 GMT",
            "Thu, 12 Mar 99999 11:27:48 GMT",
            "Thu, 12 Mar 2026 99999999999:27:48 GMT",
            "Thu, 12 Mar 2026 11:27:48 +99999999999999999999",
        )
    },
    **{
        f"garbage-body-{value}": ({}, f'{{"retry_after": {value}}}'.encode(), None)
        for value in ("-5", "NaN", "Infinity", "null", "true", "[]", "{}", '""', "1" + "0" * 400)
    },
    **{
        f"no-object-{body.decode()}": ({}, body, None)
        for body in (b"[5]", b"5", b'"5"', b"null", b'{"error": 5}', b'{"retry_after": 5')
    },
}


@pytest.mark.parametrize("name", WAITS)
def test_asked_wait(name: str) -> None:
    headers, body, seconds = WAITS[name]
    of = Reply(429, headers, body if isinstance(body, bytes) else json.dumps(body).encode(), NOW)
    assert asked_wait(of) == (None if seconds is None else pytest.approx(seconds, abs=0.01))
    error = failure(of, CREATE)
    assert isinstance(error, RateLimited)
    assert error.retry_after == asked_wait(of)


@pytest.mark.parametrize(
    ("name", "seconds"), [("replicate_429_documented", 30.0), ("replicate_429_low_credit", 5.0)]
)
def test_asked_wait_of_the_recordings(name: str, seconds: float) -> None:
    assert asked_wait(sample(name)) == seconds


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize("hours", [-9000.0, -24.0, -5.0, -0.01, 0.0, 0.01, 5.0, 24.0, 9000.0])
def test_a_moment_is_compared_with_the_servers_own_clock(hours: float) -> None:
    now = NOW + timedelta(hours=hours)  # the server's, where this machine says NOW
    then = now + timedelta(seconds=30)
    for asked in (
        {"Retry-After": http_date(then)},
        {"RateLimit-Reset": f"{then.timestamp():.0f}"},
        {"Retry-After": http_date(then), "ratelimit-reset": f"{then.timestamp():.0f}"},
    ):
        assert asked_wait(Reply(429, {"Date": http_date(now), **asked}, b"", NOW)) == 30.0
        assert asked_wait(Reply(429, {"dAtE": http_date(now), **asked}, b"", NOW)) == 30.0


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Thu, 12 Mar 2026 06:27:28 GMT", 20.0),
        ("Thu, 12 Mar 2026 07:27:28 +0100", 20.0),
        ("Thu, 12 Mar 2026 06:27:28", 20.0),  # no zone: HTTP dates are in GMT
        ("Thursday, 12-Mar-26 06:27:28 GMT", 20.0),
        ("Thu Mar 12 06:27:28 2026", 20.0),
        ("Thu, 12 Mar 2026 09:00:00 GMT", 0.0),  # sent after the moment that it names
        *((bad, 0.0) for bad in ("", "soon", "1773296838", "Thu, 99 Mar 2026 06:27:28 GMT")),
        ("Thu, 12 Mar 2026 06:27:28 +99999999999999999999", 0.0),
    ],
)
def test_a_date_header_that_can_not_be_read_leaves_this_machines_clock(
    date: str, seconds: float
) -> None:
    # By this machine's clock, which says 11:27:18, the moment is long past.
    headers = {"Date": date, "Retry-After": "Thu, 12 Mar 2026 06:27:48 GMT"}
    assert asked_wait(Reply(429, headers, b"", NOW)) == seconds


def test_seconds_need_no_clock() -> None:
    headers = {"Date": "Thu, 12 Mar 1970 06:27:28 GMT", "Retry-After": "7", "ratelimit-reset": "9"}
    assert asked_wait(Reply(429, headers, b"", NOW)) == 9.0


REQUEST_ID = "20260205132859798638387SIHCnxzJ"
#: reply, code, request id, words that the message must repeat.
SAYS: dict[str, tuple[Reply, str | None, str | None, str]] = {
    "401": (sample("err_401_comet"), None, REQUEST_ID, "invalid token"),
    "503": (
        sample("err_503_comet_model_not_found"),
        "model_not_found",
        REQUEST_ID,
        "no available channel for group default and model sora-2-all",
    ),
    "500": (sample("err_500_comet_invalid_request"), "invalid_request", None, "field messages is"),
    "rfc9457": (sample("replicate_402"), None, None, "Insufficient credit: You have insufficient"),
    "422": (sample("replicate_422"), None, None, 'must be one of the following: "jpg", "png"'),
    "enveloped": (
        reply(400, {"code": "bad_thing", "message": "what", "data": None}),
        "bad_thing",
        None,
        "what",
    ),
    "text": (reply(500, {"error": "text"}), None, None, "text"),
    "plain-text": (reply(500, b"upstream\r\n  went   away"), None, None, "upstream went away"),
    "header": (reply(502, HTML, X_Request_Id=REQUEST_ID), None, REQUEST_ID, ""),
    "gateway-header": (reply(502, b"", X_Oneapi_Request_Id=REQUEST_ID), None, REQUEST_ID, ""),
    "words-win-over-header": (
        reply(500, comet("x", f"no (request id: {REQUEST_ID})"), x_request_id="proxy-1"),
        "x",
        REQUEST_ID,
        "no",
    ),
    "error-is-an-object-without-message": (reply(500, {"error": {"code": "e"}}), "e", None, "e"),
    "message-is-an-object": (reply(500, {"error": {"message": {"a": 1}}}), None, None, '{"a": 1}'),
    "code-is-a-number": (reply(500, {"code": 7, "message": "m"}), None, None, "m"),
}


@pytest.mark.parametrize("name", SAYS)
def test_what_the_service_says_is_kept(name: str) -> None:
    of, code, request_id, words = SAYS[name]
    error = failure(of, CREATE)
    assert error is not None
    assert (error.code, error.request_id) == (code, request_id)
    assert words in str(error)
    assert str(error).count(request_id or "HTTP") == 1
    assert "\n" not in str(error)


def test_invalid_fields_are_listed() -> None:
    error = failure(sample("replicate_422"), CREATE)
    assert isinstance(error, InputRejected)
    assert error.invalid_fields == (
        'input.output_format: output_format must be one of the following: "jpg", "png"',
    )


@pytest.mark.parametrize(
    "fields", [None, "x", 5, {"a": 1}, ["x", 5, None]], ids=["null", "text", "number", "map", "odd"]
)
def test_odd_invalid_fields_do_no_harm(fields: object) -> None:
    error = failure(reply(422, {"title": "no", "invalid_fields": fields}), CREATE)
    assert isinstance(error, InputRejected)
    assert error.invalid_fields == ()


#: Bodies that are no error object at all; none may break the reading of an error.
ODD_BODIES: list[bytes] = [
    b"",
    b"null",
    b"true",
    b"0",
    b'"text"',
    b"[]",
    b"[[]]",
    b"{}",
    b'{"error": null}',
    b'{"error": []}',
    b'{"error": {}}',
    b'{"error": {"message": null, "code": null}}',
    b'{"code": null, "message": null, "data": null}',
    b'{"code": "success", "data": null}',
    b'{"title": 5, "detail": [1]}',
    b"\xff\xfe\x00",
    b'{"error": "\xff"}',
    b'{"error": "\\ud83d"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5_000,
]


@pytest.mark.parametrize("body", ODD_BODIES, ids=lambda body: repr(body[:45]))
def test_odd_bodies_are_read_by_their_status(body: bytes) -> None:
    expected = {400: InputRejected, 401: AccountError, 429: RateLimited, 502: UnknownOutcome}
    for status, kind in expected.items():
        of = Reply(status, {}, body, NOW)
        assert type(failure(of, CREATE)) is kind
        assert code_of(of.json) == ""
        assert request_id_of(of) is None
        assert len(words_of(of)) <= 1000
    assert failure(Reply(200, {}, body, NOW), CREATE) is None, "for `parse_create` to judge"


def test_a_long_reply_is_cut_in_the_message() -> None:
    for body in (b"x" * 1_000_000, json.dumps({"error": "x" * 1_000_000}).encode()):
        assert len(str(failure(Reply(500, {}, body, NOW), CREATE))) < 1500


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 422, 500, 503])
def test_a_rejected_cancel_says_nothing_of_the_model(status: int) -> None:
    error = failure(reply(status, {"detail": "no"}), CANCEL)
    assert error is not None
    assert not isinstance(error, ModelNotFound | InputRejected)
