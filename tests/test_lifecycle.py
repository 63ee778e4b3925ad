"""Failed and hanging polls never fail a prediction before its deadline; its end is told whole."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_cometapi import (
    AccountError,
    CometAPIClient,
    CometAPICredentials,
    InvalidInput,
    LedgerError,
    OutputExpired,
    Prediction,
    PredictionCanceled,
    PredictionFailed,
    PredictionNotFound,
    PredictionStatus,
    PredictionTimeout,
    SavedFile,
    StorageError,
    SubmissionInDoubt,
    endings,
    lifecycle,
    settlement,
    simulator,
)
from prefect_cometapi.ledger import Record
from prefect_cometapi.observer import Observer
from prefect_cometapi.orders import Order
from prefect_cometapi.records import Claim, ServerRecords, open_ledger
from prefect_cometapi.submission import submit
from tests.servers import closed_port

MODEL = "black-forest-labs/flux-schnell"
INPUT: dict[str, Any] = {"prompt": "A paper boat"}
ORDER = Order(MODEL, INPUT)

pytestmark = pytest.mark.usefixtures("prefect_server")


class Diary(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def created(self, prediction: Prediction) -> None:
        self.entries.append("created")

    def polled(self, prediction: Prediction) -> None:
        self.entries.append(prediction.status)

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        self.entries.append("saved")

    def trouble(self, message: str) -> None:
        self.entries.append(f"trouble: {message}")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_POLL_MIN", "0.05")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_COMETAPI_QUERY_TIMEOUT", "0.5")


def client_of(service: simulator.Simulator) -> CometAPIClient:
    return CometAPICredentials(api_key=service.api_key, base_url=service.url).get_client()


@pytest.mark.parametrize(
    "faults",
    [
        ["429-seconds"],
        ["500", "524"],
        ["lost", "dropped"],
        ["hang"],
        ["html"],
        ["not-exist-400", "not-exist-404"],
        ["null-data"],
        ["hollow"] * 4,
        ["hollow-other-words"],
        ["strange-status", "strange-status"],
        ["cut-off", "bad-json"],
        ["redirect"],
    ],
    ids=lambda faults: "+".join(faults),
)
async def test_no_trouble_with_polls_fails_the_prediction(faults: list[str]) -> None:
    with simulator.run(run_time=0.05, retry_after=0.1) as service:
        client = client_of(service)
        prediction = await submit(client, ORDER)
        service.script("query", faults)
        done = await lifecycle.wait(client, prediction, timeout=60)
        assert done.status is PredictionStatus.SUCCEEDED
        assert done.output
        assert service.counts.polls > len(faults)
        assert service.counts.charged == 1


@pytest.mark.parametrize(("model", "files"), [(MODEL, 4), ("simulator/text", 1)])
async def test_a_success_without_its_outputs_is_not_all_there_is(
    model: str, files: int, tmp_path: Path
) -> None:
    input = {**INPUT, "num_outputs": 4} if model == MODEL else INPUT
    with simulator.run(run_time=0.05, shape="enveloped") as service:
        service.script("query", ["hollow"] * 4)
        made = await lifecycle.generate(client_of(service), Order(model, input), tmp_path)
        assert len(made.files) == files
        assert service.counts.polls > 4
        assert not made.prediction.outputs_pending


async def test_where_only_ever_the_envelope_comes_what_it_names_is_the_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(endings, "HANDOVER", 0.5)
    with simulator.run(run_time=0.05, shape="enveloped") as service:
        service.set_fault("query.hollow", 1.0)
        client = client_of(service)
        done = await lifecycle.wait(client, await submit(client, ORDER), timeout=30)
        assert done.status is PredictionStatus.SUCCEEDED
        assert done.outputs_pending
        assert isinstance(done.output, str)
        assert service.counts.polls >= 4
        diary = Diary()
        assert len(await lifecycle.save(client, done, tmp_path, observer=diary)) == 1
        assert "There may be more outputs" in diary.entries[-1]
        nameless = await submit(client, Order("simulator/text", INPUT))
        with pytest.raises(PredictionTimeout, match="SUCCESS, but the service has not handed over"):
            await lifecycle.wait(client, nameless, timeout=1.5)


async def test_what_only_waits_for_its_outputs_is_not_canceled() -> None:
    with simulator.run(run_time=0.05, shape="enveloped") as service:
        service.set_fault("query.hollow", 1.0)
        client = client_of(service)
        with pytest.raises(PredictionTimeout):
            await lifecycle.wait(
                client, await submit(client, ORDER), timeout=1, on_timeout="cancel"
            )
        assert service.counts.cancels == 0


async def test_many_who_wait_for_one_prediction_cancel_it_once() -> None:
    with simulator.run(run_time=1000) as service:
        client, order = client_of(service), Order(MODEL, INPUT, scope=str(uuid4()))
        made = await submit(client, order)
        records = open_ledger(client.settings.ledger)
        for _ in range(3):
            await settlement.interrupt(client, records, made, Observer(), by_a_person=True)
        assert service.counts.cancels == 1


async def test_where_it_was_saved_is_told_when_it_is_wanted_elsewhere_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with simulator.run(run_time=0.05, clock=clock) as service:
        client, order = client_of(service), Order(MODEL, INPUT, scope=str(uuid4()))
        made = await lifecycle.generate(client, order, tmp_path, prefix="monday")
        clock.ahead = 7200
        with pytest.raises(OutputExpired) as caught:
            await lifecycle.generate(client, order, tmp_path, prefix="tuesday")
        assert f"By its record it was saved, to {made.files[0].location}" in str(caught.value)
        away = f"http://127.0.0.1:{closed_port()}/api"
        known = made.prediction.model_copy(update={"data_removed": True, "output": None})
        with temporary_settings({PREFECT_API_URL: away}), pytest.raises(LedgerError):
            await lifecycle.save(client, known, tmp_path, prefix="monday")


class Clock:
    """The service's clock."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_a_person_who_stops_before_the_post_pays_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_claim, claiming, claim = threading.Event(), threading.Event(), ServerRecords.claim

    async def slow_claim(self: ServerRecords, key: str, record: Record) -> Claim:
        claiming.set()
        await asyncio.to_thread(may_claim.wait)
        return await claim(self, key, record)

    monkeypatch.setattr(ServerRecords, "claim", slow_claim)
    with simulator.run() as service:
        client, order = client_of(service), Order(MODEL, INPUT, scope=str(uuid4()))
        submitting = asyncio.create_task(submit(client, order))
        await asyncio.to_thread(claiming.wait)
        submitting.cancel()
        await asyncio.sleep(0.1)
        may_claim.set()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert service.counts.creates == 0
        assert (await submit(client, order)).attempt == 1  # the claim was released
        assert service.counts.creates == 1


