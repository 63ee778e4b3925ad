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
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow, get_run_logger, runtime
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    PREFECT_UI_URL,
    temporary_settings,
)
from prefect.states import Failed
from pydantic import Field
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from prefect_cometapi import (
    CometAPICredentials,
    CometAPIError,
    Generation,
    InvalidInput,
    agenerate,
    simulator,
)
from prefect_cometapi.settings import load_settings
from prefect_cometapi.storage import check_writable, write_text
from prefect_cometapi.submission import check_request

PROMPTS = Path(__file__).with_name("prompts.txt")
MODEL = "black-forest-labs/flux-schnell"
#: Predictions under way at once; the rest wait their turn.
AT_ONCE = 16


@flow(name="quickstart")
async def quickstart(
    prompts: str = "flows/prompts.txt",
    model: str = MODEL,
    storage: str = "pictures",
    samples: Annotated[int, Field(ge=1, le=20)] = 2,
    simulate: bool = False,
) -> Any:
    """Make pictures of every prompt, and a `manifest.jsonl` that says what each file is.

    Args:
        prompts: File of prompts, one a line.
        model: The model, as owner/name.
        storage: A folder, or a saved block as block://type-slug/name.
        samples: Pictures of each prompt.
        simulate: Use the simulator instead of the real service, for free stand-ins.

    Returns:
        The manifest's location. Where something was not made, a failed state that says what,
        after everything else is saved.
    """
    # The same in a retried run, so that it goes on in the same place.
    folder = f"{runtime.flow_run.scheduled_start_time:%Y-%m-%d}/{runtime.flow_run.name}"
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    turn = asyncio.Semaphore(AT_ONCE)

    async def make(credentials: CometAPICredentials, input: dict[str, Any], sample: int) -> None:
        async with turn:
            try:
                made = await agenerate(
                    credentials, model, input, storage, prefix=folder, sample=sample
                )
                rows.extend(manifest_rows(made, input, sample))
            except CometAPIError as error:  # one that fails does not stop the others
                problems.append(f"{input['prompt']!r}: {error}")
        advance()

    try:
        inputs = read_prompts(Path(prompts), model)
        total = len(inputs) * samples
        with service(simulate) as credentials, progress(total) as advance:
            await check_writable(storage)
            await credentials.get_client().acheck_key()  # free, and better known before
            await asyncio.gather(
                *(make(credentials, input, n) for input in inputs for n in range(samples))
            )
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        manifest = await write_text(storage, f"{folder}/manifest.jsonl", lines)
    except CometAPIError as error:
        return Failed(message=str(error))
    get_run_logger().info("Saved %d files; %s says what each is.", len(rows), manifest)
    if problems:
        said = " | ".join(problems[:3])
        return Failed(message=f"{len(problems)} of {total} pictures were not made. {said}")
    return manifest


def read_prompts(path: Path, model: str) -> list[dict[str, Any]]:
    """The inputs that a file of prompts stands for; anything wrong is told with its line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidInput(f"The prompts file {path} can not be read: {reason}.") from None
    inputs = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            input = json.loads(line) if line.startswith("{") else {"prompt": line}
            if not isinstance(input.get("prompt"), str) or not input["prompt"].strip():
                raise InvalidInput('a JSON line needs a "prompt".')
            check_request(model, input)
        except ValueError as error:  # InvalidInput is one, and so is broken JSON
            raise InvalidInput(f"{path}, line {number}: {error}") from None
        inputs.append(input)
    if not inputs:
        raise InvalidInput(f"There is no prompt in {path}. Write one a line.")
    return inputs


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
    options = vars(parser.parse_args(arguments))
    try:
        check(**options)
        simulate = load_settings().api_key is None
        if not simulate:
            CometAPICredentials.from_env()
    except (CometAPIError, ValueError) as error:
        print(f"{error} Nothing was sent.", file=sys.stderr)
        return 2
    if simulate:
        print("No COMETAPI_KEY is set: the simulator draws stand-ins for the pictures, for free.")
    # Prefect's temporary server can take longer than its default patience on a small machine.
    with temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120}):
        state: State[Any] = asyncio.run(run(simulate=simulate, **options))
    if not state.is_completed():
        print(state.message, file=sys.stderr)
        return 1
    manifest = asyncio.run(state.aresult())
    print(f"\nYour pictures are in {Path(manifest).parent}; manifest.jsonl says what each is.")
    print(how_to_look(str(state.state_details.flow_run_id)))
    return 0


async def run(**parameters: Any) -> State[Any]:
    """Run the flow; a failure is told by its state, not by an exception."""
    state: State[Any] = await quickstart(**parameters, return_state=True)
    return state


def check(prompts: str, model: str, storage: str, samples: int) -> None:
    """Refuse what can not work, before Prefect is started."""
    read_prompts(Path(prompts), model)
    if not 1 <= samples <= 20:
        raise InvalidInput("--samples takes a number from 1 to 20.")
    if not storage.startswith("block://"):  # blocks are looked up on the server, in the flow
        asyncio.run(check_writable(storage))


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
