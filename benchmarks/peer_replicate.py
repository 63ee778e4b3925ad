"""Calls `replicate` for `peers.py`, in an environment of its own.

python peer_replicate.py ORDER.json REPORT.json
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from benchmarks.peer_calls import call_all


def caller(url: str) -> Any:
    """A function that creates one prediction."""
    client = importlib.import_module("replicate").Replicate(
        bearer_token="sim-key",  # noqa: S106 - of the simulator
        base_url=f"{url}/replicate/v1",
    )

    def create(prompt: str) -> Any:
        return client.models.predictions.create(
            model_owner="black-forest-labs", model_name="flux-schnell", input={"prompt": prompt}
        ).id

    return create


if __name__ == "__main__":
    call_all(sys.argv[1], sys.argv[2], "replicate", caller)
