"""Flows that use the package in every way, with whatever goes wrong.

    python -m tests.leaks.flows env|block gallery|stopped

The key is in the environment, or in a saved block. Results are in the working folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from typing import Any

from prefect import flow, get_client, get_run_logger, runtime, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import INPUTS
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.states import Cancelled
from prefect.task_worker import TaskWorker

from prefect_cometapi import (
    CometAPICredentials,
    PredictionJob,
    acancel_prediction,
    acreate_prediction,
    agenerate,
    apoll_prediction,
    cancel_prediction,
    cancel_predictions,
    collect_predictions,
    create_prediction,
    generate,
    generate_prompts,
    get_prediction,
    list_records,
    poll_prediction,
    portal,
    run_predictions,
    save_outputs,
)
from prefect_cometapi.__main__ import main as command
from prefect_cometapi.errors import CometAPIError
from prefect_cometapi.settings import load_settings
from tests.leaks.outlets import attempt, close_outlets, open_outlets, tell

MODEL = "black-forest-labs/flux-schnell"
WAYS = ("env", "block")
#: What the service says no to, or loses; half of it for each process.
CREATES = {
    "env": (
        *("create-repeats-401", "create-repeats-402", "create-repeats-422", "create-repeats-429"),
        *("create-repeats-500", "create-repeats-html", "create.lost", "create.lost"),
    ),
    "block": ("create-repeats-401", "create.lost", "create.redirect", "create.cut-off"),
}
#: What fails, or is in trouble, after the create.
LATER = {
    "env": ("query-repeats-401", "file.redirect-away", "prediction.failed"),
    "block": (
        *("query-repeats-html", "query.redirect", "query.lost", "file.redirect-away"),
        *("file.redirect-loop", "file.404", "file.truncated"),
    ),
}


def picture(prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "output_format": "png"}


# --- a user's own tasks -----------------------------------------------------------------------


def of_my_own(credentials: CometAPICredentials, job: PredictionJob, prompt: str) -> list[Any]:
    """Returns what it should not, and has everything in local variables."""
    client, settings = credentials.get_client(), load_settings()
    get_run_logger().debug("%s %r %s %r", client, settings, job, vars(client))
    return [prompt, credentials, job]


KINDS = ("pickle", "json", "compressed/pickle", "compressed/json")
CACHED: list[Any] = [
    task(cache_policy=INPUTS, persist_result=True, result_serializer=kind, name=kind)(of_my_own)
    for kind in KINDS
]


@task(persist_result=True)
def fails_of_its_own(credentials: CometAPICredentials) -> None:
    raise RuntimeError(f"Can not work with {credentials!r} of {credentials.model_dump()}")


#: What was left to task workers.
DELAYED: list[Any] = []


@task
def in_the_background(credentials: CometAPICredentials, job: PredictionJob) -> str:
    return f"{credentials} {job}"


@flow(persist_result=True)
def below(credentials: CometAPICredentials, job: PredictionJob) -> Any:
    run = job.trigger(scope="below")
    run.wait_for_completion()
    create_markdown_artifact(f"{credentials} {job} {run} {vars(run)['job']}", key="what-i-have")
    emit_event("user.did", {"prefect.resource.id": "a.b"}, payload={"with": repr(credentials)})
    return run.fetch_result()


# --- sync -------------------------------------------------------------------------------------


@flow(persist_result=True, log_prints=True, on_cancellation=[cancel_predictions])
def gallery(credentials: CometAPICredentials, job: PredictionJob, files: str) -> Any:
    print(credentials, repr(credentials), credentials.model_dump_json(), job, vars(credentials))
    mine = os.environ["RUN_NAME"]
    generate(credentials, MODEL, picture("plain"), files, provenance=True)
    made: Any = create_prediction.submit(credentials, MODEL, picture("plain"), sample=1)
    polled: Any = poll_prediction.submit(credentials, made)
    save_outputs.submit(credentials, polled, files, prefix="own", provenance=True).result()
    inputs = [picture(f"plain {number}") for number in range(2)]
    generate.map(unmapped(credentials), MODEL, inputs, files).result()
    get_prediction(credentials, made.result())
    for brief in ("chat-repeats-401", "chat-repeats-500", "chat.refusal", "plain"):
        attempt(partial(generate_prompts, credentials, f"{brief} boats", 2, storage=files))
    prompts = ("plain batch", "prediction.failed batch", "create-repeats-500 batch")
    batch = partial(run_predictions, credentials, MODEL, list(map(picture, prompts)), files)
    attempt(partial(batch, events="all"))
    for prompt in CREATES[mine]:
        attempt(partial(create_prediction, credentials, MODEL, picture(prompt)))
    later = [
        generate.with_options(persist_result=True, result_serializer=KINDS[number % 4]).submit(
            credentials, MODEL, picture(prompt), files, timeout=30
        )
        for number, prompt in enumerate(LATER[mine])
    ]
    for future in later:
        attempt(future.result)
    for cached in (*CACHED, CACHED[0]):
        attempt(partial(cached, credentials, job, f"boat {cached.name}"))
    for work in (
        lambda: fails_of_its_own(credentials),
        lambda: below(credentials, job),
        lambda: generate(credentials, MODEL, picture("plain"), __file__),
        lambda: generate(credentials, MODEL, picture("plain"), "block://local-file-system/broken"),
        lambda: generate(credentials.model_copy(update={"base_url": "http://127.0.0.1:1"}), MODEL,
                         picture("plain"), files),
        lambda: generate(credentials, "not a model", picture("plain"), files),
        lambda: cancel_prediction(credentials, "nobody-knows-it"),
    ):  # fmt: skip
        attempt(work)
    left = create_prediction(credentials, MODEL, picture(f"prediction.endless left {mine}"))
    attempt(lambda: poll_prediction(credentials, left, timeout=0.2))
    DELAYED.append(in_the_background.delay(credentials, job))
    client, run, all_mine = credentials.get_client(), runtime.flow_run.id, {"my": [credentials]}
    raise RuntimeError(f"my own mistake in {run} with {client}, {all_mine}")


def after(credentials: CometAPICredentials, job: PredictionJob) -> None:
    """What people and workers do later, in the same process for the time it saves."""

    async def cancel_it() -> Any:
        async with get_client() as client:
            (run,) = [r for r in await client.read_flow_runs() if r.name == os.environ["RUN_NAME"]]
            await client.set_flow_run_state(run.id, Cancelled(), force=True)
            return run

    async def work() -> None:
        async with get_client() as client, TaskWorker(in_the_background) as worker:
            await worker.execute_task_run(await client.read_task_run(DELAYED[0].task_run_id))
            while not DELAYED[0].state.is_final():
                await asyncio.sleep(0.1)
                DELAYED[0]._state = (await client.read_task_run(DELAYED[0].task_run_id)).state

    attempt(lambda: asyncio.run(work()))
    run = portal.call(cancel_it)
    attempt(lambda: cancel_predictions(gallery, run, Cancelled()))
    attempt(list_records)
    attempt(lambda: collect_predictions(credentials, "pictures"))
    for words in ("ledger list", "ledger list --json", "doctor"):
        attempt(partial(command, words.split()))
    parameters = {"credentials": credentials, "job": job, "files": "pictures"}

    @flow(name="deploys", persist_result=True)
    def deploys() -> None:
        gallery.to_deployment("later").apply()  # type: ignore[union-attr]
        run_deployment("gallery/later", parameters=parameters, timeout=0)

    attempt(deploys)


# --- async ------------------------------------------------------------------------------------


@flow(persist_result=True, result_serializer="json")
async def async_gallery(
    credentials: CometAPICredentials, inline: PredictionJob | None, files: str
) -> None:
    prompts = ("plain async", "query.502 async", "create-repeats-401 async", "file.403 async")
    made = await asyncio.gather(
        *(
            agenerate(credentials, MODEL, picture(prompt), files, provenance=True)
            for prompt in prompts
        ),
        return_exceptions=True,
    )
    for each in made:
        if isinstance(each, BaseException):
            tell(each)
    # Each by itself: where one meets trouble of the machine, the others are made all the same.
    for part in (a_cancel(credentials), a_time_out(credentials), all_inline(credentials, inline)):
        try:
            await part
        except CometAPIError as error:
            tell(error)


async def a_cancel(credentials: CometAPICredentials) -> None:
    created = await acreate_prediction(credentials, MODEL, picture("plain async"), sample=1)
    await apoll_prediction(credentials, created)
    await acancel_prediction(credentials, created)


async def a_time_out(credentials: CometAPICredentials) -> None:
    """One of the user's own, in the middle of a request or of a wait."""
    endless = await acreate_prediction(credentials, MODEL, picture("prediction.endless async"))
    try:
        async with asyncio.timeout(0.3):
            await credentials.get_client().aget_prediction(endless.id)
            await apoll_prediction(credentials, endless)
    except TimeoutError as error:
        tell(error)


