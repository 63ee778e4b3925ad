"""From a file of prompts to pictures on disk, in one Prefect flow.

    python flows/quickstart.py

makes two pictures of each prompt in `flows/prompts.txt`. With `COMETAPI_KEY` set it uses the real
service, which costs money; without, it starts the simulator, which draws stand-ins for free.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import State, Task, flow, get_run_logger, runtime, tags
from prefect.client.schemas.objects import TaskRun
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Failed
from pydantic import Field
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from prefect_cometapi import (
    CometAPICredentials,
    CometAPIError,
    Generation,
    InvalidInput,
    LedgerError,
    NeverDelivered,
    OutputUnavailable,
    StorageError,
    UnknownOutcome,
    acheck_storage,
    acreate_gallery_artifact,
    agenerate,
    awrite_text,
    cancel_predictions,
    check_request,
    check_storage,
    load_settings,
    simulator,
    start_temporary_server,
)

PROMPTS = Path(__file__).with_name("prompts.txt")
MODEL = "black-forest-labs/flux-schnell"
#: Of the runs, and of their tasks: what the UI finds them by.
TAGS = ("cometapi", "quickstart")
#: The flow runs of this process, for the message after Ctrl-C.
RUNS: list[str] = []
#: Predictions under way at once; the rest wait their turn.
AT_ONCE = 16
#: What another try of the same picture may get over.
MAY_PASS = (LedgerError, NeverDelivered, OutputUnavailable, StorageError)


async def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a picture is tried again: not one that was refused, or is paid for and has failed."""
    return isinstance(await state.aresult(raise_on_failure=False), MAY_PASS)


#: A task with retries: each goes on with the prediction that the first try has paid for.
picture = agenerate.with_options(
    retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=may_pass
)


def run_name() -> str:
    """The run's name in the UI, such as "2 of each in prompts.txt"."""
    given = runtime.flow_run.parameters  # without those that are left at their defaults
    return f"{given.get('samples', 2)} of each in {Path(given.get('prompts', PROMPTS)).name}"


@flow(
    name="quickstart",
    flow_run_name=run_name,
    on_cancellation=[cancel_predictions],
    on_crashed=[cancel_predictions],
)
async def quickstart(
    prompts: str = "flows/prompts.txt",
    model: str = MODEL,
    storage: str = "pictures",
    samples: Annotated[int, Field(ge=1, le=20)] = 2,
    simulate: bool = False,
    scope: Annotated[str, Field(max_length=200, pattern=r"\S")] | None = None,
) -> Any:
    """Make pictures of every prompt, and a `manifest.jsonl` that says what each file is.

    Args:
        prompts: File of prompts, one a line.
        model: The model, as owner/name.
        storage: A folder, or a saved block as block://type-slug/name.
        samples: Pictures of each prompt.
        simulate: Use the simulator instead of the real service, for free stand-ins.
        scope: A name under which pictures are paid once, such as a date. By default this run and
            its retries; another run goes on with it as "flow-run:" and its id.

    Returns:
        The manifest's location. Where something was not made, a failed state that says what,
        after everything else is saved.
    """
    # The same in a retried run, so that it goes on in the same place.
    folder = f"{runtime.flow_run.scheduled_start_time:%Y-%m-%d}/{runtime.flow_run.id[-12:]}"
    RUNS.append(runtime.flow_run.id)
    problems: list[str] = []
    pictures: list[Generation] = []
    turn = asyncio.Semaphore(AT_ONCE)

    async def make(
        credentials: CometAPICredentials, input: dict[str, Any], sample: int
    ) -> list[dict[str, Any]]:
        async with turn:
            try:
                made = await picture(
                    credentials, model, input, storage, prefix=folder, sample=sample, scope=scope
                )
            except Exception as error:  # one that fails does not stop the others
                # The setting keeps prompts from Prefect's server.
                which = repr(input["prompt"]) if load_settings().prompts else "A prompt"
                problems.append(f"{which}: {error}")
                return []
            finally:
                advance()
        pictures.append(made)
        return manifest_rows(made, input, sample)

    try:
        inputs = read_prompts(Path(prompts), model)
        wanted = list(samples_of(inputs, samples))
        with tags(*TAGS), service(simulate) as credentials, progress(len(wanted)) as advance:
            await acheck_storage(storage, folder)
            await check_key(credentials)
            rows = await asyncio.gather(*(make(credentials, *one) for one in wanted))
        files = [row for made in rows for row in made]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in files)
        # A retried run writes one of its own: it may find less than there was.
        again = runtime.flow_run.run_count
        name = f"manifest-{again}.jsonl" if again and again > 1 else "manifest.jsonl"
        manifest = await awrite_text(storage, f"{folder}/{name}", lines) if files else ""
        await acreate_gallery_artifact(pictures, storage, title="Quickstart")
    except CometAPIError as error:
        return Failed(message=str(error))
    get_run_logger().info("Saved %d files. What each is: %s", len(files), manifest or "-")
    if problems:
        said = " | ".join(problems[:3])
        return Failed(message=f"{len(problems)} of {len(wanted)} pictures were not made. {said}")
    return manifest


