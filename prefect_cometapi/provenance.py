"""Where a saved file came from, as plain data to be kept beside it. Pure.

Only what is known is told: what is not is null. What nobody may see is left out (`redaction`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_cometapi.ledger import Record, excerpt_of
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.redaction import without_secrets
from prefect_cometapi.urls import redact

#: Counts up when a field changes its meaning; fields may be added without that.
FORMAT = 1
#: What the name of a file's provenance has behind the file's own. No output gets such a name.
SUFFIX = ".provenance.json"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SavedBy(_Data):
    """The run that saved a file, by Prefect's ids."""

    flow_run_id: str | None = Field(default=None, description="Its flow run.")
    task_run_id: str | None = Field(default=None, description="Its task run, where it was one.")
    deployment_id: str | None = Field(
        default=None, description="Its deployment, where the flow run is of one."
    )


class ProvenanceFile(_Data):
    """The file that is told of."""

    name: str = Field(description="Its name below the storage's root.")
    output: str = Field(description="Which output it is, such as `output[0]` or `output.mask`.")
    media_type: str = Field(description="What its first bytes say it is, such as `image/webp`.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Hash of its bytes, in hexadecimal.")


SeedFrom = Literal["input", "output", "logs"]


class Provenance(_Data):
    """Where a saved file came from. Null is what was not known when this was written."""

    format: int = Field(default=FORMAT, description="The version of this format.")
    file: ProvenanceFile = Field(description="The file that is told of.")
    prediction_id: str = Field(description="The service's id of the prediction.")
    api_root: str = Field(description="The API that it was created on; ids mean nothing elsewhere.")
    model: str = Field(description="The model, as `owner/name`.")
    version: str | None = Field(
        default=None, description="Its version, where the service named it."
    )
    prompt: str | None = Field(default=None, description="The prompt, where the input has one.")
    prompt_excerpt: str | None = Field(
        default=None, description="The beginning of it, where only the record is left to tell."
    )
    input: dict[str, Any] | None = Field(
        default=None,
        description="The model's input: URLs without queries, `data:` URIs as type, size and hash, "
        "secrets masked.",
    )
    seed: int | None = Field(default=None, description="The seed that decided the output.")
    seed_from: SeedFrom | None = Field(default=None, description="Who says so.")
    origin: dict[str, Any] = Field(
        default_factory=dict, description="Where the input came from; see `PredictionRequest`."
    )
    scope: str | None = Field(default=None, description="The scope of its record.")
    key: str | None = Field(default=None, description="The caller's own name for the request.")
    sample: int | None = Field(default=None, description="Tells equal requests of a scope apart.")
    attempt: int = Field(default=1, description="Which attempt at the same request it was.")
    record_key: str | None = Field(default=None, description="Its record in the ledger.")
    created_by_flow_runs: list[str] | None = Field(
        default=None, description="The flow runs that created it: its own first, its root last."
    )
    saved_by: SavedBy | None = Field(
        default=None, description="The run that saved it; null where an earlier one had."
    )
    submitted_at: datetime | None = Field(
        default=None, description="When the create was sent, by the clock of the sender."
    )
    created_at: datetime | None = Field(default=None, description="By the service's clock.")
    started_at: datetime | None = Field(default=None, description="By the service's clock.")
    completed_at: datetime | None = Field(default=None, description="By the service's clock.")
    saved_at: datetime | None = Field(default=None, description="By the clock of who saved it.")
    written_at: datetime = Field(description="When this was written.")
    run_time: float | None = Field(default=None, description="Seconds the model ran.")
    queue_time: float | None = Field(default=None, description="Seconds before it was started.")
    package_version: str = Field(description="The version of prefect-cometapi that wrote this.")


@dataclass(frozen=True)
class Circumstances:
    """What the caller knows, beyond a prediction and its record.

    Attributes:
        saved_by: Whose run saves it.
        origin: Where the input came from.
        package_version: Of this package.
    """

    saved_by: SavedBy
    origin: Mapping[str, Any] = field(default_factory=dict)
    package_version: str = ""


