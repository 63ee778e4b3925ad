"""The tasks. Each has an async twin with an `a` in front; credentials always come first.

None of them is cached: a state that is read twice is meant to be read twice, and what has been
paid for is remembered by the ledger, not by task results. They need no Prefect retries to get
over a hiccup of the network, and with retries they do not pay twice.
"""

from __future__ import annotations

from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from prefect_cometapi import lifecycle, portal, submission
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.lifecycle import OnTimeout
from prefect_cometapi.lineage import Sources
from prefect_cometapi.models import (
    Cancellation,
    Prediction,
    PredictionStatus,
    SavedFile,
)
from prefect_cometapi.orders import OnInDoubt, Order
from prefect_cometapi.reports import of_prediction, of_saving
from prefect_cometapi.storage import Storage
from prefect_cometapi.urls import check_prediction_id


def run_name(verb: str) -> Any:
    """A function that names a task run after its model, id and sample, where it has them."""

    def name() -> str:
        parameters = runtime.task_run.parameters
        target = parameters.get("prediction", parameters.get("prediction_or_id"))
        words = [verb, parameters.get("model")]
        if isinstance(target, Prediction):
            words += [target.model, target.id]
        elif isinstance(target, str):
            words.append(target)
        words.append(parameters.get("key"))
        if sample := parameters.get("sample"):
            words.append(f"sample {sample}")
        return " ".join(str(word) for word in words if word)

    return name


def _checked(credentials: CometAPICredentials) -> CometAPICredentials:
    if not isinstance(credentials, CometAPICredentials):
        raise InvalidInput(
            f"The credentials are a {type(credentials).__name__}; load a block first: "
            'CometAPICredentials.load("default"). Nothing was sent.'
        )
    return credentials


def order_for(
    credentials: CometAPICredentials,
    model: str,
    input: dict[str, Any],
    *,
    scope: str | None,
    key: str | None,
    sample: int,
    on_in_doubt: OnInDoubt,
) -> Order:
    """An order with the name of the block whose credentials are used."""
    block = _checked(credentials)._block_document_name
    return Order(model, input, sample, key, scope, on_in_doubt, credentials=block)


def client_for(credentials: CometAPICredentials) -> CometAPIClient:
    """The client of some credentials, if that is what they are."""
    return _checked(credentials).get_client()


def _known(credentials: CometAPICredentials, prediction_or_id: Prediction | str) -> Prediction:
    """What is known of a prediction before it is asked for."""
    _checked(credentials)
    if isinstance(prediction_or_id, Prediction):
        if prediction_or_id.api_root != credentials.base_url:
            raise InvalidInput(
                f"Prediction {prediction_or_id.id} was created on {prediction_or_id.api_root}, but "
                f"these credentials are for {credentials.base_url}. Nothing was sent."
            )
        check_prediction_id(prediction_or_id.id)
        return prediction_or_id
    return Prediction(
        id=check_prediction_id(prediction_or_id),
        model="",
        status=PredictionStatus.STARTING,
        api_root=credentials.base_url,
    )


def _finished(credentials: CometAPICredentials, prediction: Prediction) -> Prediction:
    if not isinstance(prediction, Prediction):
        raise InvalidInput(
            f"Outputs are saved from a Prediction, as poll_prediction() returns it, not from "
            f"a {type(prediction).__name__}."
        )
    return _known(credentials, prediction)


# --- create -----------------------------------------------------------------------------------


@task(name="Create prediction", task_run_name=run_name("create"), cache_policy=NO_CACHE)
def create_prediction(
    credentials: CometAPICredentials,
    model: str,
    input: dict[str, Any],
    *,
    scope: str | None = None,
    key: str | None = None,
    sample: int = 0,
    on_in_doubt: OnInDoubt = "raise",
) -> Prediction:
    """Create a prediction, which costs money once the service has accepted it.

    In one flow run, equal arguments are one prediction: a retried, resumed or restarted run finds
    what it created before instead of paying again. So does a second equal call in the same run;
    pass `sample=1`, `2`, … for more of the same.

    Args:
        credentials: The key, and the API that it belongs to.
        model: The model, as `owner/name`.
        input: The model's parameters, such as `{"prompt": "A paper boat"}`.
        scope: What shares predictions. By default the root flow run, so that retries share and
            separate runs do not; a name of yours, such as a date, is shared by all that use it.
        key: Your own name for the request, such as a row's id, in place of the input: for inputs
            that change without meaning to, such as presigned URLs.
        sample: Tells equal requests of one scope apart.
        on_in_doubt: What to do where an earlier create may or may not have been accepted: `raise`,
            or `resubmit` it (once a call), which may pay twice.

    Returns:
        The prediction, usually `starting`.

    Raises:
        InvalidInput: Refused before anything was sent.
        LedgerError: It could not be asked what exists already; nothing was sent.
        SubmissionInDoubt: It may have been accepted; it is not sent again. Says what to do.
        RequestError: It was not accepted; `AccountError`, `InputRejected`, `ModelNotFound` and
            the rest say why.
    """
    order = order_for(
        credentials, model, input, scope=scope, key=key, sample=sample, on_in_doubt=on_in_doubt
    )
    client = client_for(credentials)
    observer = of_prediction(client.settings)
    return portal.call(submission.submit, client, order, observer=observer)


