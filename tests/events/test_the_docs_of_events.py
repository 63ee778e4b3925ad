"""docs/events.md names every event, label and field that there is, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_cometapi import events, portal
from prefect_cometapi.batch_models import BatchResult, ItemStatus
from prefect_cometapi.event_sending import MANY
from prefect_cometapi.events import Change, Notice
from prefect_cometapi.models import SavedFile
from prefect_cometapi.storage import open_storage
from tests.events.test_what_events_say import prediction, record
from tests.processes import ROOT

DOCS = (ROOT / "docs/events.md").read_text("utf-8")
FILE = SavedFile(
    location="a", name="a", output="output", media_type="text/plain", size=1, sha256="0"
)
RESULT = BatchResult(
    scope="day 1",
    model="black-forest-labs/flux-schnell",
    total=1000,
    counts={ItemStatus.SAVED: 948, ItemStatus.FAILED: 49, ItemStatus.IN_DOUBT: 3},
    created=1000,
    estimated_cost=3.0,
    seconds=241.7,
    polls=5210,
    delay_p95=0.62,
    files=948,
    size=61_300_021,
    manifest="cometapi-batches/day-1-e9732851e070/run-0001/manifest-1.jsonl",
)


def of_predictions() -> Iterator[Notice]:
    """Every event of a prediction, with all that it can hold."""
    queued = prediction(created_at="2026-11-22T03:04:05Z", started_at="2026-11-22T03:04:06Z")
    for change in Change:
        yield events.of_change(
            change,
            events.of_prediction(queued),
            batch="day 1",
            reason="why",
            error_type="SomeError",
            files=[FILE],
            price=0.003,
        )
    yield events.of_change(Change.IN_DOUBT, events.of_record(record(), "cometapi-1"))


PREDICTIONS = list(of_predictions())
BATCH = events.of_batch(RESULT.model_copy(update={"stopped": "Enough."}))


def rows(head: str) -> Iterator[tuple[list[str], list[str]]]:
    """The names in the first cell of each row of a table, and its other cells."""
    lines = DOCS.split(f"{head}\n|---", 1)[1].splitlines()[1:]
    for line in lines:
        if not line.startswith("| "):
            return
        first, *rest = (cell.strip() for cell in line.strip("| ").split(" | "))
        yield re.findall(r"`([^`]+)`", first), rest


def named(head: str, kind: str) -> set[str]:
    """What a table says that there is of a kind."""
    return {name for names, (of, *_) in rows(head) if of in (kind, "both") for name in names}


def test_every_event_is_there() -> None:
    told = {name for names, _ in rows("| event | when |") for name in names}
    assert told == {change.event for change in Change} | {events.FINISHED}


def test_every_label_is_there() -> None:
    head, own = "| label | of | value |", {"prefect.resource.id"}
    labels = {label for notice in PREDICTIONS for label in notice.resource}
    assert named(head, "prediction") == labels - own
    assert named(head, "batch") == set(BATCH.resource) - own


def test_every_field_is_there() -> None:
    head = "| field | of | meaning |"
    fields = {name for notice in PREDICTIONS for name in notice.payload}
    assert named(head, "prediction") == fields
    assert named(head, "batch") == set(BATCH.payload)


def test_every_role_is_there() -> None:
    roles = {each["prefect.resource.role"] for each in [*PREDICTIONS[0].related, *BATCH.related]}
    assert roles == {"model", "batch"}
    assert "Related, by role: `model`" in DOCS
    assert "`batch` for predictions of a batch" in DOCS


def test_the_classes_of_failure_shares_are_there_and_in_the_automation() -> None:
    [share] = [
        cells[1]
        for names, cells in rows("| label | of | value |")
        if "cometapi.failure-share" in names
    ]
    classes = [name for _, name in events.FAILURE_SHARES]
    assert re.findall(r"`([^`]+)`", share) == classes
    automation = (ROOT / "automations/failure-share.yaml").read_text("utf-8")
    assert ", ".join(classes) in automation


def test_the_numbers_in_the_text() -> None:
    assert MANY == 100
    assert "Up to a hundred of each kind" in DOCS


def test_the_example_is_one() -> None:
    [text] = re.findall(r"<!-- example -->\n```json\n(.*?)```", DOCS, re.DOTALL)
    example: dict[str, Any] = json.loads(text)
    notice = events.of_batch(RESULT)
    assert example == {
        "event": notice.event,
        "resource": notice.resource,
        "payload": notice.payload,
    }


async def test_the_snippet_reads_a_summary(tmp_path: Path) -> None:
    async def write() -> None:
        store = await open_storage(tmp_path)
        await store.write("night/summary-1.json", json.dumps(events.summary_of(RESULT)).encode())

    await portal.acall(write)
    snippet, *_ = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102 - our own docs
    assert names["night"](tmp_path, "night/manifest-1.jsonl") == (RESULT.summary, 3.0)