@pytest.mark.parametrize(
    ("outcome", "error", "words"),
    [
        ("failed", PredictionFailed, "The service"),
        ("failed-silently", PredictionFailed, "the service gave no reason"),
        ("aborted", PredictionFailed, "not billed"),
        ("canceled", PredictionCanceled, "was canceled"),
    ],
)
@pytest.mark.parametrize("shape", ["plain", "enveloped"])
async def test_an_end_is_told_with_id_model_reason_and_log(
    outcome: str, error: type[Exception], words: str, shape: Any
) -> None:
    with simulator.run(run_time=0.05, shape=shape) as service:
        service.script("prediction", [outcome])
        client = client_of(service)
        prediction = await submit(client, ORDER)
        with pytest.raises(error) as raised:
            await lifecycle.wait(client, prediction, timeout=30)
        message = str(raised.value)
        assert prediction.id in message
        assert MODEL in message
        if outcome == "failed":
            reason = service.predictions[prediction.id]
            assert raised.value.prediction.error in message, reason  # type: ignore[attr-defined]
        else:
            assert words in message
        if outcome in ("failed", "canceled"):
            assert "The last lines of its log:" in message


async def test_the_deadline_leaves_it_running_and_says_how_to_collect_it() -> None:
    with simulator.run(run_time=0.05) as service:
        service.script("prediction", ["endless"])
        client = client_of(service)
        prediction = await submit(client, ORDER)
        with pytest.raises(PredictionTimeout) as raised:
            await lifecycle.wait(client, prediction, timeout=0.6)
        assert f'poll_prediction(credentials, "{prediction.id}")' in str(raised.value)
        assert "processing" in str(raised.value)
        assert service.counts.cancels == 0