async def check_key(credentials: CometAPICredentials) -> None:
    """Find out for free whether the key is refused, before anything is paid."""
    try:
        await credentials.get_client().acheck_key()
    except UnknownOutcome as error:  # trouble that says nothing about the key, and may pass
        get_run_logger().warning("The key could not be checked beforehand. %s", error)


def samples_of(inputs: list[dict[str, Any]], samples: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Each input with each number of its samples; a line that is there twice counts on."""
    seen: Counter[str] = Counter()
    for input in inputs:
        for _ in range(samples):
            same = json.dumps(input, sort_keys=True)
            yield input, seen[same]
            seen[same] += 1


def read_prompts(path: Path, model: str) -> list[dict[str, Any]]:
    """The inputs that a file of prompts stands for; anything wrong is told with its line."""
    check_request(model, {})
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidInput(f"The prompts file {path} can not be read: {reason}.") from None
    inputs = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            input = _json(line) if line.startswith("{") else {"prompt": line}
            if not isinstance(input.get("prompt"), str) or not input["prompt"].strip():
                raise InvalidInput('a JSON line needs a "prompt".')
            check_request(model, input)
        except (ValueError, RecursionError) as error:  # of InvalidInput, or broken JSON
            raise InvalidInput(f"{path}, line {number}: {error}") from None
        inputs.append(input)
    if not inputs:
        raise InvalidInput(f"There is no prompt in {path}. Write one a line.")
    return inputs


def _json(line: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"it is not valid JSON: {error.msg} at column {error.colno}.") from None
    return parsed


def manifest_rows(made: Generation, input: dict[str, Any], sample: int) -> list[dict[str, Any]]:
    """One row a file: what it is, and how it came about."""
    prediction = made.prediction
    return [
        {
            "prompt": input["prompt"],
            "model": prediction.model,
            "input": input,
            "sample": sample,
            "prediction_id": prediction.id,
            "file": file.location,
            "type": file.media_type,
            "bytes": file.size,
            "sha256": file.sha256,
            "run_time": prediction.run_time,
            "created": prediction.created_at and prediction.created_at.isoformat(),
            "completed": prediction.completed_at and prediction.completed_at.isoformat(),
        }
        for file in made.files
    ]


@contextmanager
def service(simulate: bool) -> Iterator[CometAPICredentials]:
    """Credentials for the real service, or for a simulator that runs as long as the flow does."""
    if not simulate:
        yield CometAPICredentials.from_env()
        return
    with simulator.run() as simulated:
        yield CometAPICredentials(api_key=simulated.api_key, base_url=simulated.url)


# --- as a command -----------------------------------------------------------------------------


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar, where there is a terminal to show it."""
    # On the console that Prefect logs to, so that the bar stays below the log lines.
    handlers = logging.getLogger("prefect").handlers
    consoles = [
        handler.console for handler in handlers if isinstance(handler, PrefectConsoleHandler)
    ]
    console = consoles[0] if consoles else Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Making pictures", total=total)
        yield lambda: bar.advance(task)


def main(arguments: list[str] | None = None) -> int:
    """Run the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Make pictures of a file of prompts with a Prefect flow.",
        epilog="With COMETAPI_KEY set this uses the real service and costs money; "
        "without, it uses the simulator.",
    )
    parser.add_argument("--prompts", default=str(PROMPTS), help="file of prompts, one a line")
    parser.add_argument("--model", default=MODEL, help="model as owner/name (default: %(default)s)")
    parser.add_argument(
        "--storage",
        default="pictures",
        help="folder, or block://type-slug/name (default: pictures)",
    )
    parser.add_argument(
        "--samples", type=int, default=2, help="pictures of each prompt (default: 2)"
    )
    parser.add_argument(
        "--scope", help="name under which pictures are paid once, to go on with an earlier run"
    )
    options = vars(parser.parse_args(arguments))
    try:
        pictures = check(**options)
        simulate = load_settings().api_key is None
        target = "" if simulate else CometAPICredentials.from_env().base_url
    except (CometAPIError, ValueError) as error:
        print(f"{str(error).removesuffix(' Nothing was sent.')} Nothing was sent.", file=sys.stderr)
        return 2
    if simulate:
        print("No COMETAPI_KEY is set: the simulator draws stand-ins for the pictures, for free.")
    else:
        print(f"Making {pictures} pictures at {target}: this costs money.")
    try:
        start_temporary_server()
        state: State[Any] = asyncio.run(run(simulate=simulate, **options))
    except KeyboardInterrupt:
        print("Interrupted. What is saved stays; what was running was canceled, see above.")
        if RUNS and not simulate:
            same = options["scope"] or f"flow-run:{RUNS[0]}"
            command = [sys.executable, __file__, *(arguments or sys.argv[1:])]
            command += [] if options["scope"] else ["--scope", same]
            print("To go on without paying twice for what is done:")
            print(f"  {shlex.join(command)}")
        return 130
    except Exception as error:  # Prefect's server: everything else is told by the state
        print(f"Prefect could not run the flow: {error}", file=sys.stderr)
        return 1
    if not state.is_completed():
        print(state.message, file=sys.stderr)
        return 1
    folder = asyncio.run(state.aresult()).rpartition("/")[0]
    print(f"\nYour pictures are in {folder}; manifest.jsonl says what each is.")
    print(how_to_look(str(state.state_details.flow_run_id)))
    return 0


async def run(**parameters: Any) -> State[Any]:
    """Run the flow; a failure is told by its state, not by an exception."""
    with tags(*TAGS):
        state: State[Any] = await quickstart(**parameters, return_state=True)
    return state


def check(prompts: str, model: str, storage: str, samples: int, scope: str | None) -> int:
    """Refuse what can not work, before Prefect is started; returns the number of pictures."""
    check_request(model, {}, scope=scope)
    inputs = read_prompts(Path(prompts), model)
    if not 1 <= samples <= 20:
        raise InvalidInput("--samples takes a number from 1 to 20.")
    if not storage.startswith("block://"):  # blocks are looked up on the server, in the flow
        check_storage(storage)
    return len(inputs) * samples


def how_to_look(flow_run_id: str) -> str:
    """Where the Prefect UI shows the run."""
    page = f"/runs/flow-run/{flow_run_id}"
    if PREFECT_API_URL.value():
        return f"The run in the Prefect UI: {PREFECT_UI_URL.value()}{page}"
    return (
        "To see the run in the Prefect UI, start its server (prefect server start) "
        f"and open http://127.0.0.1:4200{page}"
    )


if __name__ == "__main__":
    sys.exit(main())
