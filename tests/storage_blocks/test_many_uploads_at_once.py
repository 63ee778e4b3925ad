"""Many small files at once go to a bucket side by side, and no more than so many."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect_cometapi import portal
from prefect_cometapi.block_calls import BLOCK_CALLS
from prefect_cometapi.storage import open_storage
from tests.buckets import S3

COUNT = 200


async def test_two_hundred(s3: S3) -> None:
    block = s3.bucket("small")
    s3.most_at_once = 0

    async def write(storage: Any) -> list[str]:
        store = await open_storage(storage)
        writes = (store.write(f"{i:03}.txt", str(i).encode()) for i in range(COUNT))
        return await asyncio.gather(*writes)

    locations = await portal.acall(write, block)
    assert s3.objects(block) == {location: str(i).encode() for i, location in enumerate(locations)}
    assert 1 < s3.most_at_once <= BLOCK_CALLS
