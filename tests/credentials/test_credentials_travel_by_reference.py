"""Credentials that are pickled name the block or the environment, and hold no key."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from prefect import flow
from pydantic import SecretStr

from prefect_cometapi import (
    CometAPICredentials,
    ConfigurationError,
    MissingAPIKey,
    PredictionJob,
    portal,
)
from prefect_cometapi.urls import DEFAULT_API_ROOT
from tests.processes import python
from tests.servers import KEY
from tests.travelling import holds_key, job_with, key_of, made_in_code

OTHER_KEY = "sk-test-another-key-987654321"
PICKLERS = pytest.mark.parametrize("pickler", [pickle, cloudpickle])


def test_the_search_finds_a_key_where_prefect_would_hide_it() -> None:
    stored = base64.encodebytes(pickle.dumps({"key": KEY})).decode()
    assert holds_key(json.dumps({"metadata": {}, "result": stored}).encode())


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


# --- saved blocks -----------------------------------------------------------------------------


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
    done = python("-c", script, path, env=prefect_environment)
    assert done.stdout.strip() == "https://gate.example"
    assert portal.background_loop().is_running()