@task(name="Create prediction", task_run_name=run_name("create"), cache_policy=NO_CACHE)
async def acreate_prediction(
    credentials: CometAPICredentials,
    model: str,
    input: dict[str, Any],
    *,
    scope: str | None = None,
    key: str | None = None,
    sample: int = 0,
    on_in_doubt: OnInDoubt = "raise",
) -> Prediction:
    """Async twin of `create_prediction`."""
    order = order_for(
        credentials, model, input, scope=scope, key=key, sample=sample, on_in_doubt=on_in_doubt
    )
    client = client_for(credentials)
    return await submission.submit(client, order, observer=of_prediction(client.settings))


# --- poll, get, cancel ------------------------------------------------------------------------


@task(name="Poll prediction", task_run_name=run_name("poll"), cache_policy=NO_CACHE)
def poll_prediction(
    credentials: CometAPICredentials,
    prediction_or_id: Prediction | str,
    *,
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
) -> Prediction:
    """Poll a prediction until it has succeeded.

    A poll that fails or hangs never fails the prediction before its deadline. When a person stops
    the run (Ctrl-C, or Cancel in the UI), the service is asked to cancel the prediction.

    Args:
        credentials: The key, and the API that it belongs to.
        prediction_or_id: The prediction, or its id.
        timeout: Seconds until the deadline: from the submission of a `Prediction`, so that a
            retried run does not wait all over again; from now for an id.
        on_timeout: At the deadline, `leave` it running (it can be collected) or `cancel` it.

    Returns:
        The prediction, succeeded, with its outputs.

    Raises:
        PredictionFailed: It failed or was aborted; with the service's words and its last log lines.
            `ContentRefused` where its filter refused the content.
        PredictionCanceled: It was canceled.
        PredictionTimeout: It was not finished in time. It goes on, and can be polled again.
        PredictionNotFound: The service does not know it.
        AccountError: The key is not accepted (any more). The prediction goes on.
        InvalidInput: The id or the time-out can not be right.
    """
    known = _known(credentials, prediction_or_id)
    client = client_for(credentials)
    return portal.call(
        lifecycle.wait,
        client,
        known,
        timeout=timeout,
        on_timeout=on_timeout,
        observer=of_prediction(client.settings),
    )


@task(name="Poll prediction", task_run_name=run_name("poll"), cache_policy=NO_CACHE)
async def apoll_prediction(
    credentials: CometAPICredentials,
    prediction_or_id: Prediction | str,
    *,
    timeout: float = 600.0,
    on_timeout: OnTimeout = "leave",
) -> Prediction:
    """Async twin of `poll_prediction`."""
    known = _known(credentials, prediction_or_id)
    client = client_for(credentials)
    return await lifecycle.wait(
        client,
        known,
        timeout=timeout,
        on_timeout=on_timeout,
        observer=of_prediction(client.settings),
    )


@task(name="Get prediction", task_run_name=run_name("get"), cache_policy=NO_CACHE)
def get_prediction(
    credentials: CometAPICredentials, prediction_or_id: Prediction | str
) -> Prediction:
    """Ask once for a prediction's state, whatever it is.

    Raises:
        PredictionNotFound: The service does not know it (for some seconds after the create it
            may not know it yet).
        RequestError: No usable answer came.
        InvalidInput: That can not be a prediction id.
    """
    known = _known(credentials, prediction_or_id)
    client = client_for(credentials)
    return portal.call(lifecycle.get, client, known, observer=of_prediction(client.settings))


