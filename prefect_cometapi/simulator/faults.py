"""Every way to misbehave, as a table. `plan.py` says which request meets which."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any

from prefect_cometapi.simulator.predictions import ENVELOPE_STATUS, FATES
from prefect_cometapi.simulator.replies import (
    Reply,
    gateway_error,
    html_reply,
    json_reply,
    problem,
    task_not_exist,
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a fault may need to know to spoil a reply."""

    request_id: str
    path: str
    now: float
    retry_after: float
    lure_url: str | None
    oversize: int


Spoil = Callable[[Reply, Context], Reply]


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour.

    Attributes:
        operation: The operation it concerns.
        short: Its name within the operation.
        text: What happens, in a line.
        spoil: Turns the true reply into the one that is sent.
        accepted: The request is carried out first; otherwise the true reply is never made.
    """

    operation: str
    short: str
    text: str
    spoil: Spoil
    accepted: bool = False

    @property
    def name(self) -> str:
        """The name in full, like `create.lost`."""
        return f"{self.operation}.{self.short}"


def _throttle(form: str) -> Spoil:
    def spoil(_: Reply, context: Context) -> Reply:
        wait = f"{context.retry_after:g}"
        match form:
            case "seconds":
                header = ("retry-after", wait)
            case "date":
                # An HTTP date has whole seconds: up, so that it is never too early.
                date = formatdate(math.ceil(context.now + context.retry_after), usegmt=True)
                header = ("retry-after", date)
            case "reset":
                return json_reply({"error": "Too many requests"}, 429, ("ratelimit-reset", wait))
            case "body":
                value = {"detail": "Request was throttled.", "status": 429}
                return json_reply({**value, "retry_after": context.retry_after}, 429)
            case _:
                text = f"Request was throttled. Your rate limit resets in ~{wait}s."
                return json_reply({"detail": text}, 429)
        return gateway_error(429, "rate_limit", "too many requests", context.request_id, header)

    return spoil


def _gateway(status: int, code: str, message: str) -> Spoil:
    return lambda _, context: gateway_error(status, code, message, context.request_id)


def _always(reply: Reply) -> Spoil:
    return lambda *_: reply


def _changed(**changes: Any) -> Spoil:
    return lambda reply, _: replace(reply, **changes)


def _half(reply: Reply, **changes: Any) -> Reply:
    return replace(reply, body=reply.body[: len(reply.body) // 2], **changes)


def _cut(reply: Reply, _: Context) -> Reply:
    return _half(reply, missing=len(reply.body) - len(reply.body) // 2, end="close")


def _stall(reply: Reply, _: Context) -> Reply:
    return _half(reply, missing=len(reply.body) - len(reply.body) // 2, end="hang")


def _swollen(chunked: bool) -> Spoil:
    return lambda reply, context: replace(reply, padding=context.oversize, chunked=chunked)


def _redirect(where: str) -> Spoil:
    def spoil(_: Reply, context: Context) -> Reply:
        away = f"{context.lure_url or 'http://lure.invalid'}{context.path}"
        goal = {"away": away, "hop": f"{context.path}?hop", "loop": f"{context.path}?loop"}
        target = context.lure_url or "/" if where == "lure" else goal[where]
        return Reply(301 if where == "lure" else 302, headers=(("location", target),))

    return spoil


def _edited(edit: Callable[[Any], Any]) -> Spoil:
    return lambda reply, _: json_reply(edit(json.loads(reply.body)), reply.status)


def _inner(value: Any) -> Any:
    data = value.get("data") or value
    return data["data"] if "task_id" in data else data


def _without_id(value: Any) -> Any:
    for part in (_inner(value), value.get("data") or {}):
        part.pop("id", None), part.pop("task_id", None)
    return value


def _with_strange_status(value: Any) -> Any:
    _inner(value).update(status="warming_up", output=None)
    if "code" in value:
        value["data"]["status"] = "WARMING_UP"
    return value


def _hollow(words: Mapping[str, str], other: str) -> Spoil:
    """Only the envelope, with what it knows of the output."""

    def edit(value: Any) -> Any:
        inner = _inner(value)
        output = inner["output"][0] if isinstance(inner["output"], list) else inner["output"]
        data = {
            "task_id": inner["id"],
            "status": words.get(inner["status"], other),
            "fail_reason": inner["error"] or "",
            "result_url": output if str(output).startswith("http") else "",
        }
        return {"code": "success", "message": "", "data": data}

    return _edited(edit)


def _spoilt(finish: str = "stop", **message: Any) -> Spoil:
    """The same answer, with other fields in its message."""

    def edit(value: Any) -> Any:
        choice = value["choices"][0]
        choice["message"].update(message)
        choice["finish_reason"] = finish
        return value

    return _edited(edit)


def _rewritten(rewrite: Callable[[str], str], finish: str = "stop") -> Spoil:
    """The same answer, with other words."""

    def edit(value: Any) -> Any:
        choice = value["choices"][0]
        choice["message"]["content"] = rewrite(choice["message"]["content"])
        choice["finish_reason"] = finish
        return value

    return _edited(edit)


def _listed(change: Callable[[list[Any]], list[Any]]) -> Spoil:
    """The same answer, with the lists in its JSON changed; what is no JSON object stays."""

    def rewrite(text: str) -> str:
        try:
            value = json.loads(text)
        except ValueError:
            return text
        if isinstance(value, dict):
            value = {k: change(v) if isinstance(v, list) else v for k, v in value.items()}
        return json.dumps(value, ensure_ascii=False)

    return _rewritten(rewrite)


_TOOL = {"id": "call_1", "type": "function", "function": {"name": "draw", "arguments": "{}"}}

# What stands behind the gateway answers in its own way: each status brings another kind of body.
_TIMED_OUT = {"code": "timeout", "message": "origin timed out", "data": None}
_TROUBLE: Mapping[int, Spoil] = {
    500: _gateway(500, "upstream_error", "upstream error"),
    502: _always(html_reply(502)),
    503: _always(json_reply({"error": "Service temporarily unavailable"}, 503)),
    504: _always(Reply(504, media_type="text/plain")),
    520: _always(html_reply(520)),
    524: _always(json_reply(_TIMED_OUT, 524)),
}
_FORMS = {
    "seconds": "Retry-After in seconds",
    "date": "Retry-After as an HTTP date",
    "body": "retry_after in the body",
    "text": "'resets in ~1s.' in the body's text",
    "reset": "a ratelimit-reset header",
}
_WRONG = {"type": "enum", "field": "input.output_format", "description": "must be another"}
_WRONG_TEXT = "- input.output_format: must be another\n"
_BAD_REQUEST = json_reply({"error": "bad request"}, 400)
_NO_CREDIT = problem(402, "Insufficient credit", "You have insufficient credit to run this model.")
_WRONG_INPUT = problem(422, "Input validation failed", _WRONG_TEXT, invalid_fields=[_WRONG])
_QUOTA = _gateway(403, "insufficient_user_quota", "user quota is not enough")
_FIELD = _gateway(500, "invalid_request", "field input is required")
_NO_MODEL = _gateway(503, "model_not_found", "no available channel for this model (distributor)")
_NO_DATA = json_reply({"code": "success", "data": None})
_RARE = {"succeeded": "SUCCESS", "failed": "ERROR", "canceled": "CANCELED", "aborted": "FAILED"}
_HOLLOW, _HOLLOW_RARE = _hollow(ENVELOPE_STATUS, "QUEUED"), _hollow(_RARE, "UNKNOWN")
_SILENT, _STANDING = _changed(status=0, end="close"), _changed(status=0, end="hang")

FAULTS: dict[str, Fault] = {}


def _done(operations: str, short: str, text: str, spoil: Spoil) -> None:
    """Add a fault that strikes after the request was carried out."""
    for operation in operations.split():
        FAULTS[f"{operation}.{short}"] = Fault(operation, short, text, spoil, accepted=True)


def _refused(operations: str, short: str, text: str, spoil: Spoil) -> None:
    """Add a fault that strikes instead."""
    for operation in operations.split():
        FAULTS[f"{operation}.{short}"] = Fault(operation, short, text, spoil)


_JSON, _CALLS, _ALL = (
    "create query chat",
    "create query cancel chat",
    "create query cancel file chat",
)
for _form, _text in _FORMS.items():
    _refused(_ALL, f"429-{_form}", f"429, with {_text}", _throttle(_form))
_refused("create chat", "400", "400", _always(_BAD_REQUEST))
_refused(_CALLS, "401", "401, though the key is right", _gateway(401, "", "invalid token"))
_refused(_CALLS, "402", "402 Insufficient credit", _always(_NO_CREDIT))
_refused(_CALLS, "403", "403 insufficient_user_quota", _QUOTA)
_refused("create", "422", "422 with invalid_fields", _always(_WRONG_INPUT))
_refused("create chat", "500-invalid-request", "500 that means a wrong input", _FIELD)
_refused("create chat", "503-model-not-found", "503 that means no such model", _NO_MODEL)
for _status, _spoil in _TROUBLE.items():
    _refused(_ALL, f"{_status}", f"{_status}, nothing was done", _spoil)
    _done("create", f"{_status}-accepted", f"{_status}, accepted and charged", _spoil)
_done(_ALL, "lost", "done, but the connection closes without a byte", _SILENT)
_done(_CALLS, "hang", "done, but never answered", _STANDING)
_refused(_ALL, "dropped", "the connection closes, nothing was done", _SILENT)
_refused(_ALL, "html", "an HTML page with status 200, nothing was done", _always(html_reply()))
_done(_JSON, "cut-off", "done, but the connection closes within the body", _cut)
_done(_JSON, "bad-json", "done, but the JSON stops half-way", lambda r, _: _half(r))
_refused("create query", "redirect", "301 to the lure, nothing was done", _redirect("lure"))
_done("create", "no-id", "accepted, but the reply has no id", _edited(_without_id))
_done("create", "200", "works, with status 200", _changed(status=200))
_done("create", "202", "works, with status 202", _changed(status=202))
_refused("query", "not-exist-400", "400 task_not_exist", _always(task_not_exist(400)))
_refused("query", "not-exist-404", "404 task_not_exist", _always(task_not_exist(404)))
_refused("query", "null-data", "success without data", _always(_NO_DATA))
_done("query", "strange-status", "a status that nobody knows", _edited(_with_strange_status))
_done("query", "hollow", "the envelope without the prediction inside", _HOLLOW)
_done("query", "hollow-other-words", "the same, with rarer words for the status", _HOLLOW_RARE)
_refused("cancel", "404", "404", _always(task_not_exist(404)))
_refused("file", "403", "403", _always(Reply(403, b"<Error/>", "application/xml")))
_refused("file", "404", "404", _always(Reply(404, b"<Error/>", "application/xml")))
_refused("file", "redirect", "302 to another path here", _redirect("hop"))
_refused("file", "redirect-away", "302 to the lure", _redirect("away"))
_refused("file", "redirect-loop", "302 to itself, for ever", _redirect("loop"))
_done("file", "truncated", "closes half-way", _cut)
_done("file", "hang", "stands still half-way", _stall)
_done("file", "empty", "no bytes at all", _changed(body=b""))
_done("file", "wrong-type", "text under a picture's name", _changed(body=b"not a picture\n"))
_done("file", "oversized", "far too long", _swollen(chunked=False))
_done("file", "oversized-chunked", "far too long, without Content-Length", _swollen(chunked=True))
_done("chat", "prose", "ignores the response format", _spoilt(content="Sure! Here you are."))
_done("chat", "empty", "says nothing", _spoilt(content=""))
_done("chat", "null", "its content is null", _spoilt(content=None))
_done("chat", "refusal", "refuses", _spoilt(content=None, refusal="I can not help with that."))
_done("chat", "tool-call", "calls a tool", _spoilt("tool_calls", content=None, tool_calls=[_TOOL]))
_done("chat", "filtered", "stopped by a filter", _spoilt("content_filter", content=""))
_done("chat", "length", "too long: half", _rewritten(lambda t: t[: len(t) // 2], "length"))
_done("chat", "fenced", "JSON in a fence", _rewritten(lambda t: f"Sure!\n```json\n{t}\n```\n"))
_done("chat", "duplicates", "lists the first item only", _listed(lambda v: v[:1] * len(v)))
_done("chat", "blanks", "every other item is blank", _listed(lambda v: [v[0], " "] * (len(v) // 2)))
_done("chat", "too-few", "lists half the items", _listed(lambda v: v[: len(v) // 2]))
_done("chat", "too-many", "lists more items", _listed(lambda v: [*v, "one more", "and another"]))
_done("chat", "too-long", "its items are essays", _listed(lambda v: [f"{x} " * 500 for x in v]))
for _short, _fate in FATES.items():
    _done("prediction", _short, _fate.text, lambda reply, _: reply)

OPERATIONS = tuple(dict.fromkeys(fault.operation for fault in FAULTS.values()))
