"""One prediction: its fate is drawn when it is made, its state is computed when it is read."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prefect_cometapi.simulator.catalogue import Model

_ID_LETTERS = "abcdefghjkmnpqrstvwxyz0123456789"
#: The envelope's word for a status; one that is waiting has three.
ENVELOPE_STATUS = {
    "processing": "IN_PROGRESS",
    "succeeded": "SUCCESS",
    "failed": "FAILURE",
    "aborted": "FAILURE",
    "canceled": "CANCELLED",
}


@dataclass(frozen=True, slots=True)
class Fate:
    """How a prediction ends."""

    text: str = "succeeds"
    status: str = "succeeded"
    error: str | None = None
    run_factor: float = 1.0
    removed: bool = False


FATES: Mapping[str, Fate] = {
    "failed": Fate("ends as failed, with an error", "failed", "CUDA out of memory"),
    "refused": Fate("is refused by the content filter", "failed", "NSFW content detected"),
    "failed-silently": Fate("ends as failed, its error is null", "failed"),
    "aborted": Fate("is ended before it runs, and not charged for", "aborted"),
    "canceled": Fate("is canceled by the service half-way", "canceled", run_factor=0.5),
    "endless": Fate("never finishes", run_factor=math.inf),
    "removed": Fate("succeeds, with its output removed already", removed=True),
    "slow": Fate("runs 20 times as long", run_factor=20.0),
}


@dataclass(frozen=True, slots=True)
class State:
    """A prediction at one moment."""

    status: str
    started: float | None = None
    completed: float | None = None
    progress: float = 0.0
    removed: bool = False


@dataclass(slots=True)
class Prediction:
    """What was asked for, and the times that were drawn for it."""

    id: str
    number: int
    model: Model
    input: dict[str, Any]
    created: float
    queue: float
    run: float
    enveloped: bool = False
    fate: Fate = field(default_factory=Fate)
    canceled: float | None = None

    def at(self, now: float, ttl: float) -> State:
        """The state at a time.

        Args:
            now: The time asked for.
            ttl: How many seconds after completion the data are deleted.
        """
        starts = self.created + self.queue
        status, ends = self.fate.status, starts + self.run * self.fate.run_factor
        if status == "aborted":
            ends = starts
        if self.canceled is not None and self.canceled < ends:
            status, ends = "canceled", self.canceled
        started = starts if starts <= min(now, ends) and status != "aborted" else None
        if now < ends:
            if started is None:
                return State("starting", progress=(now - self.created) / self.queue)
            return State("processing", started, progress=(now - starts) / (ends - starts))
        removed = self.fate.removed or now >= ends + ttl
        return State(status, started, ends, 1.0, removed)


def draw_times(seed: int, number: int, median: float) -> tuple[float, float]:
    """Queue time and run time of the nth prediction, log-normal around the median."""
    median = max(median, 1e-6)
    source = random.Random(f"times {seed} {number}")  # noqa: S311
    queue = source.lognormvariate(math.log(median * 0.2), 0.6)
    return queue, source.lognormvariate(math.log(median), 0.35)


def prediction_id(seed: int, number: int) -> str:
    """The id of the nth prediction: 26 lower-case letters and digits."""
    source = random.Random(f"id {seed} {number}")  # noqa: S311
    return "".join(source.choices(_ID_LETTERS, k=26))


def logs(prediction: Prediction, state: State) -> str:
    """A sampler's progress bar, one line a step done so far."""
    if state.removed or state.started is None:
        return ""
    steps = int(prediction.input.get("num_inference_steps") or 4)
    lines = [f"Using seed: {prediction.input.get('seed', prediction.number)}"]
    for step in range(int(state.progress * steps) + 1):
        bar = "█" * (step * 10 // steps)
        lines.append(f"{100 * step // steps:3d}%|{bar:<10}| {step}/{steps}")
    return "\n".join(lines) + "\n"


def _stamp(moment: float) -> str:
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def plain(prediction: Prediction, state: State, output: Any, host: str) -> dict[str, Any]:
    """The prediction as Replicate words it.

    Args:
        prediction: The prediction.
        state: Its state now.
        output: Its output; shown only while there is one to see.
        host: Root of the API that `urls` name.
    """
    done = state.status == "succeeded" and not state.removed
    api, key = f"{host}/v1/predictions/{prediction.id}", prediction.id
    value: dict[str, Any] = {
        "id": key,
        "model": prediction.model.name,
        "version": "hidden",
        "input": {} if state.removed else prediction.input,
        "logs": logs(prediction, state),
        "output": output if done else None,
        "data_removed": state.removed,
        "error": prediction.fate.error if state.status == "failed" else None,
        "source": "api",
        "status": state.status,
        "created_at": _stamp(prediction.created),
    }
    if state.started is not None:
        value["started_at"] = _stamp(state.started)
    if state.completed is not None:
        value["completed_at"] = _stamp(state.completed)
        if state.started is not None:
            value["metrics"] = {"predict_time": round(state.completed - state.started, 6)}
            if state.status == "succeeded" and (images := prediction.model.files(prediction.input)):
                value["metrics"]["image_count"] = images
    value["urls"] = {
        "cancel": f"{api}/cancel",
        "get": api,
        "stream": f"https://stream.replicate.com/v1/files/{key}",
        "web": f"https://replicate.com/p/{key}",
    }
    return value


def envelope(prediction: Prediction, state: State, inner: dict[str, Any]) -> dict[str, Any]:
    """The same inside the gateway's task envelope."""
    waiting = ("NOT_START", "SUBMITTED", "QUEUED")[min(int(state.progress * 3), 2)]
    data = {
        "task_id": prediction.id,
        "platform": "replicate",
        "action": "",
        "status": ENVELOPE_STATUS.get(state.status, waiting),
        "fail_reason": inner["error"] or "",
        "submit_time": int(prediction.created),
        "start_time": int(state.started or 0),
        "finish_time": int(state.completed or 0),
        "progress": f"{int(state.progress * 100)}%",
        "data": inner,
    }
    return {"code": "success", "message": "", "data": data}
