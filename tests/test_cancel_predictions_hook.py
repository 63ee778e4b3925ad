"""The hook cancels what a stopped run left running, once, and only if a person stopped the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Running
from pydantic import SecretStr

from prefect_cometapi import (
    CometAPICredentials,
    cancel_prediction,
    cancel_predictions,
    create_prediction,
    hooks,
    portal,
)
from prefect_cometapi.ledger import Outcome, Record, run_scope
from prefect_cometapi.records import open_ledger
from prefect_cometapi.simulator import Simulator
from tests.homes import LEDGER, Home
from tests.servers import BOAT, MODEL, closed_port

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.cometapi_simulator(run_time=1000.0),
]
BY_CTRL_C = "Execution was aborted by an interrupt signal."


@flow
def makes(number: int = 1, block: str = "", scope: str | None = None) -> None:
    credentials: Any = CometAPICredentials.load(block) if block else CometAPICredentials.from_env()
    for sample in range(number):
        create_prediction(credentials, MODEL, BOAT, sample=sample, scope=scope)


@flow
def makes_in_a_subflow() -> None:
    makes()


class Run:
    """A run that has left predictions behind."""

    def __init__(self, shape: Any = makes, **arguments: Any) -> None:
        self.flow = shape
        self.id = shape(**arguments, return_state=True).state_details.flow_run_id

    def becomes(self, state: State[Any], *, told: State[Any] | None = None) -> None:
        """The server gives it a state, and the hook is told of that one or another."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, state, force=True)
            run: FlowRun = client.read_flow_run(self.id)
        cancel_predictions(flow=self.flow, flow_run=run, state=told or state)

    def records(self) -> list[Record]:
        found = portal.call(open_ledger("prefect-server").records, run_scope(self.id))
        return [record for record in found.values() if record]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the hook has warned of, as it goes on."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler(logging.WARNING)
    log = logging.getLogger("prefect.flow_runs")
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)


@pytest.mark.parametrize("state", [Cancelling, Cancelled])
def test_a_canceled_run(state: Any, cometapi_simulator: Simulator, warnings: list[str]) -> None:
    run = Run(number=3)
    run.becomes(state())
    assert cometapi_simulator.counts.cancels == 3
    assert {each.status for each in cometapi_simulator.predictions.values()} == {"canceled"}
    assert {record.outcome for record in run.records()} == {Outcome.STOPPED}
    assert not warnings


def test_a_run_that_ctrl_c_has_ended(cometapi_simulator: Simulator) -> None:
    Run().becomes(Crashed(message=BY_CTRL_C))
    assert cometapi_simulator.counts.cancels == 1


@pytest.mark.parametrize(
    "state",
    [
        Crashed(message="Execution was aborted by a termination signal."),
        Crashed(message="Execution was cancelled by the runtime environment."),
        Crashed(message="Flow run process exited with non-zero status code -9."),
        Failed(),
        Completed(),
    ],
    ids=lambda state: state.message or state.name,
)
def test_a_run_that_nobody_stopped(state: State[Any], cometapi_simulator: Simulator) -> None:
    run = Run()
    run.becomes(state)
    assert cometapi_simulator.counts.cancels == 0
    (record,) = run.records()
    assert not record.cancel_asked


def test_a_runner_that_is_shut_down_is_nobody(cometapi_simulator: Simulator) -> None:
    # It calls the hook with "Cancelling" of its own making.
    Run().becomes(Running(), told=Cancelling(message="Runner is shutting down."))
    assert cometapi_simulator.counts.cancels == 0


def test_where_the_server_does_not_say_who_stopped_it_nothing_is_canceled(
    cometapi_simulator: Simulator, warnings: list[str]
) -> None:
    run = Run()
    with get_client(sync_client=True) as client:
        flow_run: FlowRun = client.read_flow_run(run.id)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{closed_port()}/api"}):
        cancel_predictions(flow=run.flow, flow_run=flow_run, state=Cancelling())
    assert cometapi_simulator.counts.cancels == 0
    assert f"ledger list --unsaved --scope flow-run:{run.id}" in warnings[0]


