"""What the simulator remembers of the requests it got."""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: How many requests are kept: a simulator may run for weeks.
MOST_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request that came in.

    Attributes:
        operation: "create", "query", "cancel", "file", "chat", "models", "counts", or "lost"
            for a path that leads nowhere.
        method: The HTTP method.
        path: The path, without the query string.
        headers: Its headers, their names in lower case.
        json: Its JSON body, if it has one.
        status: The status it was answered with, 0 for no answer.
        fault: The name of the fault it met.
        time: When it had come in, by `time.monotonic()`.
    """

    operation: str
    method: str
    path: str
    headers: Mapping[str, str]
    json: Any
    status: int
    fault: str | None
    time: float


@dataclass(frozen=True, slots=True)
class SeenPrediction:
    """A prediction at the moment of asking."""

    id: str
    model: str
    input: Mapping[str, Any]
    status: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What has happened so far.

    Attributes:
        creates: POSTs that asked for a prediction, whatever came of them.
        accepted: Predictions made.
        charged: Predictions that cost money: all but the aborted ones.
        polls: Queries.
        cancels: Requests to cancel.
        downloads: Requests for files.
        chats: Chat completions asked for.
        connections: TCP connections opened.
        by_status: Requests by the status they were answered with, 0 for no answer.
    """

    creates: int = 0
    accepted: int = 0
    charged: int = 0
    polls: int = 0
    cancels: int = 0
    downloads: int = 0
    chats: int = 0
    connections: int = 0
    by_status: Mapping[int, int] = field(default_factory=dict)


class Recorder:
    """Written to by the event loop, read by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[RecordedRequest] = deque(maxlen=MOST_REQUESTS)
        self._happened: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()

    def request(self, request: RecordedRequest) -> None:
        """Remember a request."""
        with self._lock:
            self._requests.append(request)
            self._happened[request.operation] += 1
            self._statuses[request.status] += 1

    def count(self, event: str) -> None:
        """Count something that is no request: "accepted", "charged" or "connection"."""
        with self._lock:
            self._happened[event] += 1

    def requests(self) -> list[RecordedRequest]:
        """The last requests, oldest first."""
        with self._lock:
            return list(self._requests)

    def counts(self) -> Counts:
        """A snapshot of the counts."""
        with self._lock:
            happened, statuses = self._happened.copy(), dict(self._statuses)
        return Counts(
            creates=happened["create"],
            accepted=happened["accepted"],
            charged=happened["charged"],
            polls=happened["query"],
            cancels=happened["cancel"],
            downloads=happened["file"],
            chats=happened["chat"],
            connections=happened["connection"],
            by_status=statuses,
        )
