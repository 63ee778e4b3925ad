"""Artifacts on Prefect's server: whose they are, what they are called, and sending them.

Nothing here fails the work, or holds it up for long.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

from prefect.artifacts import Artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from prefect_cometapi.artifact_keys import Kind, Numbers, Whose, base_of, key_of
from prefect_cometapi.prefect_api import ask

T = TypeVar("T")

#: Seconds that one artifact may take, its wait for others included.
SEND_TIMEOUT = 10.0
#: Names of deployments, by their ids, as far as this process has asked for them.
_deployments: dict[UUID, str] = {}
_MANY = 1_000
_numbers = Numbers()
#: What the log of a run has been told to be missing.
_told: dict[tuple[UUID | None, str], None] = {}


def in_run() -> bool:
    """Whether this is part of a run, which alone can have artifacts."""
    return bool(FlowRunContext.get() or TaskRunContext.get())


async def whose() -> Whose:
    """Whose artifacts are made here."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    name = flow.flow.name if flow and flow.flow else ""
    return Whose(name, await _deployment(), task.task.name if task else "")


async def _deployment() -> str:
    context = FlowRunContext.get()
    deployment = context.flow_run.deployment_id if context and context.flow_run else None
    if deployment is None:
        return ""
    if deployment not in _deployments:
        if len(_deployments) >= _MANY:
            _deployments.clear()
        found = await ask(lambda client: client.read_deployment(deployment))
        _deployments[deployment] = found.name
    return _deployments[deployment]


class Keys:
    """The keys of the artifacts of one batch; asks the server for the deployment once.

    Args:
        model: Its model.
        scope: Its scope.
        planned: It is only planned: that does not count among those that are made.
    """

    def __init__(self, model: str, scope: str, *, planned: bool = False) -> None:
        self._model, self._scope, self._planned = model, scope, planned
        self._known: tuple[str, int] | None = None

    async def of(self, kind: Kind) -> str:
        """The key of one of them."""
        if self._known is None:
            base = base_of(await whose(), self._model, self._scope)
            number = _numbered(f"{base} {Kind.PLAN}" if self._planned else base)
            self._known = self._known or (base, number)
        base, number = self._known
        return key_of(base, kind, number)


def _numbered(base: str) -> int:
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run if flow else None
    alone = task.task_run.id if task else None  # a task that a worker runs without a flow
    return _numbers.take(
        (run.id, run.run_count) if run else alone,
        base,
        str(task.task_run.id) if task else "",
        task.task_run.run_count if task else 1,
    )


def _run_id() -> UUID | None:
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow and flow.flow_run:
        return flow.flow_run.id
    return task.task_run.id if task else None


async def quietly(
    work: Callable[[], Awaitable[T]], seconds: float = SEND_TIMEOUT, what: str = "The artifact"
) -> T | None:
    """Do some work within a time; None where it fails, of which the run's log has a line."""
    try:
        async with asyncio.timeout(seconds):
            return await work()
    except Exception as error:  # a picture of the work must not fail it
        reason = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) else error
        # Once: hundreds of predictions may meet the same trouble.
        about = (_run_id(), what)
        level = logging.DEBUG if about in _told else logging.WARNING
        _told[about] = None
        if len(_told) > _MANY:
            del _told[next(iter(_told))]
        with suppress(MissingContextError):
            get_run_logger().log(
                level, "%s could not be shown in Prefect; nothing else is lost. %r", what, reason
            )
        return None


async def send(artifact: Artifact) -> UUID:
    """Create an artifact of the run that this is part of."""
    created = await ask(artifact.acreate)
    return created.id


def _forget_after_fork() -> None:
    global _numbers
    _numbers = Numbers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
