"""Credentials are checked when they are made, and what is wrong is said without showing the key."""

from __future__ import annotations

import copy
import io
import os
import traceback
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import blocks
from pydantic import SecretStr, ValidationError

import prefect_cometapi
from prefect_cometapi import CometAPICredentials, ConfigurationError, MissingAPIKey
from prefect_cometapi.urls import DEFAULT_API_ROOT
from tests.processes import ROOT, python
from tests.servers import ID, KEY, prediction, reply, serve


def make(**fields: Any) -> CometAPICredentials:
    return CometAPICredentials(**{"api_key": KEY} | fields)


# --- the key ----------------------------------------------------------------------------------


def test_a_key_is_enough() -> None:
    credentials = make()
    assert credentials.api_key.get_secret_value() == KEY
    assert credentials.base_url == DEFAULT_API_ROOT
    assert credentials.allow_insecure is False


@pytest.mark.parametrize("around", ["{} ", "\t{}", "{}\n", "\ufeff{}", "\u00a0{}\r\n", "\u200b{}"])
def test_what_pasting_leaves_around_a_key_is_taken_off(around: str) -> None:
    assert make(api_key=around.format(KEY)).api_key.get_secret_value() == KEY
    assert make(api_key=SecretStr(around.format(KEY))).api_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "   ",
        "\ufeff",
        f"{KEY} and more",
        f"{KEY}\nX-Evil: 1",
        f"{KEY}ü",
        f"{KEY}\x00x",
        f"{KEY}\N{EM DASH}x",
    ],
)
def test_a_key_that_can_not_be_sent_is_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(api_key=bad)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert KEY not in shown
    assert "API key" in shown


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": [KEY]},
        {"api_key": {"key": KEY}},
        {"api_key": KEY.encode() + b"\xff"},
        {"api_key": KEY, "base_url": "http://example.com"},
        {"api_key": KEY, "base_url": 7},
        {"api_key": KEY, "allow_insecure": "perhaps"},
        {"base_url": KEY},
        # Two fields of a form, filled in the wrong way round.
        {"api_key": "https://api.cometapi.com", "base_url": KEY},
    ],
)
def test_no_validation_error_shows_the_key(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        CometAPICredentials(**fields)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_nothing_that_is_shown_of_credentials_is_the_key() -> None:
    credentials = make()
    for shown in (
        repr(credentials),
        str(credentials),
        f"{credentials}",
        str(credentials.model_dump()),
        credentials.model_dump_json(),
        repr(credentials.get_client()),
        str(credentials.get_client()),
    ):
        assert KEY not in shown


# --- the base URL -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("https://api.cometapi.com", "https://api.cometapi.com"),
        ("https://api.cometapi.com/", "https://api.cometapi.com"),
        ("https://api.cometapi.com/v1", "https://api.cometapi.com"),
        (" https://API.CometAPI.com/v1/ \n", "https://api.cometapi.com"),
        ("https://gate.example/comet/v1", "https://gate.example/comet"),
        ("https://gate.example:8443", "https://gate.example:8443"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_base_url_is_brought_to_its_root(given: str, root: str) -> None:
    assert make(base_url=given).base_url == root
    assert make(base_url=given).get_client().api_root == root


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "api.cometapi.com",
        "ftp://api.cometapi.com",
        "https://",
        "https://user:s3cr3t@api.cometapi.com",
        "https://api.cometapi.com?x=1",
        "https://api.cometapi.com#x",
        "https://api.cometapi.com\\@evil.example",
        "https://api.cometapi.com:port",
        "http://api.cometapi.com",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://10.0.0.1",
        "http://0.0.0.0",
    ],
)
def test_a_base_url_that_is_not_safe_is_refused(bad: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(base_url=bad)
    assert "s3cr3t" not in str(caught.value)


def test_plain_http_to_another_host_takes_a_decision() -> None:
    assert make(base_url="http://staging:8000", allow_insecure=True).base_url == (
        "http://staging:8000"
    )
    with pytest.raises(ValidationError, match="allow_insecure=True"):
        make(base_url="http://staging:8000")
    with pytest.raises(ValidationError):  # and it opens nothing else
        make(base_url="ftp://staging", allow_insecure=True)


# --- the environment --------------------------------------------------------------------------


def test_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMETAPI_KEY", f"\ufeff{KEY}\n")
    monkeypatch.setenv("COMETAPI_BASE_URL", "https://gate.example/v1")
    credentials = CometAPICredentials.from_env()
    assert credentials.api_key.get_secret_value() == KEY
    assert credentials.base_url == "https://gate.example"
    assert CometAPICredentials.from_env(api_key="sk-other").api_key.get_secret_value() == "sk-other"
    assert CometAPICredentials.from_env(base_url=DEFAULT_API_ROOT).base_url == DEFAULT_API_ROOT


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_base_url_is_the_services_own(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    monkeypatch.setenv("COMETAPI_BASE_URL", empty)
    assert CometAPICredentials.from_env().base_url == DEFAULT_API_ROOT


@pytest.mark.parametrize("empty", [None, "", "  ", "\ufeff"])
def test_no_key_is_an_error_that_names_the_three_ways_to_set_one(
    empty: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if empty is not None:
        monkeypatch.setenv("COMETAPI_KEY", empty)
    with pytest.raises(MissingAPIKey) as caught:
        CometAPICredentials.from_env()
    message = str(caught.value)
    assert "three ways" in message
    assert "COMETAPI_KEY" in message
    assert "CometAPICredentials.load(" in message
    assert 'CometAPICredentials(api_key="…") in code' in message
    assert "python -m prefect_cometapi.simulator" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMETAPI_KEY", f"{KEY} {KEY}"),
        ("COMETAPI_BASE_URL", "http://example.com"),
        ("COMETAPI_BASE_URL", "nonsense"),
        ("PREFECT_INTEGRATIONS_COMETAPI_QUERY_TIMEOUT", "soon"),
        ("PREFECT_INTEGRATIONS_COMETAPI_QUERY_TIMEOUT", "-1"),
        ("PREFECT_INTEGRATIONS_COMETAPI_QUERY_TIMEOUT", "nan"),
        ("PREFECT_INTEGRATIONS_COMETAPI_REQUESTS_IN_FLIGHT", "0"),
    ],
)
def test_an_environment_that_is_not_usable_is_a_configuration_error(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMETAPI_KEY", KEY)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        CometAPICredentials.from_env().get_client()
    assert KEY not in "".join(traceback.format_exception(caught.value))


# --- copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda block: block.model_copy(),
    ],
)
def test_a_copy_works_like_the_original(duplicate: Any) -> None:
    # Prefect copies parameters.
    with serve(lambda _: reply(prediction())) as server:
        other = duplicate(make(base_url=f"{server.url}/v1"))
        assert type(other) is CometAPICredentials
        assert other.get_client().get_prediction(ID).id == ID
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