async def test_hanging_polls_end_at_the_deadline() -> None:
    with simulator.run(run_time=0.05) as service:
        client = client_of(service)
        prediction = await submit(client, ORDER)
        service.set_fault("query.hang", 1.0)
        async with asyncio.timeout(30):
            with pytest.raises(PredictionTimeout):
                await lifecycle.wait(client, prediction, timeout=1.5)


async def test_one_poll_is_made_however_late_it_is() -> None:
    with simulator.run(run_time=0.01) as service:
        client = client_of(service)
        prediction = await submit(client, ORDER)
        await asyncio.sleep(0.3)
        long_ago = datetime.now(UTC) - timedelta(hours=2)
        late = prediction.model_copy(update={"submitted_at": long_ago})
        done = await lifecycle.wait(client, late, timeout=10)
        assert done.status is PredictionStatus.SUCCEEDED


async def test_the_deadline_counts_from_the_submission() -> None:
    with simulator.run(run_time=0.05) as service:
        service.script("prediction", ["endless"])
        client = client_of(service)
        prediction = await submit(client, ORDER)
        long_ago = datetime.now(UTC) - timedelta(hours=2)
        late = prediction.model_copy(update={"submitted_at": long_ago})
        with pytest.raises(PredictionTimeout):
            await lifecycle.wait(client, late, timeout=600)
        assert service.counts.polls == 1


async def test_a_key_that_stops_working_is_raised_at_once() -> None:
    with simulator.run(run_time=0.05) as service:
        client = client_of(service)
        prediction = await submit(client, ORDER)
        service.script("query", ["401"])
        with pytest.raises(AccountError):
            await lifecycle.wait(client, prediction, timeout=30)


async def test_an_unknown_id_is_raised_when_it_can_not_be_new() -> None:
    with simulator.run() as service:
        client = client_of(service)
        unknown = Prediction(
            id="nobodyknows",
            model=MODEL,
            status=PredictionStatus.STARTING,
            api_root=service.url,
            submitted_at=datetime.now(UTC) - timedelta(minutes=2),
        )
        with pytest.raises(PredictionNotFound, match="nobodyknows"):
            await lifecycle.wait(client, unknown, timeout=600)


async def test_a_lost_reply_is_in_doubt_and_never_sent_again() -> None:
    with simulator.run() as service:
        service.script("create", ["lost"])
        with pytest.raises(SubmissionInDoubt, match="may have been accepted"):
            await submit(client_of(service), ORDER)
        assert service.counts.creates == service.counts.charged == 1


async def test_generate_checks_everything_before_it_pays(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    with simulator.run(run_time=0.05) as service:
        client = client_of(service)
        blocked = tmp_path / "file" / "below"
        good = tmp_path / "good"
        with pytest.raises(StorageError):
            await lifecycle.generate(client, ORDER, blocked)
        for options in (
            {"prefix": "../up"},
            {"timeout": -1.0},
            {"timeout": float("nan")},
            {"on_timeout": "stop"},
            {"attempts": 0},
            {"attempts": True},
        ):
            with pytest.raises(InvalidInput):
                await lifecycle.generate(client, ORDER, good, **options)
        for order in (
            Order("no-owner", INPUT),
            Order(MODEL, {"seed": float("nan")}),
            Order(MODEL, [1]),  # type: ignore[arg-type]
            Order(MODEL, INPUT, sample=-1),
            Order(MODEL, INPUT, key=""),
            Order(MODEL, INPUT, scope=" "),
            Order(MODEL, INPUT, on_in_doubt="hope"),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidInput):
                await lifecycle.generate(client, order, good)
        assert service.counts.creates == 0


async def test_the_observer_hears_the_story_in_order(tmp_path: Any) -> None:
    with simulator.run(run_time=0.2) as service:
        service.script("query", ["502"])
        diary = Diary()
        made = await lifecycle.generate(client_of(service), ORDER, tmp_path, observer=diary)
        assert diary.entries[0] == "created"
        assert diary.entries[1].startswith("trouble: A poll of prediction")
        assert diary.entries[-2:] == ["succeeded", "saved"]
        assert made.files[0].size == (tmp_path / made.files[0].name).stat().st_size
