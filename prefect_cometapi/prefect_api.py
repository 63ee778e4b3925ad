"""Calls to Prefect's server: one client that stays open, and whose run this is."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from logging import getLogger
from typing import TypeVar
from uuid import UUID, uuid4

import httpx
from prefect import get_client, runtime
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)

from prefect_cometapi.errors import LedgerError
from prefect_cometapi.gate import Gate
from prefect_cometapi.ledger import run_scope

T = TypeVar("T")

#: Seconds that Prefect's temporary server may take to start: the first time on a small machine,
#: when it makes its database, it needs more than the 20 that Prefect allows.
STARTUP_TIMEOUT = 120

#: Seconds that one call may take. A server with SQLite can stand still for 60: the garbage
#: collector then waits, on its only event loop, for a statement that waits for that loop's commit.
CALL_TIMEOUT = 75.0
#: Seconds after which somebody who waits is told so, and that a call may take while the server has
#: just been silent for a whole `CALL_TIMEOUT`: those in line must not wait that long one by one.
SLOW = 10.0
#: How often a request that finds SQLite busy is sent again soon, before Prefect's own pauses of
#: 8 s and more, which are for a server that restarts.
SOON = 2


async def ask(
    question: Callable[[PrefectClient], Awaitable[T]], *, queue: bool = True, urgent: bool = False
) -> T:
    """Ask Prefect's server something.

    Args:
        question: What to do with a client.
        queue: One question of this process at a time: SQLite answers writes side by side with
            "busy", and Prefect's client then waits for seconds.
        urgent: Before those in line that are not.

    Raises:
        TimeoutError: There was no answer within `CALL_TIMEOUT`.
        Exception: Whatever Prefect's client raises.
    """
    global _silent_until
    async with _line().turn(0.0 if urgent else 1.0) if queue else nullcontext():
        client = await _client()  # which may first start Prefect's temporary server, in its time
        limit = CALL_TIMEOUT if time.monotonic() > _silent_until else min(SLOW, CALL_TIMEOUT)
        slow = asyncio.get_running_loop().call_later(SLOW, _tell_slow, limit)
        _silent_until = -math.inf  # an error is an answer, too
        try:
            async with asyncio.timeout(limit):
                return await question(client)
        except TimeoutError:
            _silent_until = time.monotonic() + CALL_TIMEOUT
            raise
        finally:
            slow.cancel()


def _tell_slow(limit: float) -> None:
    if limit > SLOW:
        getLogger("prefect_cometapi").warning(
            "Prefect's server has not answered for %g s; waiting for up to %g s. With SQLite it "
            "can stand still for a minute when many write at once; with PostgreSQL it does not.",
            SLOW,
            limit,
        )


def which_server() -> tuple[object, ...]:
    """What tells one Prefect server from another; the settings' own hash costs 45 ms of CPU."""
    api = get_current_settings().api
    return (api.url, api.key, api.auth_string, get_current_settings().home)


#: While calls may take less, because one has just got no answer.
_silent_until = -math.inf
_clients: dict[tuple[object, ...], PrefectClient] = {}
_lines: dict[object, Gate] = {}


def _line() -> Gate:
    return _lines.setdefault(asyncio.get_running_loop(), Gate(1))


async def _client() -> PrefectClient:
    """A client that stays open: making one costs 20 ms of CPU each time."""
    key = (asyncio.get_running_loop(), *which_server())
    if key not in _clients:
        hooks = {"event_hooks": {"response": [_soon_again]}}
        client = await get_client(httpx_settings=hooks).__aenter__()
        if _clients.setdefault(key, client) is not client:  # somebody was quicker
            await client.__aexit__(None, None, None)
    return _clients[key]


async def _soon_again(response: httpx.Response) -> None:
    # SQLite is busy for milliseconds, after which Prefect's client would wait for 2 s and more.
    if response.status_code == 503:
        busy = response.request.extensions.get("prefect_cometapi.busy", 0) + 1
        response.request.extensions["prefect_cometapi.busy"] = busy
        if busy <= SOON:
            response.headers.setdefault("Retry-After", "0.3")


