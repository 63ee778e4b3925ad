"""What Prefect stores, or sends to other processes, names the block, and holds no key."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import INPUTS
from prefect.context import serialize_context
from prefect.exceptions import SerializationError
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner

from prefect_cometapi import CometAPICredentials, ConfigurationError, PredictionJob
from tests.servers import KEY
from tests.travelling import holds_key, job_with, key_of, made_in_code


def test_the_key_is_dumped_into_block_documents_only(from_env: CometAPICredentials) -> None:
    secrets = {"include_secrets": True}
    for mode in ("python", "json"):
        for block in (made_in_code(), from_env):
            document = block.model_dump(mode=mode, by_alias=True, context=secrets.copy())
            assert document["api_key"] == KEY
            assert not holds_key(pickle.dumps(block.model_dump(mode=mode, context=secrets.copy())))
            assert not holds_key(block.model_dump_json())
            job = job_with(block)
            document = job.model_dump(mode=mode, by_alias=True, context=secrets.copy())
            assert document["credentials"]["api_key"] == KEY
    job = job_with(made_in_code())
    assert not holds_key(pickle.dumps(job.model_dump(context=secrets.copy())))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_context_that_goes_along_to_other_processes_holds_no_key(
    from_env: CometAPICredentials,
) -> None:
    @task
    def in_a_task(credentials: CometAPICredentials, job: PredictionJob) -> bytes:
        data: bytes = cloudpickle.dumps(serialize_context())
        return data

    @flow
    def sends(credentials: CometAPICredentials, job: PredictionJob) -> list[bytes]:
        return [in_a_task(credentials, job), cloudpickle.dumps(serialize_context())]

    for credentials in (made_in_code(), from_env):
        for data in sends(credentials, job_with(credentials)):
            assert len(data) > 1000
            assert not holds_key(data)


# --- Prefect's ways to other threads and processes --------------------------------------------


@task
def key_in(credentials: CometAPICredentials, number: int = 0) -> tuple[str, int]:
    """Runs in another process, too."""
    return credentials.base_url, os.getpid()


@task
def key_in_job(job: PredictionJob) -> tuple[str, int]:
    return job.credentials.base_url, os.getpid()


@pytest.fixture
def storage(tmp_path: Path, prefect_server: None) -> Iterator[Path]:
    """Where Prefect stores results and parameters during the test."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "storage"}):
        yield tmp_path / "storage"


def stored(storage: Path) -> list[bytes]:
    return [path.read_bytes() for path in storage.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_tasks_in_threads_need_no_reference() -> None:
    @flow
    def works(credentials: CometAPICredentials, job: PredictionJob) -> list[str]:
        roots = [key_in(credentials)[0], key_in_job(job)[0]]
        roots.append(key_in.submit(credentials).result()[0])
        roots += [
            found[0] for found in key_in.map(unmapped(credentials), number=[1, 2, 3]).result()
        ]
        return roots

    credentials = made_in_code(base_url="https://gate.example")
    assert works(credentials, job_with(credentials)) == ["https://gate.example"] * 6


@pytest.mark.slow
def test_a_cached_task_takes_credentials(storage: Path) -> None:
    runs: list[str] = []

    @task(cache_policy=INPUTS, persist_result=True)
    def cached(credentials: CometAPICredentials, prompt: str) -> str:
        runs.append(prompt)
        return prompt

    @flow
    def twice(credentials: CometAPICredentials) -> None:
        cached(credentials, "boat")
        cached(credentials, "boat")
        cached(credentials, "train")

    twice(made_in_code())
    assert runs == ["boat", "train"]
    assert stored(storage)
    assert not [content for content in stored(storage) if holds_key(content)]


@pytest.mark.slow
def test_a_result_with_credentials_is_stored_as_their_name(
    storage: Path, saved: CometAPICredentials
) -> None:
    @task(persist_result=True)
    def load() -> CometAPICredentials:
        return saved

    @flow
    def loads() -> CometAPICredentials:
        return load()

    assert key_of(loads()) == KEY
    (content,) = stored(storage)
    assert not holds_key(content)
    assert b"to-travel" in base64.b64decode(json.loads(content)["result"])


@pytest.mark.slow
@pytest.mark.parametrize("which", ["saved", "from the environment"])
def test_a_process_pool(
    which: str,
    saved: CometAPICredentials,
    prefect_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Parameters arrive before Prefect gives the process its settings: the environment counts.
    monkeypatch.setenv("PREFECT_API_URL", prefect_environment["PREFECT_API_URL"])
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    monkeypatch.setenv("COMETAPI_BASE_URL", "https://gate.example")
    credentials = saved if which == "saved" else CometAPICredentials.from_env()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
    def elsewhere(given: CometAPICredentials) -> list[tuple[str, int]]:
        futures = [key_in.submit(given), key_in_job.submit(job_with(given))]
        return [future.result() for future in futures]

    for root, process in elsewhere(credentials):
        assert root == "https://gate.example"
        assert process != os.getpid()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_process_pool_is_not_given_what_has_no_reference() -> None:
    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
    def elsewhere(given: CometAPICredentials) -> object:
        return key_in.submit(given).result()

    with pytest.raises(ConfigurationError, match=r"credentials\.save") as caught:
        elsewhere(made_in_code())
    assert not holds_key(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a flow with credentials"])
def test_a_background_task(storage: Path, saved: CometAPICredentials, inside: bool) -> None:
    from prefect.client.orchestration import get_client
    from prefect.task_worker import TaskWorker

    @flow
    def sends(given: CometAPICredentials, job: PredictionJob) -> list[Any]:
        return [key_in.delay(given).task_run_id, key_in_job.delay(job).task_run_id]

    job = job_with(saved)
    ids = (
        sends(saved, job)
        if inside
        else [key_in.delay(saved).task_run_id, key_in_job.delay(job).task_run_id]
    )
    contents = stored(storage)
    assert len(contents) == 2
    assert all(b"to-travel" in base64.b64decode(json.loads(each)["result"]) for each in contents)
    assert not [content for content in contents if holds_key(content)]

    async def work() -> list[Any]:
        results = []
        async with get_client() as client, TaskWorker(key_in, key_in_job) as worker:
            for task_run_id in ids:
                await worker.execute_task_run(await client.read_task_run(task_run_id))
            for task_run_id in ids:
                for _ in range(200):
                    run = await client.read_task_run(task_run_id)
                    if run.state and run.state.is_final():
                        break
                    await asyncio.sleep(0.1)
                assert run.state is not None
                results.append(await run.state.aresult())
        return results

    assert [root for root, _ in asyncio.run(work())] == ["https://gate.example"] * 2
    assert not [content for content in stored(storage) if holds_key(content)]


@pytest.mark.slow
def test_a_background_task_is_not_given_what_has_no_reference(storage: Path) -> None:
    refused: list[Callable[[], object]] = [
        lambda: key_in.delay(made_in_code()),
        lambda: key_in_job.delay(job_with(made_in_code())),
    ]
    for delay in refused:
        with pytest.raises(SerializationError) as caught:
            delay()
        assert isinstance(caught.value.__cause__, ConfigurationError)
        assert "credentials.save(" in str(caught.value.__cause__)
        assert not holds_key("".join(traceback.format_exception(caught.value)))
    assert not [content for content in stored(storage) if holds_key(content)]
