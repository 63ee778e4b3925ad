"""The task that has a language model write prompts, and its async twin."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_cometapi import portal
from prefect_cometapi.batch_models import PredictionRequest
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.prompt_writing import write_prompts
from prefect_cometapi.run_log import RunLog
from prefect_cometapi.storage import Storage
from prefect_cometapi.tasks import client_for, run_name


@task(name="Generate prompts", task_run_name=run_name("prompts"), cache_policy=NO_CACHE)
def generate_prompts(
    credentials: CometAPICredentials,
    brief: str,
    n: int,
    *,
    model: str = "gpt-5-mini",
    input: dict[str, Any] | None = None,
    storage: Storage | None = None,
    scope: str | None = None,
    sample: int = 0,
    local_storage: bool = False,
) -> list[PredictionRequest]:
    """Have a language model write prompts, once: a retried run gets the same ones.

    What it wrote is kept as a small JSON file in `storage` before it is returned, because other
    prompts would be other predictions, paid for again. It is found again by the scope, the API,
    the model, the brief, `n`, `input` and `sample`. Each answer is kept when it comes, and one
    process at a time asks: who comes meanwhile waits, and has the same prompts.

    Args:
        credentials: The key, and the API that it belongs to.
        brief: What the prompts are to be about, in your words.
        n: How many, up to 1,000. That many are returned, all different, or an error is raised.
        model: The language model, as `/v1/chat/completions` of the API names it.
        input: What else belongs into the input of each prediction, such as `{"seed": 1}`.
        storage: Where they are kept (`prompts/…`); by default in the storage block that the setting
            `ledger` names, else where Prefect keeps the results of the run.
        scope: What shares prompts: the root flow run by default, so that its retries do; a name of
            yours, such as a date, is shared by all that use it.
        sample: Tells equal calls of one scope apart: 0, 1, 2, …
        local_storage: In a deployed run, a folder of the machine is refused from 100 prompts on,
            because it may go with the machine, and the prompts with it. True allows it.

    Returns:
        The requests for `run_predictions`, whose `origin` says who wrote them, and for which brief.

    Raises:
        InvalidInput: Refused before anything was sent.
        PromptsNotWritten: The model did not bring so many after several rounds. What it brought is
            kept, and the same call asks for the rest.
        StorageError: The storage can not be used, or what is kept there can not be read.
        LedgerError: Prefect's server could not be used, which says whose run this is, and who is
            asking. Or another process has taken over, because this one was not heard of for long.
        RequestError: The model could not be asked; `AccountError`, `ModelNotFound` and the rest
            say why.
    """
    return portal.call(
        write_prompts,
        client_for(credentials),
        brief,
        n,
        model=model,
        input=input,
        storage=storage,
        scope=scope,
        sample=sample,
        local_storage=local_storage,
        log=RunLog().log,
    )


@task(name="Generate prompts", task_run_name=run_name("prompts"), cache_policy=NO_CACHE)
async def agenerate_prompts(
    credentials: CometAPICredentials,
    brief: str,
    n: int,
    *,
    model: str = "gpt-5-mini",
    input: dict[str, Any] | None = None,
    storage: Storage | None = None,
    scope: str | None = None,
    sample: int = 0,
    local_storage: bool = False,
) -> list[PredictionRequest]:
    """Async twin of `generate_prompts`."""
    return await write_prompts(
        client_for(credentials),
        brief,
        n,
        model=model,
        input=input,
        storage=storage,
        scope=scope,
        sample=sample,
        local_storage=local_storage,
        log=RunLog().log,
    )