async def all_inline(credentials: CometAPICredentials, inline: PredictionJob | None) -> None:
    if inline is None:
        return
    run = await inline.trigger({"prompt": "plain inline"})
    await run.wait_for_completion()
    await run.fetch_result()
    try:
        await inline.trigger({"prompt": "create-repeats-401 inline"})
    except CometAPIError as error:
        tell(error)
    for cached in CACHED:
        attempt(partial(cached, credentials, inline, f"inline {cached.name}"))
    attempt(lambda: in_the_background.delay(inline.credentials, inline))


# --- Ctrl-C -----------------------------------------------------------------------------------

AT_A_STOP: Any = {"on_cancellation": [cancel_predictions], "on_crashed": [cancel_predictions]}


@flow(**AT_A_STOP)
def stopped(credentials: CometAPICredentials, files: str) -> None:
    futures = [
        generate.submit(credentials, MODEL, picture(f"prediction.endless thread {n}"), files)
        for n in range(2)
    ]
    generate(credentials, MODEL, picture("prediction.endless env"), files)
    print(futures)


@flow(**AT_A_STOP)
async def async_stopped(credentials: CometAPICredentials, files: str) -> None:
    prompts = ("prediction.endless one", "prediction.endless block")
    await asyncio.gather(*(agenerate(credentials, MODEL, picture(p), files) for p in prompts))


# --- the process ------------------------------------------------------------------------------


def loaded(how: str) -> tuple[Any, Any, Any]:
    """Credentials, a job with them, and one whose credentials are its own."""
    if how == "env":
        credentials = CometAPICredentials.from_env()
        job = PredictionJob(credentials=credentials, model=MODEL, input=picture("plain job"))
        return credentials, job, None
    return (
        CometAPICredentials.load("marked"),
        PredictionJob.load("nested"),
        PredictionJob.load("inline"),
    )


def main(how: str, what: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner may ignore it
    open_outlets()
    credentials, job, inline = loaded(how)
    try:
        if what == "gallery":
            attempt(lambda: asyncio.run(async_gallery(credentials, inline, "pictures")))
            named: Any = gallery.with_options(flow_run_name=os.environ["RUN_NAME"])
            attempt(lambda: named(credentials, job, "pictures"))
            after(credentials, job)
        elif how == "env":
            stopped(credentials, "pictures")
        else:
            asyncio.run(async_stopped(credentials, "pictures"))
    except (KeyboardInterrupt, asyncio.CancelledError, CometAPIError) as error:
        tell(error)
    finally:
        close_outlets()


if __name__ == "__main__":
    main(*sys.argv[1:])
