"""From a theme to a gallery, every night: a language model writes the prompts, and pictures follow.

    python flows/nightly_gallery.py "Harbours at dawn"          # gallery/…/index.html in pictures/
    python flows/nightly_gallery.py "Harbours at dawn" --edition draft --pictures 3

A night's gallery is paid for once, however often its run is retried, killed or started again. With
`COMETAPI_KEY` set it uses the real service, which costs money; without, it starts the simulator,
which writes and draws stand-ins for free. See docs/flows/nightly-gallery.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from html import escape
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from jinja2 import Template
from prefect import flow, get_run_logger, runtime, tags
from prefect.artifacts import acreate_markdown_artifact
from prefect.exceptions import ParameterTypeError
from pydantic import AfterValidator, Field

from prefect_cometapi import (
    BatchFailed,
    BatchResult,
    CometAPICredentials,
    CometAPIError,
    ItemStatus,
    PredictionRequest,
    agenerate_prompts,
    arun_predictions,
    awrite_text,
    cancel_predictions,
    folder_of,
    load_settings,
    simulator,
    start_temporary_server,
)

#: Of the runs, and of their tasks: what the UI finds them by.
TAGS = ("cometapi", "gallery")


class Model(StrEnum):
    """Models that take an aspect ratio; another one that does is another line here."""

    FLUX_SCHNELL = "black-forest-labs/flux-schnell"
    FLUX_2_PRO = "black-forest-labs/flux-2-pro"


class AspectRatio(StrEnum):
    """Width to height."""

    SQUARE = "1:1"
    LANDSCAPE = "3:2"
    WIDE = "16:9"
    PORTRAIT = "2:3"
    TALL = "9:16"


def known_zone(name: str) -> str:
    """Refuse a time zone that nobody knows, before anything is spent."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError("no time zone has this name; one is Europe/Berlin") from None
    return name


TIME_ZONE = "Europe/Berlin"
Theme = Annotated[str, Field(max_length=120, pattern=r"\S")]
Edition = Annotated[str, Field(max_length=60, pattern=r"\S")]


def edition_of(edition: str | None, time_zone: str) -> str:
    """Which gallery it is: by default that of the night for which the run was scheduled.

    The time stays the same when the run is late, or is retried after midnight.
    """
    start = runtime.flow_run.scheduled_start_time
    return edition or f"{start.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"


def run_name() -> str:
    """The run's name in the UI, such as "Harbours at dawn, 2026-11-23"."""
    given = runtime.flow_run.parameters  # without those that are left at their defaults
    edition = edition_of(given.get("edition"), given.get("time_zone", TIME_ZONE))
    return f"{given['theme']}, {edition}"