# --- whose run this is ------------------------------------------------------------------------

#: From a flow run up to its root. Bounded, because a worker process may see many.
_lineages: dict[UUID, tuple[UUID, ...]] = {}
#: The deployments of flow runs that have one. Bounded likewise.
_deployments: dict[UUID, UUID] = {}
_MANY = 1000


async def lineage() -> tuple[UUID, ...]:
    """The flow runs that this code runs in: its own first, its root last; empty outside of one.

    Raises:
        LedgerError: Prefect's server could not be asked.
    """
    if not (own := runtime.flow_run.id):
        return ()
    run_id = UUID(own)
    context = FlowRunContext.get()
    known = context.flow_run if context else None
    if known and known.id == run_id and known.parent_task_run_id is None:
        return (run_id,)
    if run_id not in _lineages:
        try:
            found = await ask(lambda client: _ancestors(client, run_id))
        except Exception as error:
            raise LedgerError(
                f"Prefect's server could not be asked for the root of this run ({error}), which "
                "says what has been paid for already. Nothing was sent. Check PREFECT_API_URL."
            ) from error
        if len(_lineages) >= _MANY:
            _lineages.clear()
            _deployments.clear()
        _lineages[run_id] = found
    return _lineages[run_id]


async def _ancestors(client: PrefectClient, run_id: UUID) -> tuple[UUID, ...]:
    found: list[UUID] = []
    next_up: UUID | None = run_id
    while next_up is not None:
        found.append(next_up)
        run = await client.read_flow_run(next_up)
        if run.deployment_id:
            _deployments[next_up] = run.deployment_id
        if run.parent_task_run_id is None:
            break
        next_up = (await client.read_task_run(run.parent_task_run_id)).flow_run_id
    return tuple(found)


async def current_scope() -> str:
    """What shares predictions by default: the root flow run, else the task run, else this call.

    Raises:
        LedgerError: Prefect's server could not be asked for the root of a subflow.
    """
    if runs := await lineage():
        return run_scope(runs[-1])
    if context := TaskRunContext.get():
        # A user's task around this one keeps its id when it is retried; this one gets a new id.
        parents = context.task_run.task_inputs.get("__parents__") or []
        outer = getattr(parents[0], "id", None) if parents else None
        return f"task-run:{outer or context.task_run.id}"
    return f"call:{uuid4()}"


async def deployment_id() -> str | None:
    """The deployment that this run was started by, or the run that it is a subflow of.

    None where there is none, or where that can not be known within `SLOW`: it never raises.
    `runtime.deployment.id` does, and holds up the loop that it is asked on.
    """
    if stand_in := os.environ.get("PREFECT__RUNTIME__DEPLOYMENT__ID"):  # Prefect's own, for tests
        return stand_in
    context, found = FlowRunContext.get(), None
    known = context.flow_run if context else None
    if known and known.deployment_id:
        return str(known.deployment_id)
    with suppress(LedgerError, TimeoutError):
        async with asyncio.timeout(SLOW):
            found = next((each for each in map(_deployments.get, await lineage()) if each), None)
    return str(found) if found else None


async def flow_run_state(run_id: UUID) -> State | None:
    """The state that the server has for a flow run; None where it does not say."""
    try:
        return (await ask(lambda client: client.read_flow_run(run_id), queue=False)).state
    except Exception:
        return None


def reach_server() -> None:
    """Start Prefect's temporary server, where there is no other."""
    if PREFECT_API_URL.value():
        return
    with temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: STARTUP_TIMEOUT}):
        get_client(sync_client=True)


def start_temporary_server() -> None:
    """Start Prefect's temporary server, where `PREFECT_API_URL` names no other: for scripts.

    Out of the reach of Ctrl-C, which a terminal sends to all processes of a command: what a flow
    cancels then still has to be written down. It may take two minutes, which it needs the first
    time on a small machine.
    """
    if not PREFECT_API_URL.value():
        # Its telemetry meets a busy database at the start, and logs two tracebacks about that.
        os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    with _no_interruption():  # what is started inherits it
        reach_server()


@contextmanager
def _no_interruption() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
