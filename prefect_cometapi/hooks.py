"""The flow hook that cancels predictions whose process can not do it any more."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger

from prefect_cometapi import portal, settlement
from prefect_cometapi.client import CANCEL_TIMEOUT, CometAPIClient
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.errors import CometAPIError, LedgerError
from prefect_cometapi.ledger import Record, run_scope
from prefect_cometapi.ledgers import EveryLedger
from prefect_cometapi.observer import Observer
from prefect_cometapi.prefect_api import flow_run_state
from prefect_cometapi.records import StoredRecords
from prefect_cometapi.reports import of_stopped_run
from prefect_cometapi.run_log import Log
from prefect_cometapi.settings import load_settings
from prefect_cometapi.stops import at_rest, ctrl_c_was_pressed

#: What Prefect says of a run that Ctrl-C has ended.
_CTRL_C = "aborted by an interrupt signal"


def cancel_predictions(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Ask the service to cancel what a canceled flow run has left running.

        @flow(on_cancellation=[cancel_predictions], on_crashed=[cancel_predictions])

    A run cancels its own predictions while its process lives. This hook is for the process that
    was killed first, as Prefect does with tasks in threads: it runs in the worker, finds the
    predictions in the ledger, and the credentials by the name of their saved block, or in the
    worker's environment. Of crashed runs only those count that Ctrl-C has ended. One attempt each,
    at most 10 s for all (and 10 to find them, where the ledger is a storage block).

    Args:
        flow: The flow; Prefect passes it.
        flow_run: Its run.
        state: What has become of it.
    """
    log: Log = flow_run_logger(flow_run, flow)
    if state.is_crashed():
        # Of async flows Prefect does not say it, but a script's hooks run in its own process.
        by_a_person = _CTRL_C in (state.message or "") or ctrl_c_was_pressed(flow_run.start_time)
    else:
        # A runner that is shut down itself passes "Cancelling" without anybody having asked for it.
        said = portal.call(flow_run_state, flow_run.id)
        if said is None:
            log.warning(
                "Prefect's server does not say whether a person stopped this run, so no prediction "
                "is canceled. What is left running: python -m prefect_cometapi ledger list "
                "--unsaved --scope %s",
                run_scope(flow_run.id),
            )
            return
        by_a_person = said.is_cancelling() or said.is_cancelled()
    if not by_a_person:
        log.debug("No prediction is canceled: nobody asked to stop this run.")
        return
    portal.call(at_rest, flow_run.id)  # in a script; elsewhere there is nothing to wait for
    try:
        portal.call(_cancel_all, flow_run, log)
    except CometAPIError as error:
        log.warning("The predictions of this run could not be canceled. %s", error)


async def _cancel_all(flow_run: FlowRun, log: Log) -> None:
    settings = load_settings()
    observer = of_stopped_run(settings, log, flow_run)
    async with EveryLedger(settings.ledger) as ledger:
        await _cancel_those(ledger, run_scope(flow_run.id), log, observer)


async def _cancel_those(ledger: EveryLedger, scope: str, log: Log, observer: Observer) -> None:
    try:
        async with asyncio.timeout(CANCEL_TIMEOUT):
            found = await ledger.records(scope)
    except TimeoutError:
        raise LedgerError(f"The ledger did not answer within {CANCEL_TIMEOUT:g} s.") from None
    doubtful = sum(
        not record or not (record.prediction_id or record.outcome) for record in found.values()
    )
    if isinstance(ledger.home, StoredRecords):  # files are in the folder of their own scope=
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT):
                found |= await ledger.home.records()
    running = {
        key: record
        for key, record in found.items()
        if record
        and scope in record.tags
        and record.prediction_id
        and not (record.outcome or record.cancel_asked)
    }
    if doubtful:
        log.warning(
            "%d creates of this run have no id: perhaps they are running, and nobody can cancel "
            "them here. See: python -m prefect_cometapi ledger list --in-doubt --scope %s",
            doubtful,
            scope,
        )
    if not running:
        log.info("No prediction of this run is known to be left running.")
        return
    with suppress(LedgerError):  # then each says so itself
        await ledger.hold(running)
    problems: dict[str, list[str]] = defaultdict(list)
    clients, turns = _Clients(), asyncio.Semaphore(settlement.CANCELS)

    async def cancel(key: str, record: Record) -> None:
        try:
            async with turns:
                client = await clients.of(record)
                await settlement.stop(client, ledger, record.prediction(key), observer)
        except Exception as error:  # one that can not be canceled does not keep the others from it
            problems[str(error)].append(str(record.prediction_id))

    tasks = [asyncio.create_task(cancel(key, record)) for key, record in running.items()]
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_TIMEOUT + settlement.SETTLE_TIMEOUT):
            await asyncio.gather(*tasks)
    if late := sum(task.cancelled() for task in tasks):
        problems[f"there was no answer within {CANCEL_TIMEOUT:g} s"].append(f"{late} of them")
    for problem, ids in problems.items():
        log.warning("Not canceled, and perhaps still running: %s. %s", ", ".join(ids), problem)


class _Clients:
    """Clients for the credentials that records were made with, each loaded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, str], asyncio.Task[CometAPIClient]] = {}

    async def of(self, record: Record) -> CometAPIClient:
        """The client that can cancel a record's prediction."""
        key = record.credentials, record.api_root
        if key not in self._known:
            self._known[key] = asyncio.create_task(self._open(record))
        return await asyncio.shield(self._known[key])

    async def _open(self, record: Record) -> CometAPIClient:
        return (await _credentials(record)).get_client()


async def _credentials(record: Record) -> CometAPICredentials:
    credentials: CometAPICredentials = (
        await CometAPICredentials.aload(record.credentials)
        if record.credentials
        else CometAPICredentials.from_env()
    )
    if credentials.base_url != record.api_root:
        raise CometAPIError(
            f"It was created on {record.api_root}, but the credentials here are for "
            f"{credentials.base_url}."
        )
    return credentials
