"""The job block: a model, its input, credentials and storage, saved and edited in the UI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from uuid import UUID

from prefect.blocks.abstract import JobBlock, JobRun
from prefect.context import FlowRunContext, TaskRunContext
from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    field_validator,
    model_validator,
)

from prefect_cometapi import lifecycle, orders, portal, submission
from prefect_cometapi.credentials import DOCUMENTATION_URL, LOGO_URL, CometAPICredentials
from prefect_cometapi.models import Generation, Prediction
from prefect_cometapi.orders import OnInDoubt, Order
from prefect_cometapi.reports import of_prediction, of_saving
from prefect_cometapi.settings import forgetting_inputs
from prefect_cometapi.storage import check_prefix, check_writable
from prefect_cometapi.urls import check_model

T = TypeVar("T")


def _dispatch(function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> Any:
    """The result in sync code, a coroutine of it in async code.

    Prefect's abstract methods are async under their plain names, and its users call them from
    sync flows all the same. As in Prefect itself, the innermost run decides; where that does not
    fit (`asyncio.run` inside a sync flow), the methods with an `a` in front are always async.
    """
    in_async_code = asyncio._get_running_loop() is not None
    if in_async_code:
        task, flow = TaskRunContext.get(), FlowRunContext.get()
        if task and not (flow and flow.flow_run and _is_inside(flow.flow_run.id, task)):
            in_async_code = task.task.isasync
        elif flow and flow.flow:
            in_async_code = flow.flow.isasync
    return function(*args) if in_async_code else portal.call(function, *args)


def _is_inside(flow_run_id: UUID, task: TaskRunContext) -> bool:
    """True where a flow run was started by a task run, and not the other way round."""
    return task.task_run.flow_run_id != flow_run_id


#: The UI's fields take several lines, and keep the last line's end.
Line = Annotated[str, StringConstraints(strip_whitespace=True)]

if TYPE_CHECKING:
    _Job = JobBlock[Generation]
else:  # spelled out, it would be a block type of its own, which the UI offers to create
    _Job = JobBlock


class PredictionJob(_Job):
    """Stores a ready-to-run prediction: model, input, credentials and storage.

    Example:
        Run a saved job, in sync code:
        ```python
        from prefect import flow
        from prefect_cometapi import PredictionJob

        @flow
        def nightly_boat():
            job = PredictionJob.load("BLOCK_NAME")
            run = job.trigger()
            run.wait_for_completion()
            return run.fetch_result()
        ```
        In async code, await `aload`, `trigger`, `wait_for_completion` and `fetch_result`.
    """

    _block_type_name = "CometAPI Prediction Job"
    _block_type_slug = "cometapi-prediction-job"
    _logo_url = LOGO_URL
    _documentation_url = DOCUMENTATION_URL

    # A rejected value may be a key, also where the credentials are plain data.
    model_config = ConfigDict(hide_input_in_errors=True)

    credentials: CometAPICredentials = Field(
        title="Credentials",
        description=(
            "The key, and the API that it belongs to. Whenever you edit a saved job, choose them "
            "again: the V2 UI of Prefect 3.8 forgets them."
        ),
    )
    model: Line = Field(
        description="As owner/name, such as black-forest-labs/flux-schnell.",
        examples=["black-forest-labs/flux-schnell"],
    )
    input: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            'What the model takes, as JSON, such as {"prompt": "A paper boat", "aspect_ratio": '
            '"16:9"}. What is given to trigger() is laid over it.'
        ),
        examples=[{"prompt": "A paper boat", "aspect_ratio": "16:9"}],
    )
    storage: Line = Field(
        default="pictures",
        description=(
            "Where outputs go: a folder where the flow runs, or a saved block as "
            "block://type-slug/name, such as block://s3-bucket/pictures."
        ),
    )
    prefix: Line = Field(
        default="",
        title="Folder in the storage",
        description="A relative path in front of the files' names, such as boats/large.",
    )
    provenance: bool = Field(
        default=False,
        description="Write beside each file, as JSON, where it came from.",
    )
    timeout: float = Field(
        default=600.0,
        gt=0,
        allow_inf_nan=False,
        title="Time-out in seconds",
        description=(
            "How long to wait for a prediction, from its creation. It goes on after that, and can "
            "still be collected."
        ),
    )

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str) -> str:
        return check_model(value)

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        return check_prefix(value)

    @model_validator(mode="wrap")
    @classmethod
    def _forget(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        with forgetting_inputs():
            return validate(data)

    # Typed Any: it is a PredictionRun in sync code and an awaitable of one in async code.
    def trigger(
        self,
        input: dict[str, Any] | None = None,
        sample: int = 0,
        *,
        scope: str | None = None,
        key: str | None = None,
        on_in_doubt: OnInDoubt = "raise",
    ) -> Any:
        """Create the prediction; `await` it in async code. See `atrigger`."""
        return _dispatch(
            lambda: self.atrigger(input, sample, scope=scope, key=key, on_in_doubt=on_in_doubt)
        )

    async def atrigger(
        self,
        input: dict[str, Any] | None = None,
        sample: int = 0,
        *,
        scope: str | None = None,
        key: str | None = None,
        on_in_doubt: OnInDoubt = "raise",
    ) -> PredictionRun:
        """Check the storage, then create the prediction.

        Args:
            input: Parameters that are laid over the stored ones.
            sample: Tells equal requests of one scope apart; see `create_prediction`, also for the
                rest.
            scope: What shares predictions.
            key: Your own name for the request, in place of the input.
            on_in_doubt: What to do where a create may or may not have been accepted.

        Returns:
            The run, to wait for and to fetch results from.

        Raises:
            StorageError: The storage can not be written to; nothing was sent.
            CometAPIError: Whatever `create_prediction` raises.
        """
        orders.check_request(self.model, input or {}, sample)
        order = Order(
            model=self.model,
            input=self.input | (input or {}),
            sample=sample,
            key=key,
            scope=scope,
            on_in_doubt=on_in_doubt,
            credentials=self.credentials._block_document_name,
        )
        order.check()
        await check_writable(self.storage, self.prefix)
        client = self.credentials.get_client()
        observer = of_prediction(client.settings)
        prediction = await submission.submit(client, order, observer=observer)
        return PredictionRun(self, prediction)


class PredictionRun(JobRun[Generation]):
    """A prediction that a `PredictionJob` has created.

    Attributes:
        job: The job that created it.
        prediction: Its last known state.
    """

    def __init__(self, job: PredictionJob, prediction: Prediction) -> None:
        self.job = job
        self.prediction = prediction

    def wait_for_completion(self) -> Any:
        """Poll until it has succeeded; `await` it in async code. See `await_for_completion`."""
        return _dispatch(self.await_for_completion)

    async def await_for_completion(self) -> None:
        """Poll until it has succeeded.

        Raises:
            PredictionError: It failed, was canceled, or was not finished in time.
            RequestError: See `poll_prediction`.
        """
        client = self.job.credentials.get_client()
        self.prediction = await lifecycle.wait(
            client,
            self.prediction,
            timeout=self.job.timeout,
            observer=of_prediction(client.settings),
        )

    def fetch_result(self) -> Any:
        """Save the outputs; `await` it in async code. See `afetch_result`."""
        return _dispatch(self.afetch_result)

    async def afetch_result(self) -> Generation:
        """Save the outputs of the completed prediction to the job's storage.

        Returns:
            The prediction and its files.

        Raises:
            InvalidInput: It has not succeeded; wait for its completion first.
            OutputError: See `save_outputs`.
        """
        client = self.job.credentials.get_client()
        files = await lifecycle.save(
            client,
            self.prediction,
            self.job.storage,
            prefix=self.job.prefix,
            provenance=self.job.provenance,
            observer=of_saving(client.settings, prediction=self.prediction),
        )
        return Generation(prediction=self.prediction, files=files)
