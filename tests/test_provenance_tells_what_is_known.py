"""Provenance tells what is known of a file, no more, and nothing that nobody may see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_cometapi import Provenance, SavedFile, filetypes
from prefect_cometapi.ledger import Outcome, Record
from prefect_cometapi.models import Prediction
from prefect_cometapi.provenance import (
    FORMAT,
    SUFFIX,
    Circumstances,
    SavedBy,
    find_seed,
    name_of,
    provenance_of,
)
from prefect_cometapi.redaction import MASKED
from tests.servers import ID, MODEL, made_of

NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
FILE = SavedFile(
    location="s3://key:secret@bucket/x.png",
    name=f"day/{ID}-0.png",
    output="output[0]",
    media_type="image/png",
    size=1234,
    sha256="ab" * 32,
)
HERE = Circumstances(SavedBy(flow_run_id="run-2", task_run_id="task-2"), {"row": 7}, "0.1.0")


def made(**more: Any) -> Prediction:
    known: dict[str, Any] = {
        "input": {"prompt": "A paper boat", "seed": 42},
        "created_at": NOW - timedelta(seconds=9),
        "started_at": NOW - timedelta(seconds=7),
        "completed_at": NOW - timedelta(seconds=2),
        "version": "5599ed30",
        "scope": "day",
        "record_key": "cometapi-1",
    }
    return made_of("https://delivery.example/x.png?signature=secret", **known | more)


def record(**more: Any) -> Record:
    known: dict[str, Any] = {
        "scope": "day",
        "model": MODEL,
        "api_root": "https://api.example",
        "sent_at": NOW - timedelta(seconds=10),
        "prediction_id": ID,
        "excerpt": "A paper boat",
        "sample": 3,
        "flow_runs": ["run-1", "root"],
        "run_time": 4.5,
    }
    return Record(**known | more)


def told(prediction: Prediction, known: Record | None, **more: Any) -> Provenance:
    found = provenance_of(FILE, prediction, known, HERE, written_at=NOW, **more)
    text = found.model_dump_json()
    assert Provenance.model_validate_json(text) == found
    assert "secret" not in text
    return found


def test_what_a_run_that_makes_and_saves_tells() -> None:
    found = told(made(), record())
    assert found.model_dump(mode="json") == {
        "format": FORMAT,
        "file": {
            "name": f"day/{ID}-0.png",
            "output": "output[0]",
            "media_type": "image/png",
            "size": 1234,
            "sha256": "ab" * 32,
        },
        "prediction_id": ID,
        "api_root": "http://127.0.0.1:1",
        "model": MODEL,
        "version": "5599ed30",
        "prompt": "A paper boat",
        "prompt_excerpt": None,
        "input": {"prompt": "A paper boat", "seed": 42},
        "seed": 42,
        "seed_from": "input",
        "origin": {"row": 7},
        "scope": "day",
        "key": None,
        "sample": 3,
        "attempt": 1,
        "record_key": "cometapi-1",
        "created_by_flow_runs": ["run-1", "root"],
        "saved_by": {"flow_run_id": "run-2", "task_run_id": "task-2", "deployment_id": None},
        "submitted_at": None,
        "created_at": "2026-11-22T03:03:56Z",
        "started_at": "2026-11-22T03:03:58Z",
        "completed_at": "2026-11-22T03:04:03Z",
        "saved_at": "2026-11-22T03:04:05Z",
        "written_at": "2026-11-22T03:04:05Z",
        "run_time": 5.0,
        "queue_time": 2.0,
        "package_version": "0.1.0",
    }


def test_what_is_left_to_tell_of_files_that_an_earlier_run_has_saved() -> None:
    ended = record(outcome=Outcome.SAVED)
    found = told(ended.prediction("cometapi-1", {"prompt": "A paper boat"}), ended, kept=True)
    assert (found.saved_by, found.saved_at, found.written_at) == (None, None, NOW)
    assert (found.prompt, found.seed, found.run_time) == ("A paper boat", None, 4.5)
    assert (found.created_at, found.version) == (None, None)
    assert found.submitted_at == ended.sent_at
    assert found.created_by_flow_runs == ["run-1", "root"]


def test_without_a_record_its_fields_are_null() -> None:
    found = told(made(scope=None, record_key=None), None)
    assert (found.created_by_flow_runs, found.sample, found.key, found.scope) == (None,) * 4
    assert found.prompt == "A paper boat"


#: The input of who asks now; the record's own key; whether the service repeated it; what is told.
INPUTS: dict[str, tuple[dict[str, Any], str | None, bool, str | None]] = {
    "the service's": ({"prompt": "A paper boat"}, None, True, "A paper boat"),
    "found by it": ({"prompt": "A paper boat"}, None, False, "A paper boat"),
    "nobody's": ({}, None, False, None),
    "of who asks now": ({"prompt": "Another boat"}, "row-7", False, None),
    "perhaps the same": ({"prompt": "A paper boat"}, "row-7", False, None),
    "the service's, with a key": ({"prompt": "A paper boat"}, "row-7", True, "A paper boat"),
    "not the service's": ({"prompt": "Another boat"}, "row-7", True, None),
}


@pytest.mark.parametrize("whose", INPUTS)
def test_an_input_that_is_not_known_for_certain_is_null(whose: str) -> None:
    input, key, live, expected = INPUTS[whose]
    known = record(key=key, outcome=None if live else Outcome.SAVED)
    prediction = made(input=input) if live else known.prediction("cometapi-1", input)
    found = told(prediction, known)
    assert found.prompt == expected
    assert (found.input is None) == (expected is None)
    assert found.prompt_excerpt == (None if expected else "A paper boat")


@pytest.mark.parametrize(("version", "expected"), [("5599", "5599"), ("hidden", None), (None,) * 2])
def test_a_version_is_one_that_the_service_named(version: str | None, expected: str | None) -> None:
    assert told(made(version=version), None).version == expected


# --- the seed ---------------------------------------------------------------------------------

SEEDS: dict[str, tuple[dict[str, Any], Any, str, tuple[Any, Any]]] = {
    "asked for": ({"seed": 42}, None, "Using seed: 7", (42, "input")),
    "zero": ({"seed": 0}, None, "", (0, "input")),
    "as text": ({"seed": "42"}, None, "", (42, "input")),
    "a random one": ({"seed": -1}, None, "Using seed: 7", (7, "logs")),
    "none": ({"seed": None}, None, "Using seed: 7\n100%|████| 4/4", (7, "logs")),
    "yes": ({"seed": True}, None, "", (None, None)),
    "a list": ({"seed": [1, 2]}, None, "", (None, None)),
    "of the output": ({}, {"seed": 5, "image": "x"}, "Using seed: 7", (5, "output")),
    "an equals sign": ({}, None, "steps=4 seed=12345 size=1", (12345, "logs")),
    "a sentence": ({}, None, "Random seed is 12345.", (12345, "logs")),
    "set to": ({}, None, "seed set to 9", (9, "logs")),
    "capitals": ({}, None, "SEED: 9", (9, "logs")),
    "repeated": ({}, None, "Using seed: 7\nUsing seed: 7", (7, "logs")),
    "two of them": ({}, None, "Using seed: 7\nUsing seed: 8", (None, None)),
    "another word": ({}, None, "seeds: 7, reseed: 8, seed 9", (None, None)),
    "no number": ({}, None, "Using seed: None", (None, None)),
    "endless": ({}, None, f"seed: {'9' * 50}", (None, None)),
    "nothing": ({}, ["https://x/y.png"], "", (None, None)),
}


@pytest.mark.parametrize("how", SEEDS)
def test_the_seed_is_what_somebody_said(how: str) -> None:
    input, output, logs, expected = SEEDS[how]
    assert find_seed(input, output, logs) == expected


# --- what is left out -------------------------------------------------------------------------


def test_its_input_and_its_origin_hold_nothing_that_nobody_may_see() -> None:
    input = {"prompt": "A boat", "image": "https://me:secret@host/x?sig=secret", "hf_token": 1234}
    asked = made(input=input)
    origin = {"row": 7, "password": "secret", "template": "https://host/{{ x }}?sig=secret"}
    here = Circumstances(HERE.saved_by, origin)
    found = provenance_of(FILE, asked, record(), here, written_at=NOW)
    assert "secret" not in found.model_dump_json()
    assert found.input == {"prompt": "A boat", "image": "https://host/x", "hf_token": MASKED}
    assert found.origin["template"] == "https://host/{{ x }}"


# --- its name ---------------------------------------------------------------------------------


def test_no_output_has_the_name_of_a_provenance() -> None:
    assert name_of(FILE.name) == f"day/{ID}-0.png.provenance.json"
    named = [kind for kind in vars(filetypes).values() if isinstance(kind, filetypes.FileType)]
    extensions = {kind.extension for _, _, kind in filetypes._SIGNATURES}
    extensions |= {kind.extension for kind in named}
    assert {"png", "html", "json"} <= extensions
    assert not any("." in extension for extension in extensions)
    assert SUFFIX.count(".") == 2
