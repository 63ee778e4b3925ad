"""What went wrong with a request: the failure table as code. No I/O.

The HTTP status alone misleads here (a wrong path is HTML with status 200, a wrong input may be a
500, an unknown model a 503), so replies are read whole. The facts come from Replicate's HTTP
reference, CometAPI's documentation and third parties' recordings of the live service.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum
from functools import cached_property, reduce
from typing import Any, NoReturn
from urllib.parse import quote as quote_url

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
from prefect_cometapi.hidden_texts import Hidden, without

#: A query soon after the create may not find the prediction yet; seen for some seconds on a
#: sister route, so a minute is generous.
NOT_FOUND_TOLERANCE = 60.0


#: JSON that is nested deeper is taken for unreadable: what handles it further on would run out of
#: stack.
MAX_DEPTH = 100


class Call(StrEnum):
    """The kinds of request, by what sending one twice would mean."""

    CREATE = "create"  # paid: twice is paid twice
    QUERY = "query"  # free: may be sent any number of times
    CANCEL = "cancel"  # free, and best effort
    CHECK = "check"  # free: asked only to find out whether something is wrong
    CHAT = "chat"  # costs little: who asks counts how often a lost answer is asked for again


class Step(Enum):
    """What follows a failed request."""

    SEND_AGAIN = "send again, until the deadline"
    RAISE = "raise"
    IN_DOUBT = "it may have been accepted: raise, and never send it again unnoticed"


def next_step(call: Call, error: RequestError, *, age: float = math.inf) -> Step:
    """The failure table: what to do after `error` came of `call`.

    Args:
        call: What was asked for.
        error: How it failed, as classified by `raise_for_error` or the HTTP client.
        age: Seconds since the prediction was created; matters to a query that does not find it.
    """
    match error:
        case NeverDelivered() | RateLimited():
            return Step.SEND_AGAIN
        case AccountError():
            # A key that stopped working does not come back by asking again; the prediction goes
            # on and stays collectable.
            return Step.RAISE
        case UnknownOutcome():
            return Step.IN_DOUBT if call in PAID else Step.SEND_AGAIN
        case PredictionNotFound() if age >= NOT_FOUND_TOLERANCE:
            return Step.RAISE
        case _:
            return Step.SEND_AGAIN if call is Call.QUERY else Step.RAISE


#: What costs something each time that it is carried out.
PAID = (Call.CREATE, Call.CHAT)


def is_trouble(error: Exception) -> bool:
    """True where the service, or the way to it, is in trouble: sending again adds to its load.

    Not after a 429, where the service itself says when to come back, and not where it answered
    that it does not know the prediction (yet).
    """
    calm = RateLimited | PredictionNotFound
    return isinstance(error, RequestError) and not isinstance(error, calm)


@dataclass(frozen=True)
class Reply:
    """A reply as it arrived."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: Texts that nobody is to be told, if its words quote them.
    hidden: Hidden = ()

    @cached_property
    def json(self) -> Any:
        """The decoded body, or None where it is not JSON."""
        try:
            value = json.loads(self.body)
            # Every poll comes here: what can be seen of the bytes needs no look at each value.
            brackets = self.body.count(b"[") + self.body.count(b"{")
            if brackets >= MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
                return None
            if self.body.isascii() and b"\\u" not in self.body:
                return value
            text = json.dumps(value, ensure_ascii=False)
            try:
                text.encode()
            except UnicodeEncodeError:
                # Half of a surrogate pair, such as a cut emoji, could not be stored as a result.
                value = json.loads(text.encode("utf-8", "replace"))
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            return None
        return value

    def header(self, name: str) -> str | None:
        """A header by its lower-case name."""
        return next((v for k, v in self.headers.items() if k.lower() == name), None)

    @property
    def server_time(self) -> datetime:
        """When it was sent by the server's own clock; by this machine's where it does not say."""
        try:
            return _utc(parsedate_to_datetime(self.header("date") or ""))
        except (ValueError, OverflowError):
            return self.received_at

    def without(self, secret: str) -> Reply:
        """The same without a secret, which some gateways repeat in an error."""
        if len(secret) < 8:  # a shorter one is nobody's, and may well be a part of other words
            return self
        spellings = {secret}
        if not _SPELLED_ALIKE.fullmatch(secret):
            spellings |= {quote_url(secret, safe=""), html.escape(secret), json.dumps(secret)[1:-1]}
            spellings |= {each.replace("/", "\\/") for each in spellings}
        spellings |= {each.lower() for each in spellings}  # as names of headers arrive
        body, headers = self.body, str(self.headers)
        found = [each for each in spellings if each.encode() in body or each in headers]
        if not found:
            return self

        def cleaned(text: str) -> str:
            return reduce(lambda rest, each: rest.replace(each, "***"), ordered, text)

        ordered = sorted(found, key=len, reverse=True)  # the longer ones hold the shorter ones
        for each in ordered:
            body = body.replace(each.encode(), b"***")
        named = {cleaned(name): cleaned(value) for name, value in self.headers.items()}
        return replace(self, headers=named, body=body)

    @property
    def is_html(self) -> bool:
        """True for a web page, which is what a wrong path brings, with status 200."""
        declared = (self.header("content-type") or "").lower()
        return "html" in declared or self.body.lstrip()[:1] == b"<"


