"""Four predictions on a Dask cluster of two processes; run as a script.

python tests/flows/on_dask.py FOLDER [BLOCK]
"""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow
from prefect_dask import DaskTaskRunner  # type: ignore[import-not-found,unused-ignore]

from prefect_cometapi import CometAPICredentials, generate

CLUSTER = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}


@flow(task_runner=DaskTaskRunner(cluster_kwargs=CLUSTER))
def many(credentials: CometAPICredentials, folder: str) -> int:
    """Returns how many files there are."""
    model = "black-forest-labs/flux-schnell"
    made = [
        generate.submit(credentials, model, {"prompt": f"Boat {number}"}, folder)
        for number in range(4)
    ]
    return sum(len(each.result().files) for each in made)


if __name__ == "__main__":
    folder, block = sys.argv[1], sys.argv[2:]
    credentials: Any = (
        CometAPICredentials.load(block[0]) if block else CometAPICredentials.from_env()
    )
    print(f"{many(credentials, folder)} files")