def test_what_has_ended_or_was_asked_for_before_is_left_alone(
    cometapi_simulator: Simulator,
) -> None:
    cometapi_simulator.script("cancel", ["ok", "404"])
    run = Run(number=3)
    first, second, _ = cometapi_simulator.predictions
    credentials = CometAPICredentials.from_env()
    by_id = {record.prediction_id: record for record in run.records()}
    for known in (first, second):
        # As the run itself does, before its process is killed.
        prediction = create_prediction.fn(
            credentials, MODEL, BOAT, scope=by_id[known].scope, sample=by_id[known].sample
        )
        cancel_prediction.fn(credentials, prediction)
    assert cometapi_simulator.counts.cancels == 2
    run.becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 3
    run.becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 3


@pytest.mark.parametrize("scope", [None, "tonight"])
def test_predictions_are_found_wherever_their_records_are(
    scope: str | None,
    home: Home,
    cometapi_simulator: Simulator,
) -> None:
    run = Run(number=2, scope=scope and f"{scope}-{uuid4()}")
    run.becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 2


def test_predictions_of_a_subflow_are_the_parents(cometapi_simulator: Simulator) -> None:
    Run(makes_in_a_subflow).becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 1


def test_other_runs_are_left_alone(cometapi_simulator: Simulator) -> None:
    Run()
    Run().becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 1


def test_credentials_are_found_by_the_name_of_their_block(
    cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"saved-{uuid4().hex[:12]}"
    key = SecretStr(cometapi_simulator.api_key)
    CometAPICredentials(api_key=key, base_url=cometapi_simulator.url).save(name)
    run = Run(block=name)
    monkeypatch.delenv("COMETAPI_KEY")
    monkeypatch.delenv("COMETAPI_BASE_URL")
    run.becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 1


def test_without_credentials_it_says_so_once(
    cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    run = Run(number=3)
    monkeypatch.delenv("COMETAPI_KEY")
    run.becomes(Cancelling())
    (warning,) = warnings
    assert warning.startswith("Not canceled, and perhaps still running: ")
    assert all(known in warning for known in cometapi_simulator.predictions)
    assert "COMETAPI_KEY" in warning
    assert cometapi_simulator.counts.cancels == 0


def test_credentials_of_another_service_are_not_used(
    cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    run = Run()
    monkeypatch.setenv("COMETAPI_BASE_URL", "https://api.cometapi.com")
    run.becomes(Cancelling())
    (warning,) = warnings
    assert cometapi_simulator.url in warning
    assert cometapi_simulator.counts.cancels == 0


def test_a_cancel_that_is_refused_is_told(
    cometapi_simulator: Simulator, warnings: list[str]
) -> None:
    cometapi_simulator.script("cancel", ["404"])
    run = Run()
    run.becomes(Cancelling())
    (warning,) = warnings
    assert "The service knows no such prediction" in warning
    (record,) = run.records()
    assert record.outcome is None
    assert record.cancel_asked


def test_a_ledger_that_can_not_be_used_is_told(
    cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    run = Run()
    monkeypatch.setenv(LEDGER, "block://local-file-system/nobody-saved-it")
    run.becomes(Cancelling())
    (warning,) = warnings
    assert warning.startswith("The predictions of this run could not be canceled. ")
    assert cometapi_simulator.counts.cancels == 0


def test_creates_of_other_runs_are_not_counted(
    tmp_path: Path,
    cometapi_simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    warnings: list[str],
) -> None:
    Home.in_a_folder(tmp_path, monkeypatch)
    cometapi_simulator.script("create", ["lost"])
    Run(scope="another run's")
    Run(scope="tonight").becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 1
    assert not warnings


def test_credentials_are_loaded_once(
    cometapi_simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Record] = []
    load = hooks._credentials

    async def counting(record: Record) -> CometAPICredentials:
        loaded.append(record)
        return await load(record)

    monkeypatch.setattr(hooks, "_credentials", counting)
    Run(number=5).becomes(Cancelling())
    assert cometapi_simulator.counts.cancels == 5
    assert len(loaded) == 1
