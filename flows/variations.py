"""One prompt, a grid of parameters, and the best of it edited by a second model.

    python flows/variations.py "A paper boat on calm water"
    python flows/variations.py "A red chair" --edit "the same chair in a snowy street" --scope chair

Seeds, aspect ratios and models are tried with each other; the second model then gets the best
picture as its input. With `COMETAPI_KEY` set it uses the real service, which costs money; without,
it starts the simulator, which draws stand-ins for free. See docs/flows/variations.md.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

from prefect import flow, get_run_logger, runtime, tags
from prefect.artifacts import acreate_table_artifact
from prefect.exceptions import ParameterTypeError
from pydantic import Field

from prefect_cometapi import (
    BatchFailed,
    BatchItem,
    CometAPICredentials,
    CometAPIError,
    ItemStatus,
    PredictionRequest,
    ainput_file,
    arun_predictions,
    cancel_predictions,
    combinations,
    folder_of,
    load_settings,
    simulator,
    start_temporary_server,
)

#: Of the runs, and of their tasks: what the UI finds them by.
TAGS = ("cometapi", "variations")
#: Pictures of one grid, which grows faster than one thinks: five values of each are 125.
MOST = 60
EDIT = "The same picture in winter, snow on everything"
#: What the next try may still bring home: before that, the best is not known.
OPEN = (ItemStatus.NOT_SENT, ItemStatus.TIMED_OUT, ItemStatus.NOT_SAVED)


class Model(StrEnum):
    """Models that take a seed and an aspect ratio; another one that does is another line here."""

    FLUX_SCHNELL = "black-forest-labs/flux-schnell"
    FLUX_2_PRO = "black-forest-labs/flux-2-pro"


class Editor(StrEnum):
    """Models that edit their `input_image`."""

    FLUX_KONTEXT_PRO = "black-forest-labs/flux-kontext-pro"


class AspectRatio(StrEnum):
    """Width to height."""

    SQUARE = "1:1"
    LANDSCAPE = "3:2"
    WIDE = "16:9"
    PORTRAIT = "2:3"
    TALL = "9:16"


SEEDS, RATIOS, MODELS = [1, 2], [AspectRatio.SQUARE, AspectRatio.WIDE], list(Model)
Text = Annotated[str, Field(max_length=2_000, pattern=r"\S")]
Scope = Annotated[str, Field(max_length=150, pattern=r"\S")]


def best_of(items: list[BatchItem]) -> BatchItem:
    """The best of the pictures: put a judge of your own in its place.

    Here it is the largest file, of equal ones the first: at one format and quality, what does not
    compress well has more in it. Whatever judges (a model that scores each picture, a person),
    it has to choose the same again when the run is retried, or another edit is paid for: scores of
    a model are best made with `arun_predictions` and the scope f"{scope} judge", which keeps them.
    """
    return max(items, key=lambda item: (item.files[0].size, -item.number))


@flow(
    name="variations",
    flow_run_name="variations of {prompt:.60}",
    retries=2,  # they go on where the first try was
    retry_delay_seconds=60,
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
async def variations(
    prompt: Text,
    seeds: Annotated[list[int], Field(min_length=1)] = SEEDS,
    aspect_ratios: Annotated[list[AspectRatio], Field(min_length=1)] = RATIOS,
    models: Annotated[list[Model], Field(min_length=1)] = MODELS,
    edit: Text = EDIT,
    editor: Editor = Editor.FLUX_KONTEXT_PRO,
    storage: str = "pictures",
    scope: Scope | None = None,
    limit: str | None = None,
    retry_failed: bool = False,
    simulate: bool = False,
) -> str:
    """Try a prompt with each combination of parameters, and have the best picture edited.

    Args:
        prompt: What the pictures show.
        seeds: Numbers that a model starts from: each gives another picture.
        aspect_ratios: Their widths to heights.
        models: The models that make them.
        edit: What the second model makes of the best one.
        editor: The second model.
        storage: A folder, or a saved block as block://type-slug/name; records live there, too.
        scope: A name under which each picture is paid for once, such as a date; by default this
            run and its retries.
        limit: Name of a global concurrency limit of Prefect that others who use this key share.
        retry_failed: Make again, at a new price, what failed in an earlier run, the edit as well.
        simulate: Use the simulator instead of the real service, for free stand-ins.

    Returns:
        Where the edited picture is.

    Raises:
        CometAPIError: There is no picture to edit, or it could not be edited.
    """
    scope = scope or f"flow-run:{runtime.flow_run.root_flow_run_id}"  # the same in a retry
    folder = f"variations/{folder_of(scope)}"
    grid = combinations({"prompt": prompt}, model=models, aspect_ratio=aspect_ratios, seed=seeds)
    # What a retry finds has failed in this run.
    retry_failed = retry_failed and runtime.flow_run.run_count == 1
    with tags(*TAGS), service(simulate) as credentials:
        tried = await arun_predictions(
            credentials,
            models[0],
            list(grid),
            storage,
            prefix=folder,
            scope=scope,
            retry_failed=retry_failed,
            max_predictions=MOST,
            allow_failures=0.5,  # the best is chosen from what there is
            limit=limit,
        )
        # A success may have made nothing.
        pictures = [each for each in tried.items if each.status is ItemStatus.SAVED and each.files]
        if not pictures or tried.count(*OPEN):
            text = f"The best is chosen once nothing is open any more; this is: {tried.summary}."
            raise BatchFailed(f"{text} Run again in the same scope.", result=tried)
        best = best_of(pictures)
        get_run_logger().info("The best of %d: %s", len(pictures), best.files[0].location)
        picture = await ainput_file(best.files[0], storage=storage)
        request = PredictionRequest(
            input={"prompt": edit, "input_image": picture},
            # Not by its input: another version of Pillow makes a large picture smaller otherwise.
            key=f"{best.prediction_id} {hashlib.sha256(edit.encode()).hexdigest()[:16]}",
        )
        edited = await arun_predictions(
            credentials,
            editor.value,
            [request],
            storage,
            prefix=f"{folder}/edited",
            scope=f"{scope}, edited",
            retry_failed=retry_failed,
            limit=limit,
        )
    if not edited.items[0].files:
        text = "The edit has succeeded, and made no output. Other words for it are another edit."
        raise BatchFailed(text, result=edited)
    where = edited.items[0].files[0].location
    if not load_settings().artifacts:
        return where
    rows = [
        {
            **item.origin["choices"],
            "picture": item.files[0].location if item.files else item.error or "no output",
            "bytes": item.files[0].size if item.files else None,
            "edited": where if item is best else "",
        }
        for item in tried.items
    ]
    # The run has the prompt and the edit among its parameters; here they would be Markdown.
    await acreate_table_artifact(rows, key="variations", description=tried.summary)
    return where


@contextmanager
def service(simulate: bool) -> Iterator[CometAPICredentials]:
    """Credentials for the real service, or for a simulator that runs as long as the flow does."""
    if not simulate:
        yield CometAPICredentials.from_env()
        return
    # Another service each time, with other predictions.
    with simulator.run(seed=time.time_ns() % 1_000_000) as simulated:
        yield CometAPICredentials(api_key=simulated.api_key, base_url=simulated.url)


def main() -> int:
    """Run the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Try variations of a prompt, and edit the best.")
    add, default = parser.add_argument, "default: %(default)s"
    add("prompt", nargs="?", default="A paper boat on calm water", help="what the pictures show")
    add("--seeds", type=int, nargs="+", default=SEEDS, help=default)
    add("--aspect-ratios", nargs="+", default=list(map(str, RATIOS)), help=default)
    add("--models", nargs="+", default=list(map(str, MODELS)), help=default)
    add("--edit", default=EDIT, help="what becomes of the best one")
    add("--storage", default="pictures", help="folder, or block://type-slug/name")
    add("--scope", help="name under which each picture is paid once, such as a date")
    add("--retry-failed", action="store_true", help="make again, at a new price, what failed")
    options = vars(parser.parse_args())
    # Who sits in front of it need not wait for a retry: with a scope, the next run goes on.
    once = variations.with_options(retries=0)
    try:
        simulate = load_settings().api_key is None
        options = once.validate_parameters({**options, "simulate": simulate})
        if simulate:
            print("No COMETAPI_KEY is set: the simulator draws stand-ins, for free.")
            print("Each run starts its own, so a scope does not carry over from the last one.")
        start_temporary_server()
        with tags(*TAGS):
            edited = asyncio.run(once(**options))
    except (CometAPIError, ParameterTypeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same --scope goes on; what was canceled is made again, at a price.")
        return 130
    print(f"The best one, edited: {edited}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
