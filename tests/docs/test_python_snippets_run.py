"""Every Python snippet of the README and the pages runs as it stands, against the simulator."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.blocks.core import Block

from prefect_cometapi import CometAPICredentials, PredictionJob, prune_records
from prefect_cometapi.simulator import Simulator
from tests.docs.conftest import BLOCKS
from tests.docs.pages import NOT_RUN, PROSE, Snippet, snippets
from tests.processes import ROOT, python, with_key

#: The other blocks of the tutorial go on with what a reader has done before: a walk of its own.
PYTHON = [each for each in snippets("python") if each.page != "docs/tutorial.md" or each.title]
TESTS = [each for each in PYTHON if "def test_" in each.code]
RUN = [each for each in PYTHON if each not in TESTS and "not run" not in each.marks]


def run(snippet: Snippet) -> None:
    """Run it as a script of its own; tracebacks name the lines of the page."""
    lines = "\n" * (snippet.line - 1) + snippet.code + snippet.then
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(lines, str(ROOT / snippet.page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("snippet", RUN, ids=str)
def test_it_runs(
    snippet: Snippet, world: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_aws import S3Bucket

    monkeypatch.chdir(tmp_path)
    if "S3Bucket(" in snippet.code:
        for name in BLOCKS:
            if f'"{name}"' in snippet.code:  # it saves that itself
                S3Bucket.delete(name)
    before = world.counts.creates
    run(snippet)
    if "scope=" in snippet.code:  # another page may use the same one, with another storage
        prune_records(older_than=0, everything=True)
    # One that only defines something would run, whatever it says.
    elsewhere = ".save(" in snippet.code or "simulator.run(" in snippet.code
    assert world.counts.creates > before or elsewhere


@pytest.mark.parametrize("block", [CometAPICredentials, PredictionJob])
def test_the_example_that_the_ui_shows_of_a_block_runs(
    block: type[Block], world: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    credentials = CometAPICredentials.load("default")
    model, input = "black-forest-labs/flux-schnell", {"prompt": "A paper boat"}
    PredictionJob(credentials=credentials, model=model, input=input).save("default", overwrite=True)
    example = textwrap.dedent(re.split("```(?:python)?", block.get_code_example() or "")[1])
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(example.replace("BLOCK_NAME", "default"), names)  # noqa: S102
    flows: list[Any] = [each for each in names.values() if isinstance(each, Flow)]
    [made] = [flow() for flow in flows]
    assert len(made.files) == 1


@pytest.mark.slow
def test_the_tests_pass(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    for number, each in enumerate(TESTS):
        (tmp_path / f"test_{number}.py").write_text(each.code, "utf-8")
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    environment = with_key(prefect_environment, cometapi_simulator)
    done = python(*words, cwd=tmp_path, env=environment, seconds=300)
    expected = sum(each.code.count("def test_") for each in TESTS)
    assert f"{expected} passed" in done.stdout


def test_nothing_is_left_out_unseen() -> None:
    left_out = [each for each in snippets() if "not run" in each.marks]
    assert all(each.marks["not run"] for each in left_out), "a reason is missing"
    assert Counter(each.page for each in left_out) == NOT_RUN


@pytest.mark.parametrize("snippet", snippets("json"), ids=str)
def test_json_is_json(snippet: Snippet) -> None:
    json.loads(snippet.code)


def test_every_language_is_one_that_is_checked() -> None:
    checked = {"python", "bash", "yaml", "toml", "sql", "json"}
    assert {each.language for each in snippets()} <= checked | PROSE


@pytest.mark.parametrize("page", ["README.md", "docs/batches.md", "docs/prompts.md"])
def test_snippets_are_found(page: str) -> None:
    assert sum(each.page == page for each in RUN) >= 2
