"""What the Prefect UI is told of predictions: a log that reads like a story, assets, artifacts."""

from __future__ import annotations

from prefect.client.schemas.objects import FlowRun

from prefect_cometapi.batch_artifacts import BatchArtifacts
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.event_sending import BatchEvents, PredictionEvents, SavingEvents
from prefect_cometapi.events import WHICH_EVENTS, WhichEvents
from prefect_cometapi.failure_lines import tell_failures_plainly
from prefect_cometapi.lineage import BatchFolderAsset, FolderAsset, Sources
from prefect_cometapi.models import Prediction
from prefect_cometapi.observer import Observer, Observers, WithoutPrompts
from prefect_cometapi.previews import PredictionPreview
from prefect_cometapi.run_log import BatchLog, Log, RunLog
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.tally import BatchObserver, BatchObservers

tell_failures_plainly()  # before the first task can fail


def of_prediction(settings: CometAPISettings) -> Observer:
    """Who is told of a prediction whose outputs nobody saves here.

    Args:
        settings: What of it is wanted.
    """
    told: list[Observer] = [RunLog()]
    if settings.events:
        told.append(PredictionEvents(settings.prices))
    return _as_may_be_told(settings, told)


def of_stopped_run(settings: CometAPISettings, log: Log, flow_run: FlowRun) -> Observer:
    """Who is told of the predictions of a run whose process is gone, in another one.

    Args:
        settings: What of it is wanted.
        log: The run's.
        flow_run: The run.
    """
    told: list[Observer] = [RunLog(log)]
    run = [
        {"prefect.resource.id": f"prefect.{kind}.{each}", "prefect.resource.role": kind}
        for kind, each in (("flow-run", flow_run.id), ("deployment", flow_run.deployment_id))
        if each is not None
    ]
    run[0]["prefect.resource.name"] = flow_run.name
    if settings.events:
        told.append(PredictionEvents(settings.prices, run=run))
    return _as_may_be_told(settings, told)


def of_saving(
    settings: CometAPISettings, sources: Sources = (), prediction: Prediction | None = None
) -> Observer:
    """Who is told of a prediction whose outputs are saved.

    Args:
        settings: What of it is wanted.
        sources: What the input came from.
        prediction: What is known of it.

    Raises:
        InvalidInput: A source is not usable.
    """
    told: list[Observer] = [
        RunLog(),
        FolderAsset(sources, settings.assets, prediction),
        PredictionPreview(settings),
    ]
    if settings.events:
        told.append(SavingEvents(settings.prices, prediction))
    return _as_may_be_told(settings, told)


def _as_may_be_told(settings: CometAPISettings, observers: list[Observer]) -> Observer:
    return Observers(*observers) if settings.prompts else WithoutPrompts(*observers)


def of_batch(
    settings: CometAPISettings, sources: Sources = (), events: WhichEvents = "exceptions"
) -> BatchObserver:
    """Who is told of a batch; see `of_saving`.

    Args:
        settings: What of it is wanted.
        sources: What the inputs came from.
        events: What of its predictions is told as events; with `none`, its end is not, either.

    Raises:
        InvalidInput: A source is not usable, or there is no such choice of events.
    """
    if events not in WHICH_EVENTS:
        raise InvalidInput(
            f"events is {events!r:.80}; it is {' or '.join(map(repr, WHICH_EVENTS))}. Nothing was "
            "sent."
        )
    told: list[BatchObserver] = [
        BatchLog(),
        BatchFolderAsset(sources, settings.assets),
        BatchArtifacts(settings),
    ]
    if settings.events and events != "none":
        told.append(BatchEvents(settings.prices, events))
    observers = BatchObservers(*told)
    if not settings.prompts:
        observers.each = WithoutPrompts(observers.each)
    return observers
