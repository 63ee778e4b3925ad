"""What is sent to Dask, process pools or background tasks names the block, and holds no key."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import pickle
import subprocess
import sys
import threading
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
from pydantic import SecretStr

from prefect_cometapi import (
    CometAPICredentials,
    ConfigurationError,
    MissingAPIKey,
    PredictionJob,
    portal,
)
from prefect_cometapi.urls import DEFAULT_API_ROOT
from tests.servers import BOAT, KEY, MODEL

OTHER_KEY = "sk-test-another-key-987654321"
PICKLERS = pytest.mark.parametrize("pickler", [pickle, cloudpickle])


def made_in_code(**fields: Any) -> CometAPICredentials:
    return CometAPICredentials(**{"api_key": SecretStr(KEY)} | fields)


def job_with(credentials: CometAPICredentials) -> PredictionJob:
    return PredictionJob(credentials=credentials, model=MODEL, input=BOAT)


def key_of(credentials: CometAPICredentials) -> str:
    return credentials.api_key.get_secret_value()


def holds_key(data: object) -> bool:
    """True where the key is in bytes or text, also inside of base64 in JSON."""
    text = data.decode("latin-1") if isinstance(data, bytes) else str(data)
    if KEY in text or KEY.encode().hex() in text:
        return True
    try:
        inner = json.loads(text)["result"]
    except (ValueError, TypeError, KeyError):
        return False
    return holds_key(base64.b64decode(inner))


def test_the_search_finds_a_key_where_prefect_would_hide_it() -> None:
    stored = base64.encodebytes(pickle.dumps({"key": KEY})).decode()
    assert holds_key(json.dumps({"metadata": {}, "result": stored}).encode())


@pytest.fixture
def from_env(monkeypatch: pytest.MonkeyPatch) -> CometAPICredentials:
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    return CometAPICredentials.from_env()


# --- from the environment ---------------------------------------------------------------------


@PICKLERS
def test_the_environment_is_read_where_they_arrive(
    pickler: Any, from_env: CometAPICredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickler.dumps(from_env)
    assert not holds_key(data)
    monkeypatch.setenv("COMETAPI_KEY", OTHER_KEY)
    arrived = pickle.loads(data)  # noqa: S301
    assert type(arrived) is CometAPICredentials
    assert key_of(arrived) == OTHER_KEY
    assert pickle.loads(pickler.dumps(arrived)) == arrived, "and may be sent on"  # noqa: S301


def test_an_environment_without_a_key_says_what_is_missing(
    from_env: CometAPICredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pickle.dumps(from_env)
    monkeypatch.delenv("COMETAPI_KEY")
    with pytest.raises(MissingAPIKey, match="sent to this process") as caught:
        pickle.loads(data)  # noqa: S301
    assert "COMETAPI_KEY" in str(caught.value)


def test_an_environment_with_another_base_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sent by somebody who works with the simulator, to a process that would spend money.
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    monkeypatch.setenv("COMETAPI_BASE_URL", "http://127.0.0.1:8000")
    data = pickle.dumps(CometAPICredentials.from_env())
    monkeypatch.delenv("COMETAPI_BASE_URL")
    with pytest.raises(ConfigurationError, match="COMETAPI_BASE_URL") as caught:
        pickle.loads(data)  # noqa: S301
    assert "http://127.0.0.1:8000" in str(caught.value)
    assert DEFAULT_API_ROOT in str(caught.value)
    assert not holds_key(caught.value)


# --- made in code -----------------------------------------------------------------------------

MADE: dict[str, Callable[[], CometAPICredentials]] = {
    "in code": made_in_code,
    "from_env with an override": lambda: CometAPICredentials.from_env(base_url="https://a.example"),
    "from_env, changed later": lambda: CometAPICredentials.from_env().model_copy(
        update={"base_url": "https://a.example"}
    ),
    "from_env, another key": lambda: CometAPICredentials.from_env().model_copy(
        update={"api_key": SecretStr(OTHER_KEY)}
    ),
    "validated": lambda: CometAPICredentials.model_validate({"api_key": KEY}),
    "constructed": lambda: CometAPICredentials.model_construct(
        api_key=SecretStr(KEY), base_url=DEFAULT_API_ROOT, allow_insecure=False
    ),
}


@PICKLERS
@pytest.mark.parametrize("how", MADE)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a job"])
def test_what_has_no_reference_is_not_sent(
    how: str, pickler: Any, inside: bool, from_env: CometAPICredentials
) -> None:
    credentials: object = job_with(MADE[how]()) if inside else MADE[how]()
    with pytest.raises(ConfigurationError) as caught:
        pickler.dumps({"parameters": [credentials]})
    message = str(caught.value)
    assert 'credentials.save("default")' in message
    assert "CometAPICredentials.from_env()" in message
    assert KEY not in message
    assert OTHER_KEY not in message
    assert type(pickle.loads(pickle.dumps(caught.value))) is ConfigurationError  # noqa: S301


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy in a dict": lambda block: copy.deepcopy({"a": [block]})["a"][0],
    "model_copy": lambda block: block.model_copy(),
    "deep model_copy": lambda block: block.model_copy(deep=True),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_within_the_process_are_whole(how: str, from_env: CometAPICredentials) -> None:
    for credentials in (made_in_code(), from_env):
        copied = COPIES[how](credentials)
        assert copied == credentials
        assert key_of(copied) == KEY
        job = COPIES[how](job_with(credentials))
        assert key_of(job.credentials) == KEY
    assert pickle.loads(pickle.dumps(COPIES[how](from_env))) == from_env  # noqa: S301


def test_a_job_with_credentials_from_the_environment_travels(from_env: CometAPICredentials) -> None:
    job = job_with(from_env)
    data = cloudpickle.dumps(job)
    assert not holds_key(data)
    assert pickle.loads(data) == job  # noqa: S301


class OfOurs(CometAPICredentials):
    """A user's own kind of credentials."""

    _block_type_slug = "cometapi-credentials-of-ours"


