"""The task that does all of it for one prediction: create, poll, save."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_cometapi import lifecycle, portal
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.lifecycle import OnTimeout
from prefect_cometapi.lineage import Sources
from prefect_cometapi.models import Generation
from prefect_cometapi.orders import OnInDoubt
from prefect_cometapi.reports import of_saving
from prefect_cometapi.storage import Storage
from prefect_cometapi.tasks import client_for, order_for, run_name


@task(name="Generate", task_run_name=run_name("generate"), cache_policy=NO_CACHE)
def generate(
    credentials: CometAPICredentials,
    model: str,
    input: dict[str, Any],
    storage: Storage,
    *,
    prefix: str = "",
    provenance: bool = False,
    sources: Sources = (),
    scope: str | None = None,
    key: str | None = None,
    sample: int = 0,
    attempts: int = 1,
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
    on_in_doubt: OnInDoubt = "raise",
) -> Generation:
    """Create a prediction, poll it until done and save its outputs, in one task run.

    Everything that can be checked is checked first, the storage included. A retried run goes on
    with the prediction that it has paid for.

    Args:
        credentials: The key, and the API that it belongs to.
        model: The model, as `owner/name`.
        input: The model's parameters.
        storage: Where the outputs go; see `save_outputs`.
        prefix: A relative path in front of the file names.
        provenance: Write beside each file where it came from; see `save_outputs`, also for the
            next.
        sources: Tables or files that the input came from.
        scope: What shares predictions; see `create_prediction`, also for the next two.
        key: Your own name for the request, in place of the input.
        sample: Tells equal requests of one scope apart.
        attempts: How many predictions to pay for at most, where one fails. What a content filter
            refused is not tried again. A retried run counts those that it finds.
        timeout: Seconds from the submission of each until its deadline.
        on_timeout: At the deadline, `leave` it running (it can be collected) or `cancel` it.
        on_in_doubt: What to do where a create may or may not have been accepted: `raise`, or
            `resubmit` it (once a call), which may pay twice.

    Returns:
        The prediction and its files.

    Raises:
        InvalidInput: Refused before anything was sent.
        StorageError: The storage can not be written to; before the create, nothing was sent.
        CometAPIError: Whatever `create_prediction`, `poll_prediction` and `save_outputs` raise.
    """
    order = order_for(
        credentials, model, input, scope=scope, key=key, sample=sample, on_in_doubt=on_in_doubt
    )
    client = client_for(credentials)
    return portal.call(
        lifecycle.generate,
        client,
        order,
        storage,
        prefix=prefix,
        provenance=provenance,
        timeout=timeout,
        on_timeout=on_timeout,
        attempts=attempts,
        observer=of_saving(client.settings, sources),
    )


@task(name="Generate", task_run_name=run_name("generate"), cache_policy=NO_CACHE)
async def agenerate(
    credentials: CometAPICredentials,
    model: str,
    input: dict[str, Any],
    storage: Storage,
    *,
    prefix: str = "",
    provenance: bool = False,
    sources: Sources = (),
    scope: str | None = None,
    key: str | None = None,
    sample: int = 0,
    attempts: int = 1,
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
    on_in_doubt: OnInDoubt = "raise",
) -> Generation:
    """Async twin of `generate`."""
    order = order_for(
        credentials, model, input, scope=scope, key=key, sample=sample, on_in_doubt=on_in_doubt
    )
    client = client_for(credentials)
    return await lifecycle.generate(
        client,
        order,
        storage,
        prefix=prefix,
        provenance=provenance,
        timeout=timeout,
        on_timeout=on_timeout,
        attempts=attempts,
        observer=of_saving(client.settings, sources),
    )
