"""Errors repeat the service's own words, code and request id, however odd the reply."""

import json

import pytest

from prefect_cometapi.errors import (
    AccountError,
    InputRejected,
    ModelNotFound,
    RateLimited,
    UnknownOutcome,
)
from prefect_cometapi.failures import Call, Reply, code_of, request_id_of, words_of
from tests.replies import HTML, NOW, comet, failure, reply, sample

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
    error = failure(of, Call.CREATE)
    assert error is not None
    assert (error.code, error.request_id) == (code, request_id)
    assert words in str(error)
    assert str(error).count(request_id or "HTTP") == 1
    assert "\n" not in str(error)


def test_invalid_fields_are_listed() -> None:
    error = failure(sample("replicate_422"), Call.CREATE)
    assert isinstance(error, InputRejected)
    assert error.invalid_fields == (
        'input.output_format: output_format must be one of the following: "jpg", "png"',
    )


@pytest.mark.parametrize(
    "fields", [None, "x", 5, {"a": 1}, ["x", 5, None]], ids=["null", "text", "number", "map", "odd"]
)
def test_odd_invalid_fields_do_no_harm(fields: object) -> None:
    error = failure(reply(422, {"title": "no", "invalid_fields": fields}), Call.CREATE)
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
        assert type(failure(of, Call.CREATE)) is kind
        assert code_of(of.json) == ""
        assert request_id_of(of) is None
        assert len(words_of(of)) <= 1000
    assert failure(Reply(200, {}, body, NOW), Call.CREATE) is None, "for `parse_create` to judge"


def test_a_long_reply_is_cut_in_the_message() -> None:
    for body in (b"x" * 1_000_000, json.dumps({"error": "x" * 1_000_000}).encode()):
        assert len(str(failure(Reply(500, {}, body, NOW), Call.CREATE))) < 1500


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 422, 500, 503])
def test_a_rejected_cancel_says_nothing_of_the_model(status: int) -> None:
    error = failure(reply(status, {"detail": "no"}), Call.CANCEL)
    assert error is not None
    assert not isinstance(error, ModelNotFound | InputRejected)
