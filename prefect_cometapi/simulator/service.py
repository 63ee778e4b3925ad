"""The service itself: requests in, replies out."""

import asyncio
import json
import random
import re
import string
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from prefect_cometapi.simulator import chat, outputs, predictions
from prefect_cometapi.simulator.catalogue import CATALOGUE, invalid_fields
from prefect_cometapi.simulator.faults import FAULTS, Context, Fault
from prefect_cometapi.simulator.pictures import draw
from prefect_cometapi.simulator.plan import FaultPlan
from prefect_cometapi.simulator.predictions import FATES, Fate, Prediction, State
from prefect_cometapi.simulator.records import RecordedRequest, Recorder
from prefect_cometapi.simulator.replies import (
    Receive,
    Reply,
    Scope,
    Send,
    deliver,
    gateway_error,
    html_reply,
    json_reply,
    problem,
    task_not_exist,
)

Shape = Literal["plain", "enveloped", "mixed"]

#: How many predictions are kept: a simulator may run for weeks.
MOST_PREDICTIONS = 100_000
_PREDICTION = r"/replicate/v1/predictions/([\w-]+)"
_ROUTES = tuple(
    (operation, method, re.compile(path))
    for operation, method, path in (
        ("query", "GET", _PREDICTION),
        ("create", "POST", r"/replicate/v1/models/([^/]+/[^/]+)/predictions"),
        ("file", "GET", r"/files/.+"),
        ("cancel", "POST", rf"{_PREDICTION}/cancel"),
        ("chat", "POST", r"/v1/chat/completions"),
        ("models", "GET", r"/v1/models"),
        ("counts", "GET", r"/"),
    )
)
_NEEDS_NO_KEY = ("file", "counts")
_CHAT_MODELS = ("gpt-5-mini", "claude-haiku-4-5", "deepseek-v3.2")
_MEDIA_TYPES = {"webp": "image/webp", "jpg": "image/jpeg", "png": "image/png"}
_GONE = Reply(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")


@dataclass(frozen=True, slots=True)
class Settings:
    """What `run` was called with."""

    api_key: str | None = None
    seed: int = 0
    shape: Shape = "plain"
    run_time: float | None = None
    speed: float = 1.0
    output_ttl: float = 3600.0
    retry_after: float = 1.0
    oversize: int = 64 * 1024 * 1024
    public_url: str | None = None
    lure_url: str | None = None
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    json: Any
    id: str


class Service:
    """The ASGI application, all of it on one event loop but the drawing."""

    def __init__(self, settings: Settings, plan: FaultPlan, recorder: Recorder) -> None:
        self.settings = settings
        self.plan = plan
        self.recorder = recorder
        self.predictions: dict[str, Prediction] = {}
        self.artists = ThreadPoolExecutor(2, "simulator-pictures")
        self._made = 0
        self._handlers: dict[str, Callable[..., Reply | Awaitable[Reply]]] = {
            "query": self._query,
            "create": self._create,
            "file": self._file,
            "cancel": self._cancel,
            "chat": self._chat,
            "models": self._models,
            "counts": self._counts,
        }

    def state(self, prediction: Prediction) -> State:
        """The state of a prediction now."""
        settings = self.settings
        return prediction.at(settings.clock(), settings.output_ttl / settings.speed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        came, request_id = time.monotonic(), _request_id(self.settings.clock())
        method, path = scope["method"], scope["path"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        query = scope["query_string"].decode("latin-1")
        request = Request(method, path, query, headers, _parsed(bytes(body)), request_id)
        operation, reply, fault = await self._answer(request)
        self.recorder.request(
            RecordedRequest(
                operation, method, path, headers, request.json, reply.status, fault, came
            )
        )
        await deliver(reply, request_id, scope, receive, send)

    async def _answer(self, request: Request) -> tuple[str, Reply, str | None]:
        """The operation, the reply, and the name of the fault that spoilt it."""
        operation, words = _route(request.method, request.path)
        if operation == "lost":
            return operation, html_reply(), None
        settings = self.settings
        given = request.headers.get("authorization", "").removeprefix("Bearer").strip()
        right = given == settings.api_key if settings.api_key else bool(given)
        if operation not in _NEEDS_NO_KEY and not right:
            reply = gateway_error(401, "", "invalid token", request.id)
            return operation, reply, None
        if (operation, request.query) == ("file", "loop"):
            fault: Fault | None = FAULTS["file.redirect-loop"]
        elif (operation, request.query) == ("file", "hop"):
            fault = None  # the target of a redirect behaves
        else:
            fault = self.plan.choose(operation)
        reply = Reply()
        if fault is None or fault.accepted:
            answer = self._handlers[operation](request, *words)
            reply = answer if isinstance(answer, Reply) else await answer
        if fault is None or reply.status >= 400:
            return operation, reply, None
        context = Context(
            request_id=request.id,
            path=request.path,
            now=settings.clock(),
            retry_after=settings.retry_after,
            lure_url=settings.lure_url,
            oversize=settings.oversize,
        )
        return operation, fault.spoil(reply, context), fault.name

    def _create(self, request: Request, name: str) -> Reply:
        if (model := CATALOGUE.get(name)) is None:
            text = f"no available channel for group default and model {name} (distributor)"
            return gateway_error(503, "model_not_found", text, request.id)
        given: Any = request.json.get("input") if isinstance(request.json, dict) else None
        if wrong := invalid_fields(model, given):
            detail = "".join(f"- {field['field']}: {field['description']}\n" for field in wrong)
            return problem(422, "Input validation failed", detail, invalid_fields=wrong)
        settings, self._made = self.settings, self._made + 1
        number, fault = self._made, self.plan.choose("prediction")
        median = model.median if settings.run_time is None else settings.run_time
        queue, run = predictions.draw_times(settings.seed, number, median / settings.speed)
        prediction = Prediction(
            id=predictions.prediction_id(settings.seed, number),
            number=number,
            model=model,
            input=given,
            created=settings.clock(),
            queue=queue,
            run=run,
            enveloped=settings.shape == "enveloped"
            or (settings.shape == "mixed" and number % 2 == 0),
            fate=FATES[fault.short] if fault else Fate(),
        )
        if len(self.predictions) >= MOST_PREDICTIONS:
            del self.predictions[next(iter(self.predictions))]
        self.predictions[prediction.id] = prediction
        self.recorder.count("accepted")
        if prediction.fate.status != "aborted":
            self.recorder.count("charged")
        return self._shown(prediction, request, 201)

    def _query(self, request: Request, key: str) -> Reply:
        prediction = self.predictions.get(key)
        return self._shown(prediction, request) if prediction else task_not_exist(400)

    def _cancel(self, request: Request, key: str) -> Reply:
        if (prediction := self.predictions.get(key)) is None:
            return task_not_exist(404)
        if self.state(prediction).completed is None:
            prediction.canceled = self.settings.clock()
        return self._shown(prediction, request)

    def _shown(self, prediction: Prediction, request: Request, status: int = 200) -> Reply:
        state, settings = self.state(prediction), self.settings
        output = None
        if state.status == "succeeded" and not state.removed:
            root = settings.public_url or f"http://{request.headers.get('host', '127.0.0.1')}"
            output = outputs.output(prediction, root)
        host = settings.lure_url or "https://api.replicate.com"
        value = predictions.plain(prediction, state, output, host)
        if prediction.enveloped and status == 201 and prediction.number % 4 < 2:
            # Creates have been seen to come back with less of an envelope.
            value = {"code": "success", "message": "", "data": value}
        elif prediction.enveloped:
            value = predictions.envelope(prediction, state, value)
        return json_reply(value, status)

    async def _file(self, request: Request) -> Reply:
        if (found := self._found(request.path)) is None:
            return _GONE
        prediction, index = found
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self.artists, self._drawn, prediction, index)
        return Reply(200, body, _MEDIA_TYPES[request.path.rpartition(".")[2]])

    def _found(self, uri: str) -> tuple[Prediction, int] | None:
        """The prediction and the number that an output file has, while it is there."""
        key, index = outputs.file_of(uri)
        prediction = self.predictions.get(key)
        if prediction is None or index >= prediction.model.files(prediction.input):
            return None
        state = self.state(prediction)
        right = uri.endswith(f"/{outputs.file_name(prediction, index)}")
        return (
            (prediction, index)
            if right and state.status == "succeeded" and not state.removed
            else None
        )

    def _drawn(self, prediction: Prediction, index: int) -> bytes:
        """The bytes of an output file, built on the input picture if that can be had here."""
        uri = outputs.source_uri(prediction)
        source = outputs.data_of(uri)
        if source is None and (found := self._found(uri)):
            source = self._drawn(*found)
        return draw(outputs.picture(prediction, index, source))

    def _chat(self, request: Request) -> Reply:
        body = request.json
        if not isinstance(body, dict) or not body.get("messages"):
            return gateway_error(500, "invalid_request", "field messages is required", request.id)
        if body.get("stream"):
            return json_reply({"error": "the simulator does not stream"}, 400)
        return json_reply(chat.complete(body, self.settings.seed, self.settings.clock()))

    def _models(self, _: Request) -> Reply:
        names = (*_CHAT_MODELS, *CATALOGUE)
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names
        ]
        return json_reply({"object": "list", "data": data})

    def _counts(self, _: Request) -> Reply:
        about = "A simulator of CometAPI: nothing here costs money."
        return json_reply({"about": about, **asdict(self.recorder.counts())})


def _route(method: str, path: str) -> tuple[str, tuple[str, ...]]:
    """The operation of a request, and the words in its path."""
    method = "GET" if method == "HEAD" else method
    for operation, its_method, its_path in _ROUTES:
        if its_method == method and (found := its_path.fullmatch(path)):
            return operation, found.groups()
    return "lost", ()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def _request_id(now: float) -> str:
    date = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d%H%M%S%f")
    return date + "".join(random.choices(string.ascii_letters, k=8))  # noqa: S311
