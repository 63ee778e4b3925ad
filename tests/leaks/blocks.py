"""Saves the blocks of the leak test: the one process that has to send keys to Prefect's server."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from prefect import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.filesystems import LocalFileSystem
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, PredictionJob
from tests.leaks.flows import MODEL, picture
from tests.leaks.outlets import open_outlets


def spoil(name: str, credentials: Any) -> None:
    """Save credentials and change their base URL as the UI can, to what is not accepted."""

    async def change() -> None:
        async with get_client() as client:
            block = await client.read_block_document_by_name(name, "cometapi-credentials")
            data = {"base_url": "http://plain.example", "api_key": os.environ["REFUSED_KEY"]}
            await client.update_block_document(block.id, BlockDocumentUpdate(data=data))

    credentials.save(name)
    asyncio.run(change())


def main() -> None:
    open_outlets()
    url = os.environ["COMETAPI_BASE_URL"]
    marked: Any = CometAPICredentials(api_key=SecretStr(os.environ["BLOCK_KEY"]), base_url=url)
    marked.save("marked")
    job: Any = PredictionJob(credentials=marked, model=MODEL, input=picture("plain job"))
    job.save("nested")
    own = CometAPICredentials(api_key=SecretStr(os.environ["INLINE_KEY"]), base_url=url)
    job = PredictionJob(credentials=own, model=MODEL, input=picture("plain inline"))
    job.save("inline")
    spoil("to-be-spoilt", own)
    for name, path in (("ledger", "ledger"), ("broken", f"{__file__}/nowhere")):
        block: Any = LocalFileSystem(basepath=path)
        block.save(name)


if __name__ == "__main__":
    main()