#: What URLs, HTML and JSON write as it is; most keys are nothing else.
_SPELLED_ALIKE = re.compile(r"[A-Za-z0-9._~-]+")


def _is_deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def raise_for_error(reply: Reply, call: Call, about: str) -> None:
    """Raise the classified error that `reply` is; return where it may be a success.

    Args:
        reply: The answer.
        call: What was asked for.
        about: Whom the message is about, such as `prediction abc` or `model owner/name`.
    """
    status, code = reply.status, code_of(reply.json)

    def fail(kind: type[RequestError], what: str, then: str, **details: Any) -> NoReturn:
        raise kind(
            f"{what} ({call}, {about}, HTTP {status}).{quote(reply)} {then}",
            status=status,
            code=code or None,
            request_id=request_id_of(reply),
            **details,
        )

    # It is documented as the message, and inferred as the code.
    not_there = {code, words_of(reply)[:14]} & {"task_not_exist", "task_not_found"}
    if not_there and call not in PAID:
        fail(PredictionNotFound, "The service knows no such prediction", _CHECK_ID)
    if 200 <= status < 300:
        if not isinstance(reply.json, dict) and reply.is_html:
            fail(
                RequestRejected,
                "A web page came back instead of an API reply",
                "The base URL or the route is wrong; nothing was accepted.",
            )
        return
    if status == 429:
        fail(
            RateLimited,
            "Too many requests",
            "It was not accepted and may be sent again after a while.",
            retry_after=asked_wait(reply),
        )
    if status == 401:
        fail(AccountError, "The API key is missing or wrong", "Set a valid key, then run again.")
    if status == 402:
        fail(
            AccountError,
            "The account has too little credit",
            "It was not accepted. Add credit, then run again.",
        )
    if status == 403 or code == "insufficient_user_quota":
        fail(
            AccountError,
            "The account may not do this, or its quota is used up",
            "It was not accepted. Check the account's quota and permissions, then run again.",
        )
    if code == "model_not_found" or (status == 404 and call in PAID):
        fail(
            ModelNotFound,
            "The service has no such model for this account",
            "It was not accepted. Check the model's name in the vendor's list of models.",
        )
    if call in PAID and (code == "invalid_request" or status in (400, 422)):
        fail(
            InputRejected,
            "The input was refused",
            "Correct it; sending the same again will not help. Nothing was paid.",
            invalid_fields=_invalid_fields(reply),
        )
    if status == 404 and isinstance(reply.json, dict):
        fail(PredictionNotFound, "The service knows no such prediction", _CHECK_ID)
    if status >= 500 and code != "invalid_request":
        fail(
            UnknownOutcome,
            "Trouble behind the service's gateway",
            "It may have been accepted all the same." if call in PAID else "It may pass.",
        )
    fail(RequestRejected, "The request was refused", "Check the base URL and the arguments.")


