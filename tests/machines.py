"""One table of many rows, made by several processes: how it is written, checked and put right."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prefect_cometapi import BatchItem
from prefect_cometapi.simulator import Simulator


def write_table(path: Path, rows: int) -> Path:
    """A table of so many rows."""
    lines = [f"row-{number},boat {number}" for number in range(rows)]
    path.write_text("\n".join(["id,prompt", *lines]), "utf-8")
    return path


def last_manifests(contents: Iterable[tuple[str, bytes]]) -> dict[str, BatchItem]:
    """The items of all shards by their key, from the files of a storage.

    Args:
        contents: Names and contents. Of each shard's manifests, the last run's counts.
    """
    last: dict[str, bytes] = {}
    for name, content in sorted(contents):
        if name.rpartition("/")[2].startswith("manifest-"):
            last[name.rsplit("/", 2)[0]] = content
    items: dict[str, BatchItem] = {}
    for content in last.values():
        for line in content.decode().splitlines():
            item = BatchItem.model_validate_json(line)
            assert item.key is not None
            assert item.key not in items, "an item is in two shards"
            items[item.key] = item
    return items


def text_of(number: int) -> str:
    """What the file of a row holds."""
    return f"A simulated answer to: boat {number}"


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


#: What a person does about creates whose answer a dead process was still waiting for: those that
#: the service has are adopted, the others sent once more. Takes a scope, and prompts with their id.
DECIDE = """
import json, sys
from prefect_cometapi import adopt_prediction, list_records, resubmit_predictions

scope, made = map(json.loads, sys.argv[1:])
for entry in list_records(scope, in_doubt=True):
    prompt = entry.record.excerpt
    if prompt in made:
        adopt_prediction(entry.key, made[prompt], scope=entry.scope)
    else:
        resubmit_predictions(entry.key, scope=entry.scope)
    print(json.dumps(prompt))
"""


def made_by(service: Simulator) -> dict[str, str]:
    """The prompts that the service has taken, with the ids of their predictions."""
    return {str(each.input["prompt"]): id for id, each in service.predictions.items()}


def told(service: Simulator, rows: int, in_doubt: int) -> str:
    """What a run of many rows, in which something was killed, has cost."""
    counts = service.counts
    sent = [each.time for each in service.requests if each.operation == "create"]
    return (
        f"{rows:,} rows: {counts.creates:,} creates, {counts.charged:,} charged, {in_doubt} in "
        f"doubt after the kill, {counts.polls:,} polls, {sent[-1] - sent[0]:.0f} s of creates"
    )


def most_in(seconds: float, service: Simulator) -> int:
    """How many creates came within so many seconds, at most."""
    came = sorted(each.time for each in service.requests if each.operation == "create")
    first = most = 0
    for last, time in enumerate(came):
        while time - came[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
