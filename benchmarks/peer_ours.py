"""Calls this package for `peers.py`.

python benchmarks/peer_ours.py ORDER.json REPORT.json
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, acreate_prediction


@flow(name="peers")
async def creates(url: str, many: int) -> Counter[str]:
    """Create so many; what the caller got of each."""
    credentials = CometAPICredentials(api_key=SecretStr("sim-key"), base_url=url)

    async def got(number: int) -> str:
        order = {"prompt": f"Picture {number}"}
        try:
            await acreate_prediction(credentials, "black-forest-labs/flux-schnell", order)
        except Exception as error:
            return type(error).__name__
        return "id"

    return Counter(await asyncio.gather(*map(got, range(many))))


async def main(asked: dict[str, Any]) -> dict[str, Any]:
    """All scenarios, side by side."""
    found = await asyncio.gather(*(creates(**each) for each in asked.values()))
    told = {name: {"got": counts} for name, counts in zip(asked, found, strict=True)}
    return {"version": version("prefect-cometapi"), **told}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(
        json.dumps(asyncio.run(main(json.loads(Path(sys.argv[1]).read_text()))))
    )