# --- Prefect ----------------------------------------------------------------------------------

BLOCKS: list[type[Block]] = [
    found
    for name in dir(prefect_cometapi)
    if isinstance(found := getattr(prefect_cometapi, name), type) and issubclass(found, Block)
]


def test_the_blocks_are_all_there() -> None:
    assert sorted(block.__name__ for block in BLOCKS) == ["CometAPICredentials", "PredictionJob"]
    assert blocks.HAS_PIL  # without it the suite skips the logo


class TestBlocksKeepPrefectsStandard(blocks.BlockStandardTestSuite):
    @pytest.fixture(params=BLOCKS, ids=lambda block: block.__name__)
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        found: type[Block] = request.param
        return found

    @pytest.fixture(autouse=True)
    def _logo_of_this_checkout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def open_here(url: str) -> io.BytesIO:
            assert url.startswith("https://")
            assert url.endswith("/main/docs/logo.png")
            return io.BytesIO((ROOT / "docs" / "logo.png").read_bytes())

        monkeypatch.setattr(blocks, "urlopen", open_here)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_prefect_registers_both_blocks() -> None:
    from prefect.settings import PREFECT_API_URL

    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "COLUMNS": "200"}

    def run(*words: str) -> str:
        return python("-m", "prefect", *words, env=environment).stdout

    registered = run("block", "register", "-m", "prefect_cometapi")
    assert "CometAPI Credentials" in registered
    assert "CometAPI Prediction Job" in registered
    assert "registered 2 blocks" in registered
    listed = run("block", "type", "ls")
    assert "cometapi-credentials" in listed
    assert "cometapi-prediction-job" in listed


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_credentials_are_saved_and_loaded() -> None:
    saved: Any = make(base_url="https://gate.example/v1")
    saved.save("gate", overwrite=True)
    loaded: Any = CometAPICredentials.load("gate")
    assert loaded.api_key.get_secret_value() == KEY
    assert loaded.base_url == "https://gate.example"
    assert KEY not in repr(loaded)
