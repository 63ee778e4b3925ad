"""Whatever a service, a gateway or a proxy answers becomes a prediction, "nothing to tell yet", or
one of this package's errors; and a create that may have been accepted is never sent again unasked.

More examples, drawn anew each time: pytest --hypothesis-profile=long tests/test_any_reply…
"""

from __future__ import annotations

import json
import math
import pickle
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_cometapi.endings import refuses_content, succeeded
from prefect_cometapi.errors import (
    OutputDamaged,
    OutputError,
    PredictionError,
    RequestError,
    UnknownOutcome,
)
from prefect_cometapi.failures import Call, Reply, Step, asked_wait, next_step, raise_for_error
from prefect_cometapi.filetypes import FileType
from prefect_cometapi.ledger import Outcome, intent
from prefect_cometapi.models import Cancellation, Prediction
from prefect_cometapi.outputs import decode_data, find_parts, identify
from prefect_cometapi.urls import check_prediction_id
from prefect_cometapi.wire import STATUSES, parse_cancel, parse_create, parse_query

T = TypeVar("T")
ROOT, MODEL, ID = "https://api.example", "black-forest-labs/flux-schnell", "q4chw5rey9rmt0cww76t4h"
SENT = datetime(2026, 3, 12, 11, 27, 17, tzinfo=UTC)
INPUT = {"prompt": "A paper boat"}

# --- what may arrive --------------------------------------------------------------------------

#: Codes that say for certain that a create was not accepted, whatever the status is.
REFUSALS = ("invalid_request", "model_not_found", "insufficient_user_quota")
CODES = (*REFUSALS, "success", "task_not_exist", "task_not_found", "upstream_error", "timeout", "")
NAMES = (
    *("id", "task_id", "model", "status", "output", "error", "logs", "metrics", "version", "input"),
    *("data", "code", "message", "detail", "title", "fail_reason", "result_url", "data_removed"),
    *("created_at", "started_at", "completed_at", "submit_time", "start_time", "finish_time"),
    *("predict_time", "retry_after", "invalid_fields", "field", "description", "https://["),
)
#: With halves of surrogate pairs, which no file, database or log takes.
any_text = st.text(st.characters(), max_size=30)
LINKS = (
    *("https://replicate.delivery/", "http://", "https://[", "data:", "data:image/png;base64,"),
    *("data:text/html,", "DATA:;base64,", "data:image/png,<html>", "data:,%", "data:a/b;c=d,"),
)
links = st.builds("{}{}".format, st.sampled_from(LINKS), any_text)
words = st.one_of(
    st.sampled_from([*STATUSES, *CODES, ID, "SUCCESS", "warming_up", "../../x", "2026-03-12"]),
    st.sampled_from(["2026-03-12T11:27:17Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z"]),
    st.sampled_from(["NSFW", "resets in ~5s", "resets in 1m30s", "retry in a while"]),
    st.builds("resets in ~{}{}".format, st.integers(0, 10**400), st.sampled_from("smh.,")),
    links,
    any_text,
)
numbers = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([10**13, -(10**13), 10**400, 1e11, 1773314837, 1773314837000, -1]),
)
names = st.one_of(st.sampled_from(NAMES), any_text)
leaves = st.one_of(st.none(), numbers, words)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
predictions = st.builds(
    lambda fields, **known: {**known, **fields},
    st.dictionaries(names, values, max_size=3),
    id=st.one_of(st.just(ID), leaves),
    status=st.one_of(st.sampled_from(["succeeded", "failed", "processing"]), leaves),
    output=values,
    metrics=st.builds(lambda number: {"predict_time": number}, leaves),
)
envelopes = st.builds(
    lambda code, outer, inner: {"code": code, "data": {**outer, "data": inner}},
    st.sampled_from(CODES),
    st.dictionaries(names, leaves, max_size=3),
    st.one_of(predictions, leaves),
)
bodies = st.one_of(predictions, envelopes, values)


def dumped(value: Any, escaped: bool, encoding: str) -> bytes:
    return json.dumps(value, ensure_ascii=escaped).encode(encoding, "surrogatepass")


