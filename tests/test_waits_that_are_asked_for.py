"""How long a 429 asks to wait is read from all the places where it may say so."""

import json
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest

from prefect_cometapi.errors import RateLimited
from prefect_cometapi.failures import Call, Reply, asked_wait
from tests.replies import NOW, comet, failure, sample

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
    error = failure(of, Call.CREATE)
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