@task(name="Get prediction", task_run_name=run_name("get"), cache_policy=NO_CACHE)
async def aget_prediction(
    credentials: CometAPICredentials, prediction_or_id: Prediction | str
) -> Prediction:
    """Async twin of `get_prediction`."""
    known = _known(credentials, prediction_or_id)
    client = client_for(credentials)
    return await lifecycle.get(client, known, observer=of_prediction(client.settings))


@task(name="Cancel prediction", task_run_name=run_name("cancel"), cache_policy=NO_CACHE)
def cancel_prediction(
    credentials: CometAPICredentials, prediction_or_id: Prediction | str
) -> Cancellation:
    """Ask the service, once and for at most 10 s, to cancel a prediction.

    Best effort: the result says whether the service accepted it. Nobody has confirmed yet that
    CometAPI forwards Replicate's cancel. What ran until then is billed.

    Raises:
        InvalidInput: That can not be a prediction id; nothing was sent.
    """
    known = _known(credentials, prediction_or_id)
    client = client_for(credentials)
    return portal.call(lifecycle.cancel, client, known, observer=of_prediction(client.settings))


@task(name="Cancel prediction", task_run_name=run_name("cancel"), cache_policy=NO_CACHE)
async def acancel_prediction(
    credentials: CometAPICredentials, prediction_or_id: Prediction | str
) -> Cancellation:
    """Async twin of `cancel_prediction`."""
    known = _known(credentials, prediction_or_id)
    client = client_for(credentials)
    return await lifecycle.cancel(client, known, observer=of_prediction(client.settings))


# --- save -------------------------------------------------------------------------------------


@task(name="Save outputs", task_run_name=run_name("save"), cache_policy=NO_CACHE)
def save_outputs(
    credentials: CometAPICredentials,
    prediction: Prediction,
    storage: Storage,
    *,
    prefix: str = "",
    provenance: bool = False,
    sources: Sources = (),
) -> list[SavedFile]:
    """Save every output of a prediction that has succeeded, while the service still has it.

    Outputs are fetched without the key, streamed, held to a size limit and to their declared
    length, recognised by their first bytes and hashed. Names are
    `<prefix>/<prediction id>-<n>.<extension>`, so saving again writes the same names.

    Args:
        credentials: The API that the prediction belongs to.
        prediction: The prediction, as `poll_prediction` returned it.
        storage: A folder, any Prefect `WritableFileSystem` or `ObjectStorageBlock`, or a saved one
            as `block://type-slug/name`. In folders and object stores a file is there whole or
            not at all. File system blocks take only whole files in memory, and have a lower limit.
        prefix: A relative path in front of the names, such as `2026-11-22`.
        provenance: Write beside each file, as `<its name>.provenance.json`, where it came from.
        sources: Tables or files that the input came from, as keys of assets, such as
            `postgresql://host/shop/products`: Prefect is told that the folder is made from them.

    Returns:
        The files, in the order of the outputs: images and other URLs each as a file, text and
        text tokens as one `.txt`, numbers and objects as `.json`.

    Raises:
        InvalidInput: It has not succeeded, or the prefix leads out of the storage.
        OutputExpired: The service has deleted the outputs, one hour after completion.
        OutputRefused: A URL that may not be fetched, or a file over the limit.
        OutputDamaged: A file arrived cut short, empty, or is not what it claims to be.
        StorageError: The storage did not take a file, or its provenance; what is saved stays so.
    """
    known = _finished(credentials, prediction)
    client = client_for(credentials)
    return portal.call(
        lifecycle.save,
        client,
        known,
        storage,
        prefix=prefix,
        provenance=provenance,
        observer=of_saving(client.settings, sources, known),
    )


@task(name="Save outputs", task_run_name=run_name("save"), cache_policy=NO_CACHE)
async def asave_outputs(
    credentials: CometAPICredentials,
    prediction: Prediction,
    storage: Storage,
    *,
    prefix: str = "",
    provenance: bool = False,
    sources: Sources = (),
) -> list[SavedFile]:
    """Async twin of `save_outputs`."""
    known = _finished(credentials, prediction)
    client = client_for(credentials)
    return await lifecycle.save(
        client,
        known,
        storage,
        prefix=prefix,
        provenance=provenance,
        observer=of_saving(client.settings, sources, known),
    )
