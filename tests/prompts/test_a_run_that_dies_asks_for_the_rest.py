"""Each answer of a language model is kept when it comes: a run that dies goes on with what is there
and pays for the rest. Of several processes one at a time asks, and all have the same prompts.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate

from prefect_cometapi import (
    AccountError,
    PromptsNotWritten,
    StorageError,
    holdings,
    portal,
    prompt_writing,
)
from prefect_cometapi.prompt_rules import SHORT_MOST
from tests.processes import answers, ran, started, wait_until, with_key
from tests.prompts.conftest import Writing, prompts_of, said
from tests.servers import Answer, Request, reply, serve
from tests.stopping import started as watched
from tests.storages import FolderOfObjects


def wanted(writing: Writing) -> list[int]:
    """How many prompts each question was for."""
    return [int(each["messages"][1]["content"].split()[2]) for each in writing.questions()]


def claims() -> list[str]:
    """The Variables of prompts that are being written."""
    with get_client(sync_client=True) as client:
        found = client.request(
            "POST",
            "/variables/filter",
            json={"variables": {"tags": {"all_": [holdings.PROMPTS_TAG]}}},
        )
    return [each["name"] for each in found.json()]


# --- what is there is kept --------------------------------------------------------------------


def test_a_run_that_dies_in_between_goes_on_with_what_is_there(
    writing: Writing, log: pytest.LogCaptureFixture
) -> None:
    writing.service.script("chat", ["ok", "ok", "402"])
    with pytest.raises(AccountError):
        writing.write(n=120)
    before = [each["prompt"] for each in writing.kept()["prompts"]]
    assert 50 < len(before) <= 100
    made = prompts_of(writing.write(n=120))
    assert made[: len(before)] == before
    assert len({prompt.casefold() for prompt in made}) == 120
    assert sum(wanted(writing)[3:]) < 120 - 50, "only the rest was asked for"
    kept = writing.kept()
    assert kept["rounds"] == writing.asked - 1, "the one that failed brought nothing"
    assert f"{len(before)} of 120 prompts are there" in "".join(said(log))
    asked = writing.asked
    assert prompts_of(writing.write(n=120)) == made
    assert writing.asked == asked


def test_so_does_one_whose_model_brought_too_few(writing: Writing) -> None:
    writing.service.set_fault("chat.duplicates", 1.0)
    with pytest.raises(PromptsNotWritten) as raised:
        writing.write(n=20)
    writing.service.clear_faults()
    made = prompts_of(writing.write(n=20))
    assert made[: len(raised.value.prompts)] == raised.value.prompts
    assert wanted(writing)[SHORT_MOST] == 20 - len(raised.value.prompts)


class Failing(FolderOfObjects):
    """Takes one file, and then no more until somebody sees to it."""

    _block_type_name = "Failing objects for tests"
    _block_type_slug = "failing-objects"

    _room: int = 1

    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        if to_path.startswith("prompts/"):
            self._room -= 1
            if self._room < 0:
                raise OSError("no space left")
        return await super().upload_from_path(from_path, to_path)


def test_so_does_one_whose_storage_fails_half_way_through(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_writing, "PAUSES", (0.01, 0.01))
    block = Failing(root=str(writing.folder))
    with pytest.raises(StorageError, match="no space left"):
        writing.write(n=80, storage=block)
    before = [each["prompt"] for each in writing.kept()["prompts"]]
    assert writing.asked == 2
    block._room = 100
    made = prompts_of(writing.write(n=80, storage=block))
    assert made[: len(before)] == before
    assert wanted(writing)[2] == 80 - len(before)


def test_an_answer_is_kept_though_the_storage_does_not_take_it_at_once(writing: Writing) -> None:
    block = Slow(root=str(writing.folder))
    writing.write(n=5, storage=block)
    assert writing.asked == 1
    assert len(writing.kept()["prompts"]) == 5


class Slow(FolderOfObjects):
    """Takes prompts with the third try only."""

    _block_type_name = "Slow objects for tests"
    _block_type_slug = "slow-objects"

    _tries: int = 0

    async def upload_from_path(self, from_path: str | Path, to_path: str, **_: Any) -> str:
        if to_path.startswith("prompts/"):
            self._tries += 1
            if self._tries < 3:
                raise OSError("slow down")
        return await super().upload_from_path(from_path, to_path)


def test_nothing_is_left_on_the_server(writing: Writing) -> None:
    writing.write()
    writing.service.set_fault("chat.401", 1.0)
    with pytest.raises(AccountError):
        writing.write(sample=1)
    assert claims() == []


def test_what_a_killed_process_has_left_there_is_pruned_when_it_is_old(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = holdings.Holding(scope=writing.scope, place="", identity="")
    new = VariableCreate(
        name=holdings.variable_name(writing.scope),
        value=left.model_dump(mode="json"),
        tags=[holdings.PROMPTS_TAG],
    )
    with get_client(sync_client=True) as client:
        client.create_variable(new)
    portal.call(holdings.forget, timedelta(0), "another scope")
    portal.call(holdings._forget_prompts, timedelta(0))
    assert claims() == [new.name], "it may be at work"
    monkeypatch.setattr(holdings, "PROMPTS_LEAST", 0.0)
    portal.call(holdings._forget_prompts, timedelta(0))
    assert claims() == []
    assert writing.scope not in {each.scope for each in portal.call(holdings.holdings)}


@pytest.mark.parametrize("other", [{"n": 7}, {"brief": "Ships"}, {"scope": "another"}], ids=repr)
def test_what_belongs_to_another_request_is_refused(writing: Writing, other: Any) -> None:
    writing.write()
    [first] = writing.files()
    writing.write(**other)
    [second] = set(writing.files()) - {first}
    second.replace(first)
    asked = writing.asked
    with pytest.raises(StorageError, match="can not be read"):
        writing.write()
    assert writing.asked == asked


# --- processes --------------------------------------------------------------------------------

SCRIPT = """
import json, sys
from pathlib import Path
from prefect_cometapi import CometAPICredentials, generate_prompts, run_predictions

