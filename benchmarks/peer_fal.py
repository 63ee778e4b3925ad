"""Calls `fal-client` for `peers.py`, in an environment of its own.

python peer_fal.py ORDER.json REPORT.json
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from benchmarks.peer_calls import call_all


def caller(url: str) -> Any:
    """A function that submits one request."""
    fal: Any = importlib.import_module("fal_client.client")
    own = fal.SyncClient(key="sim-key")
    fal.QUEUE_URL_FORMAT = ""  # else all clients of a process have one host, with https

    def submit(prompt: str) -> Any:
        return own.submit(f"{url}/black-forest-labs/flux-schnell", {"prompt": prompt}).request_id

    return submit


if __name__ == "__main__":
    call_all(sys.argv[1], sys.argv[2], "fal-client", caller)
