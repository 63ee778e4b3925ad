"""What artifacts are called in Prefect, so that its UI shows the history of a nightly job. Pure.

    cometapi-<kind>-<flow>-<deployment>-<task>-<model>-<number>

The deployment is there where the run has one, the task where its user has named it, the number from
the second batch of a run on that would have the same key. Prefect takes lower case letters, digits
and dashes. Whatever has others, or is too long, gets a short hash of the whole, so that two names
never become one.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

#: Longest part of a key.
PART_MOST = 40
#: The names that tasks of this package have where their user gives them none.
OWN_TASKS = frozenset({"Generate", "Save outputs", "Run predictions"})
#: How the scope of a part of a batch ends; see `Shard.scope`.
_SHARD = re.compile(r", (shard \d+ of \d+)$")


class Kind(StrEnum):
    """What an artifact shows."""

    #: How far a batch is.
    PROGRESS = "progress"
    #: What became of a batch.
    SUMMARY = "summary"
    #: What a batch would do.
    PLAN = "plan"
    #: Many pictures.
    GALLERY = "gallery"
    #: What one prediction made.
    PREDICTION = "prediction"


@dataclass(frozen=True)
class Whose:
    """Whose artifacts they are.

    Attributes:
        flow: The flow's name; empty outside of one.
        deployment: The deployment's; empty where the run has none.
        task: The task's.
    """

    flow: str = ""
    deployment: str = ""
    task: str = ""


def base_of(whose: Whose, model: str = "", scope: str = "") -> str:
    """Whose the keys of some work are, the same in each run of it.

    Args:
        whose: Whose work it is.
        model: Its model, as `owner/name`.
        scope: Its scope, of which only the shard is part of the key: others name a night.
    """
    shard = _SHARD.search(scope)
    task = "" if whose.task in OWN_TASKS else whose.task
    parts = (whose.flow, whose.deployment, task, model, shard[1] if shard else "")
    return "-".join(part(each) for each in parts if each)


def key_of(base: str, kind: Kind, number: int = 1) -> str:
    """The key of an artifact.

    Args:
        base: See `base_of`.
        kind: What it shows.
        number: Which one of its run it is that would have the same key.
    """
    return "-".join(filter(None, ["cometapi", kind, base, str(number) if number > 1 else ""]))


def part(name: str) -> str:
    """A name as a part of a key."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if len(plain) <= PART_MOST and re.fullmatch(r"[A-Za-z0-9 _./-]+", name) and plain:
        return plain
    mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return "-".join(filter(None, [plain[: PART_MOST - 9].strip("-"), mark]))


class Numbers:
    """Numbers the batches of a run that would have the same key, in the order they begin in.

    A task that is tried again has the number that it had.
    """

    #: So many runs are remembered: a process may see many.
    RUNS = 1_000

    def __init__(self) -> None:
        self._runs: dict[Hashable, _Numbered] = {}

    def take(self, run: Hashable, base: str, task: str = "", tried: int = 1) -> int:
        """The number of a batch that begins.

        Args:
            run: The flow run, and which attempt at it.
            base: Whose its keys are.
            task: The task run that it is a part of.
            tried: Which attempt at that.
        """
        while len(self._runs) >= self.RUNS and run not in self._runs:
            del self._runs[next(iter(self._runs))]
        known = self._runs.setdefault(run, _Numbered(Counter(), {}))
        known.calls[base, task, tried] += 1
        owner = (task, known.calls[base, task, tried])
        return known.owners.setdefault(base, {}).setdefault(owner, len(known.owners[base]) + 1)


@dataclass(frozen=True)
class _Numbered:
    calls: Counter[tuple[str, str, int]]
    owners: dict[str, dict[tuple[str, int], int]]