whole = st.builds(dumped, bodies, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
raw = st.one_of(
    whole,
    whole,
    st.builds(lambda body, share: body[: int(len(body) * share)], whole, st.floats(0, 1)),
    st.binary(max_size=60),
    st.sampled_from([b"", b"null", b"<!doctype html><html>", b'{"id":', b"\xff\xfe", b"NaN"]),
    st.just(b'{"id": 1' + b"0" * 5000 + b"}"),  # more digits than Python reads
)
waits = st.one_of(
    st.sampled_from(["5", "-5", "1e400", "nan", "Thu, 12 Mar 2026 11:27:27 GMT", "1773314847"]),
    st.sampled_from(["Mon, 1 Jan 99999 00:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "0 0"]),
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.builds(str, st.floats()),
)
headers = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "retry-after", "ratelimit-reset", "date", "content-type", "x-request-id"]
    ),
    st.one_of(waits, st.sampled_from(["text/html", "application/json"])),
    max_size=4,
)
statuses = st.one_of(
    st.sampled_from([200, 201]),
    st.sampled_from([202, 204, 301, 400, 401, 402, 403, 404, 422, 429]),
    st.sampled_from([500, 502, 503, 504, 520, 524]),
    st.integers(100, 599),
)
replies = st.builds(Reply, statuses, headers, raw, st.just(SENT))


# --- what must come of it ---------------------------------------------------------------------


def sound(prediction: Prediction) -> None:
    """It can be stored, told and asked about like any other."""
    prediction.model_dump_json().encode()
    json.dumps(prediction.model_dump(), default=str, ensure_ascii=False).encode()
    assert Prediction.model_validate_json(prediction.model_dump_json()).id == prediction.id
    assert stored(prediction).id == prediction.id
    assert prediction.run_time is None or math.isfinite(prediction.run_time)
    assert prediction.queue_time is None or math.isfinite(prediction.queue_time)
    assert prediction.expires_at is None or prediction.expires_at.tzinfo
    assert isinstance(refuses_content(prediction.error or ""), bool)
    with suppress(PredictionError):
        assert succeeded(prediction) is prediction


def stored(value: T) -> T:
    """As it comes back from where Prefect stores results."""
    again: T = pickle.loads(pickle.dumps(value))  # noqa: S301
    return again


def told(error: RequestError) -> None:
    """It can be logged, stored as a result, and acted upon."""
    str(error).encode()
    assert str(stored(error)) == str(error)
    for call in Call:
        for age in (0.0, 59.9, 60.0, math.inf, math.nan):
            assert isinstance(next_step(call, error, age=age), Step)


def answer_to_a_create(reply: Reply) -> Prediction | RequestError:
    try:
        return parse_create(reply, api_root=ROOT, model=MODEL, input=INPUT, submitted_at=SENT)
    except RequestError as error:
        told(error)
        return error


@given(replies)
def test_a_create(reply: Reply) -> None:
    answer = answer_to_a_create(reply)
    if isinstance(answer, Prediction):
        assert 200 <= reply.status < 300
        assert check_prediction_id(answer.id)
        assert answer.submitted_at == SENT
        sound(answer)
        return
    step = next_step(Call.CREATE, answer)
    if step is Step.SEND_AGAIN:
        assert reply.status == 429, "it may have been accepted"
    if step is Step.RAISE and reply.status >= 500:
        assert answer.code in REFUSALS, "it may have been accepted"
    if step is Step.RAISE and 200 <= reply.status < 300:
        assert not isinstance(reply.json, dict), "it may have been accepted"


@given(replies)
def test_a_query(reply: Reply) -> None:
    steps = []
    try:
        seen = parse_query(reply, api_root=ROOT, prediction_id=ID, model=MODEL)
    except RequestError as error:
        told(error)
        steps = [next_step(Call.QUERY, error, age=age) for age in (0.0, math.inf)]
    else:
        if seen is not None:
            assert seen.id == ID
            sound(seen)
    assert Step.IN_DOUBT not in steps


@given(replies)
def test_a_cancel(reply: Reply) -> None:
    answer = parse_cancel(reply, api_root=ROOT, prediction_id=ID, model=MODEL)
    assert isinstance(answer, Cancellation)
    assert answer.message.encode()
    assert not (answer.accepted and answer.prediction is None)


@given(replies, st.sampled_from(Call), any_text)
def test_any_call(reply: Reply, call: Call, about: str) -> None:
    try:
        raise_for_error(reply, call, about.encode("utf-8", "replace").decode())
    except RequestError as error:
        told(error)
    else:
        assert 200 <= reply.status < 300


@given(replies)
def test_a_wait_is_a_number_of_seconds(reply: Reply) -> None:
    asked = asked_wait(reply)
    assert asked is None or (math.isfinite(asked) and asked >= 0)


def seen_in(body: bytes) -> Prediction | None:
    """What a query makes of a body; None where it is no prediction."""
    try:
        return parse_query(Reply(200, {}, body), api_root=ROOT, prediction_id=ID, model=MODEL)
    except RequestError:
        return None


