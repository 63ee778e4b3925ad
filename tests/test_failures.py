"""Every way in which a request can fail is classified as the failure table has it, by reading the
reply whole: the HTTP status alone misleads, and a create that may have been paid is never re-sent.
"""

import math

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
from prefect_cometapi.failures import NOT_FOUND_TOLERANCE, Call, Reply, Step, next_step
from tests.replies import HTML, WIRE, comet, failure, reply, sample

CREATE, QUERY, CANCEL = Call.CREATE, Call.QUERY, Call.CANCEL


AGAIN, RAISE, IN_DOUBT = Step.SEND_AGAIN, Step.RAISE, Step.IN_DOUBT


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
