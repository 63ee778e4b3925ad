"""Gives a key away in every place there is, for the search to find it there."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.filesystems import LocalFileSystem
from prefect.variables import Variable

from prefect_cometapi import CometAPICredentials, create_prediction
from tests.leaks.flows import KINDS, MODEL, picture
from tests.leaks.outlets import open_outlets, tell


def returns(text: str) -> list[str]:
    return ["x" * len(text), text]


@task
def in_the_background(text: str) -> None:
    print(text)


@flow(persist_result=True, log_prints=True)
def careless(parameter: str) -> None:
    logging.getLogger("httpcore.http11").debug("to standard error: %s", parameter)
    print(f"to the log of the run: {parameter}")
    create_markdown_artifact(f"in an artifact: {parameter}", key="given-away")
    emit_event("user.did", {"prefect.resource.id": "a.b"}, payload={"in an event": parameter})
    Variable.set("given_away", parameter)
    for number, kind in enumerate(KINDS):
        task(result_storage_key=f"given-{number}", result_serializer=kind)(returns)(parameter)
    in_the_background.delay(parameter)
    in_the_background.with_options(task_run_name=f"in a name: {parameter}")("")
    block: Any = LocalFileSystem(basepath=f"in a block: {parameter}")
    block.save("given-away")
    later: Any = careless.to_deployment("later", parameters={"parameter": parameter})
    later.apply()
    create_prediction(CometAPICredentials.from_env(), MODEL, picture(f"plain {parameter}"))
    for url in (os.environ["LURE"], f"{os.environ['COMETAPI_BASE_URL']}/files/none"):
        httpx.get(url, headers={"authorization": f"Bearer {parameter}"}, trust_env=False)
    raise RuntimeError(f"in the state: {parameter}")


def main() -> None:
    open_outlets()
    key: Any = os.environ["COMETAPI_KEY"]
    print(f"to standard output: {key}", file=sys.stdout)
    for folder in ("pictures", "ledger", os.environ["TMPDIR"]):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "a file").write_text(key, "utf-16")
    try:
        careless(key)
    except RuntimeError as error:
        tell(RuntimeError("nothing").with_traceback(error.__traceback__))


if __name__ == "__main__":
    main()