folder, scope = map(json.loads, sys.argv[1:])
credentials = CometAPICredentials.from_env()
requests = generate_prompts.fn(credentials, "Boats", 5, storage=Path(folder), scope=scope)
result = run_predictions.fn(credentials, "simulator/text", requests, Path(folder), scope=scope)
print(json.dumps([[item.excerpt, item.prediction_id] for item in result.items]))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_them_for_the_next(
    writing: Writing, prefect_environment: dict[str, str]
) -> None:
    environment, service = with_key(prefect_environment, writing.service), writing.service
    service.set_fault("prediction.endless", 1.0)
    with started(SCRIPT, str(writing.folder), writing.scope, env=environment) as process:
        wait_until(lambda: service.counts.creates == 5 and service.counts.polls > 5)
        process.kill()
    before = set(service.predictions)
    for id in before:
        assert service.predictions[id].status == "processing"
    service.clear_faults()
    # The predictions never end: what matters is that they are found, and no others made.
    with started(SCRIPT, str(writing.folder), writing.scope, env=environment) as process:
        polls = service.counts.polls
        wait_until(lambda: service.counts.polls > polls + 10 or process.poll() is not None)
        process.kill()
    assert writing.asked == 1
    assert set(service.predictions) == before


WRITE = """
import json, logging, sys
from pathlib import Path
from prefect_cometapi import CometAPICredentials, generate_prompts

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
folder, scope, n = map(json.loads, sys.argv[1:])
credentials = CometAPICredentials.from_env()
requests = generate_prompts.fn(credentials, "Boats", n, storage=Path(folder), scope=scope)
print(json.dumps([each.input["prompt"] for each in requests]))
"""


@pytest.mark.slow
def test_killed_in_between_the_next_one_asks_for_the_rest(
    writing: Writing, prefect_environment: dict[str, str]
) -> None:
    environment, service = with_key(prefect_environment, writing.service), writing.service
    service.script("chat", ["ok", "hang"])
    with started(WRITE, str(writing.folder), writing.scope, 80, env=environment) as process:
        wait_until(lambda: writing.asked == 2)
        process.kill()
    before = [each["prompt"] for each in writing.kept()["prompts"]]
    assert 0 < len(before) <= 50
    assert len(claims()) == 1
    [made] = ran(WRITE, str(writing.folder), writing.scope, 80, env=environment)
    assert made[: len(before)] == before
    assert wanted(writing)[2] == 80 - len(before)
    assert claims() == [], "who was dead was not waited for"


@pytest.mark.slow
def test_two_that_start_together_have_the_same(
    writing: Writing, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    waits, asked = threading.Event(), 0

    async def handler(_: Request) -> Answer:
        nonlocal asked
        asked += 1
        content = json.dumps({"prompts": [f"Boat {number} of {asked}" for number in range(6)]})
        await asyncio.to_thread(waits.wait, 100)
        return reply({"choices": [{"message": {"content": content}}]})

    script, log = tmp_path / "write.py", tmp_path / "other"
    script.write_text(WRITE)
    words = json.dumps(str(writing.folder)), json.dumps(writing.scope), "6"
    with serve(handler) as server:
        environment = {
            **with_key(prefect_environment, writing.service),
            "COMETAPI_BASE_URL": server.url,
        }
        with started(WRITE, *map(json.loads, words), env=environment) as one:
            wait_until(lambda: asked)
            with watched(str(script), *words, environment=environment, log=log) as other:
                wait_until(lambda: "is at work on the prompts of scope" in other.said)
                waits.set()
                [first] = answers(one)
                assert other.ended(60) == 0
    assert f"\n{json.dumps(first)}\n" in f"\n{other.said}"
    assert asked == 1


SUBMITTED = """
import json, sys
from prefect import flow
from prefect_cometapi import CometAPICredentials, generate_prompts

@flow
def gallery():
    credentials = CometAPICredentials.from_env()
    generate_prompts.submit(credentials, "Boats", 5, storage=sys.argv[1]).result()

gallery()
"""


@pytest.mark.slow
def test_ctrl_c_ends_it_in_a_thread_too(
    writing: Writing, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    environment = with_key(prefect_environment, writing.service)
    writing.service.script("chat", ["hang"])
    script = tmp_path / "submitted.py"
    script.write_text(SUBMITTED)
    words = str(script), str(writing.folder)
    with watched(*words, environment=environment, log=tmp_path / "log") as program:
        wait_until(lambda: writing.asked == 1 or not program.running())
        program.send(signal.SIGINT)
        assert program.ended(15) != 0, "a language model may take three minutes"
    assert claims() == []
