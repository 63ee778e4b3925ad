"""The same request is found again under the same key, on any machine and by any version; and a
record that does not say what became of a create is in doubt, never a reason to pay twice.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.schemas.actions import VariableCreate

from prefect_cometapi.ledger import (
    Outcome,
    Record,
    Standing,
    in_doubt,
    read_record,
    record_key,
    sentences,
    way_out,
)
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile
from tests.processes import python

INPUT: dict[str, Any] = {
    "prompt": "Ein Boot, 紙の船 🛶",
    "seed": 1,
    "guidance": 2.5,
    "raw": True,
    "mask": None,
    "images": ["https://a.example/b", {"z": 1, "a": 2}],
}
REQUEST: dict[str, Any] = {
    "scope": "flow-run:7c3b0d3e-6f0d-4a39-9d5c-0b8a5d6a8f11",
    "api_root": "https://api.cometapi.com",
    "model": "black-forest-labs/flux-schnell",
    "input": INPUT,
    "sample": 0,
}
#: Pinned: with another key, a run that is resumed after an upgrade would pay again.
PINNED = "cometapi-907278eadc4e5756a2f73a1a8c0beb0676261644"


def key(**changes: Any) -> str:
    return record_key(**REQUEST | changes)


def test_the_key_never_changes() -> None:
    assert key() == PINNED


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(inner) for inner in value] if isinstance(value, list) else value


def test_the_key_does_not_depend_on_the_order_of_names() -> None:
    shuffled = backwards(INPUT)
    assert json.dumps(shuffled) != json.dumps(INPUT)
    assert key(input=shuffled) == PINNED


def test_the_key_does_not_depend_on_a_json_round_trip_or_on_tuples() -> None:
    assert key(input=json.loads(json.dumps(INPUT))) == PINNED
    assert key(input=INPUT | {"images": tuple(INPUT["images"])}) == PINNED


def test_the_key_does_not_depend_on_the_process() -> None:
    code = (
        "import sys, json; from prefect_cometapi.ledger import record_key;"
        "print(record_key(**json.loads(sys.argv[1])))"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "ascii", "HOME": "/nowhere"}
        environment["PREFECT_HOME"] = "/tmp/prefect-none"  # noqa: S108
        done = python("-c", code, json.dumps(REQUEST), env=environment)
        assert done.stdout.strip() == PINNED


OTHERS: dict[str, dict[str, Any]] = {
    "scope": {"scope": "gallery-2026-03-12"},
    "scope-case": {"scope": REQUEST["scope"].upper()},
    "api-root": {"api_root": "http://127.0.0.1:8000"},
    "model": {"model": "black-forest-labs/flux-schnel1"},
    "sample": {"sample": 1},
    "sample-2": {"sample": 2},
    "empty-input": {"input": {}},
    "prompt": {"input": INPUT | {"prompt": "A paper boat"}},
    "seed": {"input": INPUT | {"seed": 2}},
    "seed-as-text": {"input": INPUT | {"seed": "1"}},
    "seed-as-boolean": {"input": INPUT | {"seed": True}},
    "seed-as-fraction": {"input": INPUT | {"seed": 1.0}},
    "one-more": {"input": INPUT | {"n": None}},
    "one-less": {"input": {name: INPUT[name] for name in INPUT if name != "mask"}},
    "order-of-a-list": {"input": INPUT | {"images": INPUT["images"][::-1]}},
    "nested": {"input": INPUT | {"images": [INPUT["images"][0], {"z": 1, "a": 3}]}},
    # What one component ends with, the next does not begin with.
    "attempt": {"attempt": 2},
    "own-key": {"key": "row-1"},
    "own-key-of-another-row": {"key": "row-2"},
    "input-that-looks-like-a-key": {"input": {"key": "row-1"}},
    "shifted": {"scope": REQUEST["scope"] + '","https', "api_root": "x"},
    "swapped": {"scope": REQUEST["model"], "model": REQUEST["scope"]},
}


def test_the_key_differs_by_each_component() -> None:
    keys = {name: key(**changes) for name, changes in OTHERS.items()}
    assert len({PINNED, *keys.values()}) == len(keys) + 1


def test_the_key_is_a_name_that_the_server_takes_and_gives_nothing_away() -> None:
    for name in (PINNED, *(key(**changes) for changes in OTHERS.values())):
        assert VariableCreate(name=name, value={}).name == name
        assert len(name) == len("cometapi-") + 40
        assert name.startswith("cometapi-")


def test_an_input_that_is_no_json_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        key(input={"a": float("nan")})


# --- records ----------------------------------------------------------------------------------

SENT = datetime(2026, 3, 12, 11, 27, 18, 258_000, UTC)
PATIENCE = timedelta(seconds=90)
INTENT = Record(scope="s", model="owner/name", api_root="https://api.example", sent_at=SENT)
DONE = INTENT.model_copy(update={"prediction_id": "abc"})
STORED: dict[str, Any] = INTENT.model_dump(mode="json")


@pytest.mark.parametrize("record", [INTENT, DONE, DONE.model_copy(update={"sample": 3})])
def test_records_survive_being_stored(record: Record) -> None:
    stored = record.as_json()
    assert stored["schema_version"] == 1
    assert read_record(stored) == record
    assert read_record(json.loads(json.dumps(stored))) == record
    assert read_record(stored | {"of_a_later_version": 1}) == record


@pytest.mark.parametrize(
    ("record", "age", "standing"),
    [
        pytest.param(INTENT, 0, Standing.SENDING, id="just-sent"),
        pytest.param(INTENT, 89.9, Standing.SENDING, id="within-patience"),
        pytest.param(INTENT, 90, Standing.IN_DOUBT, id="patience-is-over"),
        pytest.param(INTENT, 1e7, Standing.IN_DOUBT, id="months-ago"),
        pytest.param(INTENT, -30, Standing.SENDING, id="clock-of-the-sender-is-ahead"),
        pytest.param(DONE, 0, Standing.UNSAVED, id="id-known"),
        pytest.param(DONE, 1e7, Standing.UNSAVED, id="id-known-months-ago"),
        pytest.param(DONE.ended(Outcome.SAVED), 0, Standing.ENDED, id="saved"),
        pytest.param(INTENT.ended(Outcome.ABANDONED), 0, Standing.ENDED, id="abandoned"),
    ],
)
def test_what_a_record_says(record: Record, age: float, standing: Standing) -> None:
    assert record.standing(SENT + timedelta(seconds=age), PATIENCE) is standing


SEEN = Prediction(
    id="abc", model="owner/name", status=PredictionStatus.CANCELED, api_root=INTENT.api_root
)
FILE = SavedFile(
    location="/p/abc-0.webp", name="abc-0.webp", output="o", media_type="m", size=1, sha256="0"
)


@pytest.mark.parametrize(
    ("record", "became", "now"),
    [
        pytest.param(INTENT, {"outcome": None}, ("abc", None), id="its-id-after-all"),
        pytest.param(DONE, {"outcome": None}, None, id="nothing-new"),
        pytest.param(
            DONE, {"outcome": None, "cancel_asked": True}, ("abc", None), id="a-cancel-was-asked"
        ),
        pytest.param(DONE, {"outcome": Outcome.FAILED}, ("abc", Outcome.FAILED), id="failed"),
        pytest.param(DONE.ended(Outcome.FAILED), {"outcome": Outcome.FAILED}, None, id="known"),
        pytest.param(
            DONE.ended(Outcome.EXPIRED),
            {"outcome": Outcome.SAVED, "files": [FILE]},
            ("abc", Outcome.SAVED),
            id="saved-after-all",
        ),
        pytest.param(
            DONE.ended(Outcome.SAVED), {"outcome": Outcome.EXPIRED}, None, id="saved-stays-so"
        ),
        pytest.param(
            DONE.ended(Outcome.STOPPED),
            {"outcome": Outcome.CANCELED},
            None,
            id="who-stopped-it-stays-known",
        ),
        pytest.param(
            DONE.ended(Outcome.ABANDONED),
            {"outcome": Outcome.SAVED, "files": [FILE]},
            None,
            id="a-person-has-decided",
        ),
        pytest.param(
            DONE.model_copy(update={"prediction_id": "other"}),
            {"outcome": Outcome.FAILED},
            None,
            id="of-another-prediction",
        ),
    ],
)
def test_what_becomes_known_is_added(
    record: Record, became: dict[str, Any], now: tuple[str, Outcome | None] | None
) -> None:
    settled = record.settled(SEEN, **became)
    assert (settled and (settled.prediction_id, settled.outcome)) == now


def without(name: str) -> dict[str, Any]:
    return {each: STORED[each] for each in STORED if each != name}


SCRAPS: list[object] = [None, "", "abc", 0, True, [], {}, [STORED]]
TORN: dict[str, object] = {
    **{repr(value): value for value in SCRAPS},
    "json-in-text": json.dumps(STORED),
    "half-of-json": json.dumps(STORED)[:40],
    **{f"without-{name}": without(name) for name in ("scope", "model", "api_root", "sent_at")},
    "time-as-words": STORED | {"sent_at": "yesterday"},
    "time-null": STORED | {"sent_at": None},
    "time-without-zone": STORED | {"sent_at": "2026-03-12T11:27:18"},
    "id-is-a-number": STORED | {"prediction_id": 5},
    "id-is-a-list": STORED | {"prediction_id": ["abc"]},
    "id-empty": STORED | {"prediction_id": ""},
    "sample-as-words": STORED | {"sample": "first"},
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_record_is_in_doubt(name: str) -> None:
    later = SENT + timedelta(days=1)
    record = read_record(TORN[name])
    assert record is None or record.standing(later, PATIENCE) is Standing.IN_DOUBT


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (INTENT, "owner/name (sample 0). It may have been accepted and paid for"),
        (INTENT, "sent in scope 's' at 2026-03-12 11:27:18 UTC, and is"),
        (None, "can not be read"),
    ],
    ids=["intent", "when", "not-readable"],
)
def test_in_doubt_says_what_to_do(record: Record | None, says: str) -> None:
    message = str(in_doubt(PINNED, record, None))
    assert message.startswith("In doubt: ")
    assert says in message
    assert "not sent again unasked" in message
    for command in (f"adopt {PINNED} PREDICTION_ID", f"resubmit {PINNED}", f"abandon {PINNED}"):
        assert f"python -m prefect_cometapi ledger {command}" in message
    assert way_out(PINNED) in message


def test_the_time_in_a_message_is_utc() -> None:
    elsewhere = read_record(STORED | {"sent_at": "2026-03-12T13:27:18+02:00"})
    assert "2026-03-12 11:27:18 UTC" in str(in_doubt(PINNED, elsewhere, 0.003))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It failed. Run `a b` again.", "It failed. Run `a b` again."),
        ("It failed after 3.1 s.  Run `some long command` again.", "It failed after 3.1 s."),
        ("Not done: run `some long command` again, later.", "Not done."),
        ("One sentence that does not end before the end", "One sentence that does not end…"),
    ],
)
def test_no_sentence_is_cut_where_one_fits(text: str, kept: str) -> None:
    assert sentences(text, 31) == kept
