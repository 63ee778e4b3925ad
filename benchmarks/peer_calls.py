"""What the scripts for other clients have in common. Uses nothing but the standard library."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: Calls at once in each scenario.
AT_ONCE = 20


def call_all(
    order: str, report: str, package: str, caller: Callable[[str], Callable[[str], Any]]
) -> None:
    """Make all calls of all scenarios, and write down what the caller got of each."""
    asked = json.loads(Path(order).read_text())
    told: dict[str, Any] = {"version": version(package)}
    pools = []
    for scenario, details in asked.items():
        create, pool = caller(details["url"]), ThreadPoolExecutor(AT_ONCE)

        def got(number: int, create: Callable[[str], Any] = create) -> str:
            try:
                create(f"Picture {number}")
            except Exception as error:
                return type(error).__name__
            return "id"

        pools.append((scenario, [pool.submit(got, number) for number in range(details["many"])]))
    for scenario, results in pools:
        told[scenario] = {"got": Counter(result.result() for result in results)}
    Path(report).write_text(json.dumps(told))