@flow(
    name="nightly-gallery",
    flow_run_name=run_name,
    retries=2,  # they go on where the first try was
    retry_delay_seconds=300,
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
async def nightly_gallery(
    theme: Theme,
    pictures: Annotated[int, Field(ge=1, le=200)] = 12,
    aspect_ratio: AspectRatio = AspectRatio.LANDSCAPE,
    model: Model = Model.FLUX_SCHNELL,
    language_model: str = "gpt-5-mini",
    storage: str = "pictures",
    edition: Edition | None = None,
    time_zone: Annotated[str, AfterValidator(known_zone)] = TIME_ZONE,
    allow_failures: Annotated[float, Field(ge=0, le=1)] = 0.25,
    limit: str | None = None,
    retry_failed: bool = False,
    simulate: bool = False,
) -> str:
    """Make a gallery of pictures on a theme, with prompts that a language model writes.

    Args:
        theme: What the pictures are to show, in a few words.
        pictures: How many of them. Each costs what the model costs.
        aspect_ratio: Their width to height.
        model: The model that makes them.
        language_model: The model that writes the prompts, as `/v1/chat/completions` names it.
        storage: A folder, or a saved block as block://type-slug/name. Prompts and records live
            there, too, so a retry elsewhere needs a block.
        edition: What tells galleries of one theme apart: the same one again is paid for once. By
            default the date for which the run was scheduled.
        time_zone: Whose date that is.
        allow_failures: The share of pictures that may fail, such as those whose prompt is refused,
            without the run being a failed one.
        limit: Name of a global concurrency limit of Prefect that others who use this key share.
        retry_failed: Make again, at a new price, what failed in an earlier run.
        simulate: Use the simulator instead of the real service, for free stand-ins.

    Returns:
        Where the gallery's `index.html` is.

    Raises:
        CometAPIError: It could not be made, or more failed than may; what there is, is shown.
    """
    edition = edition_of(edition, time_zone)
    scope = f"{edition} {theme}"  # the same in a retry, and in another run of that night
    folder = f"gallery/{folder_of(scope)}"
    first = runtime.flow_run.run_count == 1  # what a retry finds has failed in this run
    with tags(*TAGS), service(simulate) as credentials:
        requests = await agenerate_prompts(
            credentials,
            f"{theme}. They hang side by side in one gallery: vary subject, light and distance.",
            pictures,
            model=language_model,
            input={"aspect_ratio": aspect_ratio.value},
            storage=storage,
            scope=scope,
        )
        failed = None
        try:
            result = await arun_predictions(
                credentials,
                model.value,
                requests,
                storage,
                prefix=folder,
                scope=scope,
                retry_failed=retry_failed and first,
                stop_after_failures=0.5,  # something is wrong with all of them, then
                allow_failures=allow_failures,
                limit=limit,
            )
        except BatchFailed as error:
            result, failed = error.result, error
    index = ""
    if made := result.count(ItemStatus.SAVED):
        rows = rows_of(requests, result)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        page = PAGE.render(theme=theme, edition=edition, rows=rows, by=language_model)
        await awrite_text(storage, f"{folder}/manifest.jsonl", lines)
        index = await awrite_text(storage, f"{folder}/index.html", page)
        away = folder.removeprefix("gallery/")
        await awrite_text(storage, "gallery/latest.html", LATEST.render(folder=away))
        if (settings := load_settings()).artifacts:
            on = f" on {as_text(theme)}" if settings.prompts else ""
            where = f"{as_text(edition)}: <code>{as_text(index)}</code>"
            text = f"<p>{made} of {pictures} pictures{on}, {where}</p>"
            await acreate_markdown_artifact(text, key="nightly-gallery", description=result.summary)
    if failed:
        raise failed
    get_run_logger().info("%d of %d pictures. The gallery: %s", made, pictures, index)
    return index


def as_text(words: str) -> str:
    """Words for a line of HTML, which Prefect's UIs leave alone: no theme becomes a link in it."""
    return escape(" ".join(words.split()))


def rows_of(requests: list[PredictionRequest], result: BatchResult) -> list[dict[str, Any]]:
    """The manifest: a row for each prompt, with its picture or the reason why there is none."""
    return [
        {
            **item.model_dump(mode="json", exclude={"excerpt", "found", "polls", "output"}),
            "input": requests[item.number].input,
            # As it is called from within the gallery's folder, which may be moved.
            "file": item.files[0].name.rpartition("/")[2] if item.files else None,
        }
        for item in result.items
    ]


PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ theme }}, {{ edition }}</title>
<style>
  body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
         color: #222; background: #f6f5f2 }
  main { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)) }
  figure { margin: 0; background: #fff; border-radius: .4rem; overflow: hidden;
           box-shadow: 0 1px 4px #0003 }
  img { display: block; width: 100% }
  figcaption, .missing { padding: .8rem 1rem; overflow-wrap: anywhere }
  small { display: block; color: #666 }
</style>
<h1>{{ theme }}</h1>
{%- set saved = rows | selectattr("file") | list %}
<p>{{ edition }}: {{ saved | length }} of {{ rows | length }} pictures, with prompts by {{ by }}.
<a href="manifest.jsonl">The manifest</a> says all of each.</p>
<main>
{%- for row in saved %}
  <figure>
    <a href="{{ row.file | urlencode }}"><img src="{{ row.file | urlencode }}" loading="lazy"
      alt="{{ row.input.prompt }}"></a>
    <figcaption>{{ row.input.prompt }}
      <small>{{ row.model }}{% if row.run_time is not none -%}
        , {{ "%.1f" | format(row.run_time) }} s{% endif %}</small>
      <small>{{ row.prediction_id }}</small>
    </figcaption>
  </figure>
{%- endfor %}
</main>
{%- if saved | length < rows | length %}
<h2>Not made</h2>
<ul>
{%- for row in rows if not row.file %}
  <li class="missing">{{ row.input.prompt }}
    <small>{{ row.status }}: {{ row.error or "it made no output" }}</small></li>
{%- endfor %}
</ul>
{%- endif %}
</html>
""",
    autoescape=True,
)
#: Leads to the gallery that was made last; a page, because not every storage has links.
LATEST = Template(
    """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={{ folder | urlencode }}/index.html">
<title>The latest gallery</title>
<a href="{{ folder | urlencode }}/index.html">The latest gallery</a>
""",
    autoescape=True,
)


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
    parser = argparse.ArgumentParser(description="Make a gallery of pictures on a theme.")
    add = parser.add_argument
    add("theme", nargs="?", default="Harbours at dawn", help="what the pictures are to show")
    add("--pictures", type=int, default=12, help="how many (default: %(default)s)")
    add("--aspect-ratio", default="3:2", help=f"one of {', '.join(AspectRatio)}")
    add("--model", default=Model.FLUX_SCHNELL.value, help=f"one of {', '.join(Model)}")
    add("--language-model", default="gpt-5-mini", help="writes the prompts (default: %(default)s)")
    add("--storage", default="pictures", help="folder, or block://type-slug/name")
    add("--edition", help="tells galleries of one theme apart (default: the date)")
    add("--time-zone", default=TIME_ZONE, help="whose date (default: %(default)s)")
    add("--retry-failed", action="store_true", help="make again, at a new price, what failed")
    options = vars(parser.parse_args())
    # Who sits in front of it need not wait for a retry: the next run goes on as well.
    once = nightly_gallery.with_options(retries=0)
    try:
        simulate = load_settings().api_key is None
        options = once.validate_parameters({**options, "simulate": simulate})
        if simulate:
            print("No COMETAPI_KEY is set: the simulator writes and draws stand-ins, for free.")
            print("Each run starts its own, so an edition does not carry over from the last one.")
        start_temporary_server()
        with tags(*TAGS):
            index = asyncio.run(once(**options))
    except (CometAPIError, ParameterTypeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The next run goes on; what was canceled is made again, at a new price.")
        return 130
    print(f"Your gallery: {index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