def become_files(output: Any) -> None:
    for part in find_parts(output):
        assert (part.url is None) or (part.data is None)
        assert isinstance(part.text.encode("utf-8", "replace"), bytes)
        if part.data is not None:
            try:
                content, kind = decode_data(part.data, part.where)
            except OutputError:
                pass
            else:
                assert isinstance(content, bytes)
                assert isinstance(kind, FileType)


@given(values, st.booleans())
def test_outputs(output: Any, escaped: bool) -> None:
    said = {"id": ID, "status": "succeeded", "output": output}
    if seen := seen_in(dumped(said, escaped, "utf-8")):
        become_files(seen.output)


@given(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"<html>", b"\x89PNG\r\n\x1a\n", b"<svg "])),
    st.one_of(any_text, st.sampled_from(["image/png", "text/html; charset=x", "audio/x-wav"])),
    st.one_of(st.just("https://replicate.delivery/a.html"), any_text),
)
def test_files(head: bytes, declared: str, source: str) -> None:
    try:
        kind = identify(head, declared, source)
    except OutputError:
        pass
    else:
        assert kind.extension.isalnum(), "it becomes a part of a file's name"


def fits_into_a_record(seen: Prediction) -> None:
    sent = intent(
        scope="s",
        model=MODEL,
        api_root=ROOT,
        input=INPUT,
        sample=0,
        key=None,
        attempt=1,
        flow_runs=[],
        credentials=None,
        patience=timedelta(seconds=100),
    )
    record = sent.ended(Outcome.FAILED, seen.error or "")
    record = record.model_copy(update={"run_time": seen.run_time})
    assert json.dumps(record.as_json(), allow_nan=False, ensure_ascii=False).encode()


@given(predictions, st.booleans())
def test_what_is_known_of_its_end_fits_into_a_record(value: Any, escaped: bool) -> None:
    if seen := seen_in(dumped(value, escaped, "utf-8")):
        fits_into_a_record(seen)


# --- traps that were found --------------------------------------------------------------------


def ended(**fields: Any) -> bytes:
    said = {"id": ID, "status": "failed", **fields}
    return json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")


TRAPS = {
    "half-a-pair-in-the-output": ended(status="succeeded", output="A boat \ud83d"),
    "half-a-pair-in-a-data-uri": ended(status="succeeded", output="data:,\ud83d"),
    "half-a-pair-in-the-error": ended(error="A boat \ud83d"),
    "half-a-pair-in-utf-16": ended(error="A boat")
    .decode()
    .replace("b", "\ud83d")
    .encode("utf-16", "surrogatepass"),
    "run-time-too-large-for-a-float": ended(metrics={"predict_time": 10**400}),
    "run-time-not-a-number": ended(metrics={"predict_time": math.nan}),
    "run-time-infinite": ended(metrics={"predict_time": math.inf}),
    "name-that-is-half-a-url": ended(
        status="succeeded", output={"https://[": "data:image/png,<html>"}
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name: str) -> None:
    seen = seen_in(TRAPS[name])
    assert seen is not None
    sound(seen)
    become_files(seen.output)
    fits_into_a_record(seen)


@pytest.mark.parametrize("digits", [400, 900])
def test_a_wait_of_many_digits_is_no_wait_without_end(digits: int) -> None:
    reply = Reply(429, {}, b'{"detail": "resets in ~' + b"9" * digits + b's"}')
    asked = asked_wait(reply)
    assert asked is None or math.isfinite(asked)


DEEP = (100, 200, 300, *range(900, 1000, 7), 2_000, 100_000)


def nested(opening: str, depth: int) -> str:
    return opening * depth + "1" + ("]" if opening == "[" else "}") * depth


@pytest.mark.parametrize("opening", ["[", '{"data":', '{"error":', '{"output":'])
def test_deep_replies(opening: str) -> None:
    for depth in DEEP:
        deep = nested(opening, depth)
        for text in (deep, f'{{"id": "{ID}", "status": "succeeded", "output": {deep}}}'):
            for status in (201, 400, 503):
                reply = Reply(status, {}, text.encode())
                answer = answer_to_a_create(reply)
                assert status == 400 or isinstance(answer, Prediction | UnknownOutcome)


@pytest.mark.parametrize("opening", ["[", '{"data":'])
def test_deep_outputs(opening: str) -> None:
    for depth in DEEP:
        if seen := seen_in(
            f'{{"status": "succeeded", "output": {nested(opening, depth)}}}'.encode()
        ):
            with suppress(OutputDamaged):  # which says that it is nested too deeply
                become_files(seen.output)
            assert stored(seen).output == seen.output
