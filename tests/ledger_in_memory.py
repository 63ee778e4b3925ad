"""The outside of the ledger in memory, one step at a time: Prefect's client, a storage, the API.

Fakes are right here because only they can stop a process between any two of its steps; everywhere
else the tests use real servers.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from prefect_cometapi import ledger, records, settlement, submission
from prefect_cometapi.decisions import adoption, entry_of, objection
from prefect_cometapi.errors import InvalidInput, NeverDelivered, StorageError, UnknownOutcome
from prefect_cometapi.ledger import Outcome, read_record, record_key
from prefect_cometapi.models import Prediction, PredictionStatus
from prefect_cometapi.observer import Observer
from prefect_cometapi.orders import Order
from prefect_cometapi.records import RecordStore, ServerRecords, StoredRecords
from prefect_cometapi.stores import Store
from prefect_cometapi.submission import submit

ROOT, MODEL, SCOPE = "https://api.example", "owner/name", "nightly"
SETTINGS = SimpleNamespace(ledger="", create_timeout=60.0, prices={}, prompts=True)
PATIENCE = submission.patience(SETTINGS)  # type: ignore[arg-type]
REQUESTS = ("a boat", "a kite")


class Step:
    """One question to something outside of the process, which waits there until it is answered."""

    def __init__(
        self,
        what: str,
        do: Callable[[], Any],
        trouble: Callable[[], Exception] = lambda: ConnectionError("out of reach"),
        tear: Callable[[], None] = lambda: None,
    ) -> None:
        self.what, self.do, self.trouble, self.tear = what, do, trouble, tear

    def __await__(self) -> Generator[Step, Any, Any]:
        return (yield self)


@dataclass
class Post:
    """A create that was sent."""

    key: str
    accepted: str | None
    #: The sender knows that it was not accepted.
    refused: bool = False


@dataclass
class Process:
    """A process of its own, up to its next step."""

    name: str
    work: Coroutine[Any, Any, Any]
    request: str = ""
    resubmits: bool = False
    step: Step | None = None
    claims: str = ""
    posts: list[Post] = field(default_factory=list)
    #: How the records looked to it, when it last read or wrote them.
    seen: dict[str, Any] = field(default_factory=dict)
    done_with: int = 0
    #: How many of its posts belong to a create that has ended.
    settled: int = 0
    #: How far its machine's clock is ahead.
    skew: timedelta = timedelta(0)
    log: list[str] = field(default_factory=list)
    result: Any = None
    error: BaseException | None = None


class World:
    """Everything that outlives a process."""

    def __init__(self, stored: bool) -> None:
        self.now = datetime(2026, 3, 12, tzinfo=UTC)
        self.variables: dict[str, tuple[Any, list[str]]] = {}
        self.ids: dict[str, UUID] = {}
        self.files: dict[str, bytes] = {}
        self.posts: dict[str, list[Post]] = {request: [] for request in REQUESTS}
        #: The keys whose prediction somebody has allowed to be made once more.
        self.allowed: dict[str, set[str]] = {request: set() for request in REQUESTS}
        self.request_of = {
            self.key(request, attempt): request for request in REQUESTS for attempt in range(1, 30)
        }
        self.running: list[Process] = []
        self.ended: list[Process] = []
        self.current = Process("nobody", NOTHING)
        self.accepted = 0
        self.stored = stored
        self.ledger: RecordStore = self._stored() if stored else ServerRecords()

    def _stored(self) -> StoredRecords:
        home = StoredRecords("block://memory/none")
        home._opened = MemoryStore(self)
        return home

    def key(self, request: str, attempt: int) -> str:
        return record_key(SCOPE, ROOT, MODEL, {"prompt": request}, 0, attempt=attempt)

    def record_at(self, key: str) -> Any:
        """The value that counts: absent, unreadable (None), or a record."""
        for name, content in self.files.items():
            if name.endswith(f"/{key}.json"):
                with suppress(ValueError):
                    return read_record(json.loads(content))
                return None
        return read_record(self.variables[key][0]) if key in self.variables else ABSENT

    def changed(self, key: str) -> None:
        record = self.record_at(key)
        if record and record.outcome is Outcome.RESUBMITTED:
            self.allowed[self.request_of[key]].add(key)

    def look(self, key: str) -> None:
        self.current.seen[key] = self.record_at(key)


ABSENT = object()


async def nothing() -> None: ...


NOTHING = nothing()
NOTHING.close()


class PrefectClient:
    """As much of Prefect's client as the ledger uses, on a server in memory."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def read_variable_by_name(self, name: str) -> Any:
        def do() -> Any:
            self.world.look(name)
            value, tags = self.world.variables.get(name, (None, None))
            found = SimpleNamespace(value=value, tags=tags, id=self.world.ids.get(name))
            return None if tags is None else found

        return await Step(f"read Variable {name}", do)

    async def create_variable(self, variable: VariableCreate) -> Any:
        process = self.world.current

        def do() -> Any:
            if variable.name in self.world.variables:
                raise ObjectAlreadyExists(Exception())
            process.claims = variable.name
            self.world.variables[variable.name] = (variable.value, variable.tags or [])
            self.world.ids[variable.name] = uuid4()
            self.world.changed(variable.name)
            self.world.look(variable.name)
            return SimpleNamespace(id=self.world.ids[variable.name])

        return await Step(f"create Variable {variable.name}", do)

    async def update_variable(self, variable: VariableUpdate) -> None:
        def do() -> None:
            name = str(variable.name)
            if name not in self.world.variables:
                raise _not_there("PATCH")
            self.world.variables[name] = (variable.value, variable.tags or [])
            self.world.changed(name)
            self.world.look(name)

        await Step(f"update Variable {variable.name}", do)

    async def delete_variable_by_name(self, name: str) -> None:
        def do() -> None:
            if self.world.variables.pop(name, None) is None:
                raise ObjectNotFound(Exception())

        await Step(f"delete Variable {name}", do)

    async def request(self, method: str, path: str, json: Any = None) -> Any:
        if method == "DELETE":
            return await self._delete(path.rpartition("/")[2])
        wanted = set(json["variables"]["tags"]["all_"])
        rows = [
            {"id": str(uuid4()), "name": name, "value": value, "tags": tags}
            for name, (value, tags) in self.world.variables.items()
            if wanted <= set(tags)
        ]
        return await Step(f"{method} {path}", lambda: SimpleNamespace(json=lambda: rows))

    async def _delete(self, claim: str) -> None:
        def do() -> None:
            for name, found in self.world.ids.items():
                if str(found) == claim and name in self.world.variables:
                    del self.world.variables[name]
                    return
            raise _not_there("DELETE")

        await Step("delete Variable by its id", do)


