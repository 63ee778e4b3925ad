"""What the crash harness does for a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from benchmarks.boundaries import AT_RANDOM, NAMES
from benchmarks.crash_flows import ASYNC_SHAPES, SYNC_SHAPES

SHAPES = (*SYNC_SHAPES, *ASYNC_SHAPES)
#: The random moments get as many turns as three boundaries.
_ROUND = (*NAMES, AT_RANDOM, AT_RANDOM)


@dataclass(frozen=True)
class Plan:
    """What is done for a seed.

    Attributes:
        seed: Decides what the rest does not say.
        boundary: Where the process is killed.
        disk: Whether the retry finds the first process' PREFECT_HOME and working folder.
        ledger: Where the records live.
        shape: What the flow looks like.
        again: The same run retried, or a new run with the same scope.
        wait: Wait out a fresh intent for real instead of moving it into the past.
        late: The retry comes after the outputs have expired.
        kills: How often it is killed; the second time at a random moment of the retry.
        predictions: How many are asked for.
        nth: The prediction at whose boundary it is killed.
    """

    seed: int
    boundary: str
    disk: Literal["kept", "lost"]
    ledger: Literal["server", "block"]
    shape: str
    again: Literal["retry", "new run"]
    wait: bool
    late: bool
    kills: int
    predictions: int
    nth: int


def plans(seeds: int) -> list[Plan]:
    """So many seeds, the boundaries in turn."""
    return [_drawn(seed, *reversed(divmod(seed, len(_ROUND)))) for seed in range(seeds)]


def _drawn(seed: int, place: int, turn: int) -> Plan:
    draw = Random(f"crash {seed}")  # noqa: S311
    predictions = draw.randint(2, 4)
    return Plan(
        seed=seed,
        boundary=_ROUND[place],
        disk="lost" if (turn + place) % 2 else "kept",
        ledger="block" if draw.random() < 0.34 else "server",
        shape=draw.choice(SHAPES),
        again="new run" if draw.random() < 0.2 else "retry",
        wait=turn == 1,
        late=turn == 5,
        kills=2 if draw.random() < 0.2 else 1,
        predictions=predictions,
        nth=draw.randint(1, predictions),
    )


def short_plans() -> list[Plan]:
    """Each boundary once, and nothing that takes long."""
    return [
        Plan(
            seed=seed,
            boundary=boundary,
            disk="lost" if seed % 2 else "kept",
            ledger="block" if seed % 3 == 2 else "server",
            shape=SHAPES[seed % len(SHAPES)],
            again="new run" if seed == 7 else "retry",
            wait=False,
            late=False,
            kills=1,
            predictions=2,
            nth=1 + seed // 2 % 2,
        )
        for seed, boundary in enumerate(NAMES)
    ]
