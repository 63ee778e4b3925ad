"""Flows that have Prefect told of predictions whose prompts are marked, in every way there is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from prefect_cometapi import (
    CometAPICredentials,
    CometAPIError,
    PredictionJob,
    PredictionRequest,
    cancel_prediction,
    create_prediction,
    fill_template,
    generate,
    generate_prompts,
    get_prediction,
    poll_prediction,
    run_predictions,
    save_outputs,
)
from tests.leaks.search import PROMPT

MODEL = "owner/name"
#: What happens to a prediction; see `service`.
CASES = (
    *("fine", "failed", "filtered", "canceled", "slow", "flaky", "busy"),
    *("refused", "gateway", "plain", "dropped", "page", "nameless", "gone"),
)
#: What came of each, for the test.
SEEN: dict[str, str] = {}


def input(case: str) -> dict[str, Any]:
    return {
        "prompt": f"{case} or so, a paper boat\nwith {PROMPT} on it, at night",
        "negative_prompt": f"no ships, no {PROMPT}",
        "seed": 7,
    }


def attempt(name: str, work: Callable[[], object]) -> None:
    """Do something that may fail; Prefect sees how."""

    @flow(name=name)
    def trying() -> None:
        work()

    state = trying(return_state=True)
    SEEN[name] = state.type.value


def one_by_one(credentials: CometAPICredentials, cases: Iterable[str]) -> None:
    for case in cases:
        more: Any = {"timeout": 1.0} if case in ("slow", "gone") else {}
        try:
            generate(credentials, MODEL, input(case), "pictures", **more)
        except CometAPIError as error:
            SEEN[case] = type(error).__name__
        else:
            SEEN[case] = "made"


def step_by_step(credentials: CometAPICredentials) -> None:
    made = create_prediction(credentials, MODEL, input("fine"))
    get_prediction(credentials, made)
    get_prediction(credentials, made.id)
    save_outputs(credentials, poll_prediction(credentials, made), "pictures", provenance=True)
    running = create_prediction(credentials, MODEL, input("slow"))
    cancel_prediction(credentials, running)
    cancel_prediction(credentials, running.id)
    failing = create_prediction(credentials, MODEL, input("failed"))
    get_prediction(credentials, failing.id)
    poll_prediction(credentials, failing.id)


def a_job(credentials: CometAPICredentials) -> None:
    job = PredictionJob(credentials=credentials, model=MODEL, input=input("fine"))
    run = job.trigger()
    run.wait_for_completion()
    run.fetch_result()
    job.trigger(input("failed")).wait_for_completion()


def rows() -> Iterator[dict[str, Any]]:
    for colour in ("red", "blue"):
        yield {"id": colour, "colour": f"{colour} {PROMPT}"}
    yield {"id": "empty", "colour": None}


def a_batch(credentials: CometAPICredentials, **options: Any) -> None:
    def inputs() -> Iterator[Any]:
        for case in CASES:
            yield PredictionRequest(input=input(case), key=case if case == "fine" else None)
        yield from fill_template("fine and {{ colour }}", rows(), key="id")
        yield from fill_template("{{ colour | int }} {{ colour.nothing }}", rows())
        yield f"no input, {PROMPT}"
        yield {"prompt": {f"no JSON {PROMPT}"}}

    run_predictions(
        credentials,
        MODEL,
        inputs(),
        "pictures",
        prediction_timeout=1.5,
        **{"scope": os.environ["RUN_NAME"], **options},
    )


def another_prompt_for_a_key(credentials: CometAPICredentials) -> None:
    changed = PredictionRequest(input={"prompt": f"fine, but changed, {PROMPT}"}, key="fine")
    run_predictions(credentials, MODEL, [changed], "pictures", scope=os.environ["RUN_NAME"])


def inputs_that_end_badly(credentials: CometAPICredentials) -> None:
    def inputs() -> Iterator[Any]:
        yield input("fine")
        raise LookupError(f"no row for {PROMPT}")

    run_predictions(credentials, MODEL, inputs(), "pictures")


def an_account_that_is_closed(credentials: CometAPICredentials) -> None:
    run_predictions(credentials, MODEL, [input("account")], "pictures")


def prompts(credentials: CometAPICredentials, brief: str) -> None:
    generate_prompts(credentials, f"{brief} {PROMPT}", 1, storage="prompts")


def main(few: bool) -> None:
    credentials = CometAPICredentials.from_env()
    attempt("one", partial(generate, credentials, MODEL, input("failed"), "pictures"))
    attempt("a batch", lambda: a_batch(credentials))
    if not few:
        attempt("one by one", lambda: one_by_one(credentials, CASES))
        twice: Any = {"on_in_doubt": "resubmit", "attempts": 2}
        attempt("twice", partial(generate, credentials, MODEL, input("plain"), "pictures", **twice))
        attempt("step by step", lambda: step_by_step(credentials))
        attempt("a job", lambda: a_job(credentials))
        attempt("a plan", lambda: a_batch(credentials, dry_run=True))
        attempt("again", lambda: a_batch(credentials))
        attempt("another prompt", lambda: another_prompt_for_a_key(credentials))
        attempt("bad end", lambda: inputs_that_end_badly(credentials))
        attempt("closed", lambda: an_account_that_is_closed(credentials))
        for brief in ("refused", "declined", "written"):
            attempt(f"prompts {brief}", partial(prompts, credentials, brief))
    Path("seen.json").write_text(json.dumps(SEEN))


if __name__ == "__main__":
    main(few="few" in sys.argv)
