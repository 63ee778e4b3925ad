"""Where a process is killed: moments that can be told from outside, by what it sends and gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.proxy import Message

Side = Literal["service", "prefect"]
#: When in an exchange: the request has come and is not forwarded; the response has come and is
#: not passed on; half of its body is; all of it is; what it brought is seen as a file.
Moment = Literal["request", "response", "half", "passed", "file"]


@dataclass(frozen=True)
class Places:
    """What the boundaries look at besides the messages."""

    storage: Path
    ledger: Path

    def files(self) -> list[Path]:
        """The files that anybody who looks into the storage sees."""
        return [path for path in self.storage.rglob("[!.]*") if path.is_file()]

    def records(self) -> dict[str, Any]:
        """The records that are kept in the storage block, by key; None where one is torn."""
        found: dict[str, Any] = {}
        for path in self.ledger.rglob("[!.]*.json"):
            try:
                found[path.stem] = json.loads(path.read_bytes())
            except ValueError:
                found[path.stem] = None
        return found


@dataclass(frozen=True)
class Boundary:
    """One place to kill at.

    Attributes:
        name: As the table has it.
        side: Whose traffic shows it.
        moment: When in the exchange.
        is_it: Whether it is such an exchange, for the nth prediction.
        counts: Each prediction brings one such exchange, and the nth is meant; otherwise `is_it`
            knows by itself.
    """

    name: str
    side: Side
    moment: Moment
    is_it: Callable[[Message, Places, int], bool]
    counts: bool = True


def record_of(message: Message) -> dict[str, Any]:
    """The record in a request to Prefect's Variables; empty where there is none."""
    value = message.json if message.path.startswith("/api/variables/") else None
    found = value.get("value") if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def is_create(message: Message) -> bool:
    """Whether a request to the service creates a prediction."""
    return message.method == "POST" and "/models/" in message.path


def _claim(message: Message, *_: object) -> bool:
    return message.method == "POST" and message.path == "/api/variables/"


def _create(message: Message, *_: object) -> bool:
    return is_create(message)


def _poll(message: Message, *_: object) -> bool:
    return message.method == "GET" and "/predictions/" in message.path


def _download(message: Message, *_: object) -> bool:
    return message.method == "GET" and message.path.startswith("/files/")


def _id(message: Message, *_: object) -> bool:
    record = record_of(message)
    return message.method == "PATCH" and bool(record.get("prediction_id")) and not _ended(record)


def _result(message: Message, *_: object) -> bool:
    return message.method == "PATCH" and _ended(record_of(message))


def _ended(record: dict[str, Any] | None) -> bool:
    return bool(record and record.get("outcome"))


def _unclaim(message: Message, *_: object) -> bool:
    return message.method == "DELETE" and message.path.startswith("/api/variables/")


def _unclaim_with_result(message: Message, places: Places, nth: int) -> bool:
    return _unclaim(message) and sum(map(_ended, places.records().values())) >= nth


_FIRST = (
    Boundary("before intent", "prefect", "request", _claim),
    Boundary("after intent", "prefect", "response", _claim),
    Boundary("POST sent", "service", "request", _create),
    Boundary("accepted but unread", "service", "response", _create),
)
_ON_THE_WAY = (
    Boundary("mid-poll", "service", "request", _poll),
    Boundary("mid-download", "service", "half", _download),
)
_FILE, _RESULT = "file in place but result unstored", "result stored, run not done"
#: With records on Prefect's server.
ON_SERVER = (
    *_FIRST,
    Boundary("id read", "prefect", "request", _id),
    Boundary("id stored", "prefect", "response", _id),
    *_ON_THE_WAY,
    Boundary(_FILE, "prefect", "request", _result),
    Boundary(_RESULT, "prefect", "response", _result),
)
#: With records on a storage block, which no proxy sees: what the claims on the server show of it.
ON_BLOCK = (
    *_FIRST,
    Boundary("id read", "service", "passed", _create),
    Boundary("id stored", "prefect", "request", _unclaim),
    *_ON_THE_WAY,
    Boundary(_FILE, "service", "file", _download),
    Boundary(_RESULT, "prefect", "request", _unclaim_with_result, counts=False),
)
AT_RANDOM = "at a random time"
NAMES = (*(boundary.name for boundary in ON_SERVER), AT_RANDOM)