def test_a_subclass_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    assert type(pickle.loads(pickle.dumps(OfOurs.from_env()))) is OfOurs  # noqa: S301


# --- what Prefect dumps -----------------------------------------------------------------------


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


# --- saved blocks -----------------------------------------------------------------------------


@pytest.fixture
def saved(prefect_server: None) -> CometAPICredentials:
    """Credentials that somebody saved, as they are loaded."""
    made: Any = made_in_code(base_url="https://gate.example")
    made.save("to-travel", overwrite=True)
    loaded: CometAPICredentials = CometAPICredentials.load("to-travel")  # type: ignore[assignment]
    return loaded


@pytest.mark.slow
@PICKLERS
def test_a_saved_block_is_its_name(pickler: Any, saved: CometAPICredentials) -> None:
    data = pickler.dumps(saved)
    assert b"to-travel" in data
    assert not holds_key(data)
    assert pickle.loads(data) == saved  # noqa: S301
    changed: Any = made_in_code(api_key=SecretStr(OTHER_KEY))
    changed.save("to-travel", overwrite=True)
    assert key_of(pickle.loads(data)) == OTHER_KEY, "read anew each time"  # noqa: S301
    assert key_of(pickle.loads(pickler.dumps(changed))) == OTHER_KEY, "saving is enough"  # noqa: S301


@pytest.mark.slow
def test_a_saved_block_that_was_changed_is_not_sent(saved: CometAPICredentials) -> None:
    # It would arrive without the change: at another API, or with another account.
    changed = saved.model_copy(update={"base_url": "http://127.0.0.1:8000"})
    with pytest.raises(ConfigurationError, match="made or changed in code"):
        pickle.dumps(changed)
    saved.api_key = SecretStr(OTHER_KEY)
    with pytest.raises(ConfigurationError, match="made or changed in code"):
        pickle.dumps(saved)


@pytest.mark.slow
def test_a_block_that_is_not_there_any_more_says_so(prefect_server: None) -> None:
    made: Any = made_in_code()
    made.save("soon-gone", overwrite=True)
    data = pickle.dumps(made)
    CometAPICredentials.delete("soon-gone")
    with pytest.raises(ConfigurationError, match="can not be loaded") as caught:
        pickle.loads(data)  # noqa: S301
    assert '"soon-gone"' in str(caught.value)
    assert "PREFECT_API_URL" in str(caught.value)


@pytest.mark.slow
def test_a_saved_block_is_loaded_in_any_thread_and_loop(saved: CometAPICredentials) -> None:
    data = pickle.dumps(saved)
    seen: list[str] = []

    def load() -> None:
        seen.append(key_of(pickle.loads(data)))  # noqa: S301

    async def in_a_loop() -> None:
        load()
        await asyncio.to_thread(load)

    @flow
    async def in_an_async_flow() -> None:
        load()

    @flow
    def in_a_flow() -> None:
        load()

    load()
    asyncio.run(in_a_loop())
    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    asyncio.run(in_an_async_flow())
    in_a_flow()
    assert seen == [KEY] * 6


@pytest.mark.slow
async def test_a_saved_block_is_loaded_while_a_loop_runs(saved: CometAPICredentials) -> None:
    assert pickle.loads(pickle.dumps(saved)) == saved  # noqa: S301


@pytest.mark.slow
def test_a_saved_job_travels_with_the_name_of_its_credentials(saved: CometAPICredentials) -> None:
    job: Any = job_with(saved)
    assert not holds_key(cloudpickle.dumps(job))
    job.save("to-travel-job", overwrite=True)
    loaded: Any = PredictionJob.load("to-travel-job")
    data = cloudpickle.dumps(loaded)
    assert b"to-travel" in data
    assert not holds_key(data)
    arrived = pickle.loads(data)  # noqa: S301
    assert key_of(arrived.credentials) == KEY
    assert arrived.credentials.base_url == "https://gate.example"


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


@pytest.mark.slow
def test_another_process_loads_the_block_by_its_name(
    saved: CometAPICredentials, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "parameters"
    path.write_bytes(cloudpickle.dumps({"credentials": saved}))
    script = (
        "import pickle, sys; from pathlib import Path; "
        "print(pickle.loads(Path(sys.argv[1]).read_bytes())['credentials'].base_url)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env=prefect_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "https://gate.example", done.stderr
    assert portal.background_loop().is_running()
