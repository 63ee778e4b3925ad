"""The rows of `performance.py` that need neither clients nor waiting: polls, creates at a limit."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks import polls, rate
from benchmarks.measures import Bench, Row


def placed_polls(bench: Bench) -> list[Row]:
    """Polls beside fixed ones, and beside the fewest possible; see `polls.py`. The worst spread."""
    found = polls.rows()
    bench.raw["polls"] = found
    rows = []
    for load, key, beside in (
        ("mixed", "polls at equal delay", "every 0.5 s, mixed load"),
        ("one model", "polls / optimum", "the optimum, one known model"),
    ):
        of_load = [row for row in found if row["load"] == load]
        for known in sorted({row["known"] for row in of_load}):
            worst = max((row for row in of_load if row["known"] == known), key=lambda row: row[key])
            name = f"polls at equal delay, {known} runs known of each model"
            rows.append(Row(name, worst[key], worst["reach"], 1.0, beside))
    return rows


def creates_at_a_limit(bench: Bench) -> list[Row]:
    """300 creates against 60 a minute, by the worst limiter and form of 429; see `rate.py`."""
    found = rate.rows()
    bench.raw["rate"] = [asdict(row) | {"ratio": row.ratio} for row in found]
    own = [row for row in found if row.how == rate.OURS]
    worst = max(own, key=lambda row: row.ratio)
    label, late = "300 creates against 60 a minute", 100 * max(row.late for row in own)
    goal = 100 * rate.GOAL_LATE
    return [
        Row(f"{label}: drain", worst.seconds, rate.GOAL_DRAIN, worst.ideal, "ideal drain", "s"),
        Row(f"{label}: failed", max(row.failed for row in own), 0),
        Row(f"{label}: refused after the first minute", late, goal, unit="%"),
    ]