def name_of(file: str) -> str:
    """The name of a file's provenance."""
    return f"{file}{SUFFIX}"


def provenance_of(
    file: SavedFile,
    prediction: Prediction,
    record: Record | None,
    circumstances: Circumstances,
    *,
    written_at: datetime,
    kept: bool = False,
) -> Provenance:
    """Where a file came from, as far as it is known.

    Args:
        file: The file.
        prediction: Its prediction.
        record: Its record, where there is one.
        circumstances: What the caller knows.
        written_at: The time.
        kept: An earlier run had saved it: who, and when, is not known any more.
    """
    input = _known_input(prediction, record)
    seed, seed_from = find_seed(input or {}, prediction.output, prediction.logs)
    shown = None if input is None else without_secrets(input)
    prompt = shown.get("prompt") if shown else None
    version = prediction.version
    return Provenance(
        file=ProvenanceFile(**file.model_dump(exclude={"location"})),
        prediction_id=prediction.id,
        api_root=redact(prediction.api_root),
        model=prediction.model,
        version=None if version == "hidden" else version,
        prompt=prompt if isinstance(prompt, str) else None,
        prompt_excerpt=(record.excerpt or None) if record and input is None else None,
        input=shown,
        seed=seed,
        seed_from=seed_from,
        origin=without_secrets(circumstances.origin),
        scope=prediction.scope,
        key=record.key if record else None,
        sample=record.sample if record else None,
        attempt=prediction.attempt,
        record_key=prediction.record_key,
        created_by_flow_runs=record.flow_runs if record else None,
        saved_by=None if kept else circumstances.saved_by,
        submitted_at=prediction.submitted_at,
        created_at=prediction.created_at,
        started_at=prediction.started_at,
        completed_at=prediction.completed_at,
        saved_at=None if kept else written_at,
        written_at=written_at,
        run_time=prediction.run_time,
        queue_time=prediction.queue_time,
        package_version=circumstances.package_version,
    )


def _known_input(prediction: Prediction, record: Record | None) -> dict[str, Any] | None:
    """The input that made it; None where nobody says.

    A prediction that only its record tells of has the input of who asks now. That is the same one
    where the input is what it is found by, and may be another where the caller's own key is.
    """
    if not prediction.input:
        return None
    if record is not None and record.key is not None:
        # A record without one was made with the setting `prompts` off, or without a prompt.
        another = record.excerpt and excerpt_of(prediction.input) != record.excerpt
        if prediction.data_removed or another:
            return None
    return prediction.input


# --- the seed ---------------------------------------------------------------------------------

#: How models tell of their seed: "Using seed: 1234", "seed=1234", "Random seed is 1234".
_SEED = re.compile(r"\bseed\b\s*(?:is\b|set to\b|[:=])\s*(\d{1,20})\b", re.IGNORECASE)


def find_seed(
    input: Mapping[str, Any], output: Any, logs: str
) -> tuple[int, SeedFrom] | tuple[None, None]:
    """The seed, and who says so: the input, else the output, else the model's log.

    Args:
        input: The model's input. A negative seed asks for a random one.
        output: Perhaps an object that names it.
        logs: The model's log. Where it names several seeds, none is *the* seed.
    """
    if (seed := _as_seed(input.get("seed"))) is not None:
        return seed, "input"
    if isinstance(output, Mapping) and (seed := _as_seed(output.get("seed"))) is not None:
        return seed, "output"
    told = {int(number) for number in _SEED.findall(logs)}
    return (told.pop(), "logs") if len(told) == 1 else (None, None)


def _as_seed(value: Any) -> int | None:
    """A seed that was given as a number, or as its digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    number = isinstance(value, int) and not isinstance(value, bool)
    return value if number and value >= 0 else None