def _not_there(method: str) -> httpx.HTTPStatusError:
    request = httpx.Request(method, "http://prefect.example")
    response = httpx.Response(404, request=request)
    return httpx.HTTPStatusError("404", request=request, response=response)


class MemoryStore(Store):
    """A storage that writes in place, so that a crash can leave half a file."""

    identity = "memory"

    def __init__(self, world: World) -> None:
        self.world = world

    async def check(self, prefix: str = "") -> None: ...

    async def put(self, file: Path, name: str) -> str:
        raise NotImplementedError

    async def read(self, name: str, most: int | None = None) -> bytes | None:
        def do() -> bytes | None:
            self.world.look(_key_of(name))
            return self.world.files.get(name)

        content: bytes | None = await Step(f"read {name}", do, _storage_trouble)
        return content

    async def write(self, name: str, content: bytes) -> str:
        def do() -> str:
            self.world.files[name] = content
            self.world.changed(_key_of(name))
            self.world.look(_key_of(name))
            return name

        def tear() -> None:
            self.world.files[name] = content[: len(content) // 2]

        return str(await Step(f"write {name}", do, _storage_trouble, tear))

    async def read_all(self, folder: str) -> dict[str, bytes]:
        files: dict[str, bytes] = await Step(
            f"list {folder}", lambda: dict(self.world.files), _storage_trouble
        )
        return files


def _key_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")


def _storage_trouble() -> Exception:
    return StorageError("the bucket is out of reach")


class Client:
    """As much of `CometAPIClient` as a submission uses."""

    api_root, settings = ROOT, SETTINGS

    def __init__(self, world: World) -> None:
        self.world = world

    def telling(self, _: object) -> Client:
        return self

    async def submit(self, model: str, input: dict[str, str], around: Any) -> Prediction:
        request, process = input["prompt"], self.world.current

        async def post() -> Prediction:
            sent = Post(process.claims, None)

            def do() -> Prediction:
                self.world.accepted += 1
                sent.accepted = f"p{self.world.accepted}"
                note()
                return Prediction(
                    id=sent.accepted, model=model, status=PredictionStatus.STARTING, api_root=ROOT
                )

            def note() -> None:
                process.posts.append(sent)
                self.world.posts[request].append(sent)

            def trouble() -> Exception:
                if sent not in process.posts:
                    note()
                return UnknownOutcome("no usable reply came")

            answer = await Step("POST", do, trouble)
            if isinstance(answer, Exception):
                sent.refused = True
                raise answer
            made: Prediction = answer
            return made

        for left in (1, 0):  # as the real one: again where nothing was delivered
            try:
                made: Prediction = await around(post)
                return made
            except NeverDelivered:
                if not left:
                    raise
        raise AssertionError

    async def query(self, prediction_id: str, *, model: str, input: object) -> Prediction:
        seen = Prediction(
            id=prediction_id, model=model, status=PredictionStatus.PROCESSING, api_root=ROOT
        )
        found: Prediction = await Step("GET", lambda: seen, lambda: UnknownOutcome("no reply"))
        return found


class Diary(Observer):
    """What a run's log says."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def created(self, prediction: Prediction) -> None:
        self.log.append(f"created {prediction.id}")

    def trouble(self, message: str) -> None:
        self.log.append(message)


# --- what processes do ------------------------------------------------------------------------


async def made(world: World, process: Process, order: Order, ending: str) -> Prediction:
    """What a run does: create it, write down how it ended, perhaps try again on purpose."""
    client, diary = Client(world), Diary(process.log)
    create: Any = submit.__wrapped__  # type: ignore[attr-defined]
    prediction: Prediction = await create(client, order, observer=diary)
    if ending == "nothing":
        return prediction
    outcome = Outcome.SAVED if ending == "saved" else Outcome.FAILED
    await settlement.settle(world.ledger, prediction, outcome, diary)
    if ending == "failed, tried again":
        process.done_with, process.settled = prediction.attempt, len(process.posts)
        world.allowed[process.request].add(str(prediction.record_key))
        prediction = await create(client, order, after=prediction.attempt, observer=diary)
    return prediction


async def decided(world: World, key: str, request: str, decision: str) -> None:
    """What `operations` does, which runs on a loop of its own."""
    exists, record = await world.ledger.read(SCOPE, key)
    if not exists:
        return
    entry = entry_of(key, record, SCOPE, world.now, PATIENCE)
    known = record or ledger.Record(scope=SCOPE, model="", api_root=ROOT, sent_at=world.now)
    found = [post.accepted for post in world.posts[request] if post.key == key and post.accepted]
    if decision == "adopt" and found:
        with suppress(InvalidInput):
            adopted = adoption(known, entry.standing, found[0], PATIENCE)
            await world.ledger.store(key, adopted)
    elif decision != "adopt" and not objection(Outcome(decision), entry, PATIENCE):
        await world.ledger.store(key, known.ended(Outcome(decision)))


@contextmanager
def patched(world: World) -> Iterator[None]:
    """The outside of the ledger, its clock, and no watching of signals."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return world.now + world.current.skew

    async def ask(question: Callable[[Any], Awaitable[Any]], *, urgent: bool = False) -> Any:
        return await question(PrefectClient(world))

    async def open_storage(_: str) -> Store:
        return MemoryStore(world)

    async def sleep(seconds: float) -> None:
        due = world.now + timedelta(seconds=seconds)

        def wake() -> None:
            world.now = max(world.now, due)

        await Step("sleep", wake)

    async def guarded(work: Callable[[], Awaitable[Any]], *_: object) -> Any:
        return await work()

    with pytest.MonkeyPatch.context() as patch:
        for module in (submission, ledger):
            patch.setattr(module, "datetime", Clock)
        patch.setattr(submission, "open_ledger", lambda _: world.ledger)
        patch.setattr(records, "ask", ask)
        patch.setattr(records, "open_storage", open_storage)
        in_steps = SimpleNamespace(sleep=sleep, timeout=lambda _: nullcontext(), Lock=nullcontext)
        patch.setattr(records, "asyncio", in_steps)
        patch.setattr(submission, "asyncio", in_steps)
        patch.setattr(submission, "time", SimpleNamespace(monotonic=lambda: world.now.timestamp()))
        patch.setattr(submission, "stops", SimpleNamespace(guarded=guarded))
        yield