_CHECK_ID = "Check the id, and that it was created with this account and at this base URL."


def asked_wait(reply: Reply) -> float | None:
    """Seconds that a 429 asks to wait, by the longest of the forms it is written in.

    A `Retry-After` header in seconds or as a date, a `ratelimit-reset` header, `retry_after` in
    the body, or "resets in ~5s" in its words. None where it names none. A moment is compared with
    the server's own clock: this machine's may be hours off.
    """
    body = reply.json
    found = [
        _seconds_or_date(reply.header("retry-after"), reply.server_time),
        _seconds_or_epoch(reply.header("ratelimit-reset"), reply.server_time),
    ]
    if isinstance(body, dict):
        inner = body.get("error")
        found.append(_number(body.get("retry_after")))
        found.append(_number(inner.get("retry_after")) if isinstance(inner, dict) else None)
    if match := re.search(rf"resets? in ~? ?((?:{_AMOUNT} ?)+)", words_of(reply), re.IGNORECASE):
        parts = re.findall(_AMOUNT, match[1], re.IGNORECASE)
        found.append(sum(float(number) * _UNITS[unit.lower()[:2]] for number, unit in parts))
    return max((wait for wait in found if wait is not None and 0 <= wait < math.inf), default=None)


#: "~5s", "30", "5 minutes", "1m30s"
_AMOUNT = r"(\d+(?:\.\d+)?) ?(ms|hours?|h|minutes?|min|m|seconds?|sec|s|)"
_UNITS = {"": 1, "s": 1, "se": 1, "ms": 0.001, "m": 60, "mi": 60, "h": 3600, "ho": 3600}


def code_of(body: Any) -> str:
    """The machine-readable error code of a body, or an empty text."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else body.get("code")
    return code if isinstance(code, str) and code != "success" else ""


def words_of(reply: Reply) -> str:
    """What a reply says, in the service's own words, whichever of its error shapes it has."""
    body = reply.json
    if not isinstance(body, dict):
        said = "" if reply.is_html else reply.body[:300].decode("utf-8", "replace")
    elif isinstance(error := body.get("error"), dict):
        said = as_text(error.get("message")) or as_text(error.get("code"))
    elif error:
        said = as_text(error)
    else:
        detail = as_text(body.get("detail")) or as_text(body.get("message"))
        said = ": ".join(part for part in (as_text(body.get("title")), detail) if part)
    return without(" ".join(said.split())[:1000], reply.hidden)


def request_id_of(reply: Reply) -> str | None:
    """The service's id of the request, which its support asks for."""
    if match := re.search(r"request id:\s*([\w-]+)", words_of(reply)):
        return match[1]
    return reply.header("x-request-id") or reply.header("x-oneapi-request-id")


def as_text(value: Any) -> str:
    """Text as it is, nothing as an empty text, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def quote(reply: Reply) -> str:
    """A sentence with the service's own words and its request id; empty where it has none."""
    said, request_id = words_of(reply), request_id_of(reply)
    quote = f" The service says: {said.rstrip('.')}." if said else ""
    if request_id and request_id not in said:
        quote += f" (request id: {request_id})"
    return quote


def _invalid_fields(reply: Reply) -> tuple[str, ...]:
    body = reply.json
    fields = body.get("invalid_fields") if isinstance(body, dict) else None
    return tuple(
        f"{as_text(one.get('field'))}: {without(as_text(one.get('description')), reply.hidden)}"
        for one in (fields if isinstance(fields, list) else [])
        if isinstance(one, dict)
    )


def _seconds_or_date(value: str | None, now: datetime) -> float | None:
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        date = _utc(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date - now).total_seconds())


def _utc(date: datetime) -> datetime:
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _seconds_or_epoch(value: str | None, now: datetime) -> float | None:
    seconds = _number(value)
    # Some gateways give the moment of the reset instead of the seconds until it.
    return seconds - now.timestamp() if seconds is not None and seconds > 1e9 else seconds


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
