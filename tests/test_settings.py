"""Every setting is found where the page says, in that order, and a bad one is named without being
repeated where it may be a key.
"""

import json
import os
import traceback
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from prefect_cometapi.errors import ConfigurationError, MissingAPIKey
from prefect_cometapi.settings import (
    MIB,
    WAYS_TO_SET_A_KEY,
    CometAPISettings,
    clean_api_key,
    load_settings,
)
from prefect_cometapi.urls import DEFAULT_API_ROOT
from tests.servers import SETTING


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without files, an environment without our names."""
    for name in os.environ:
        if name.upper().startswith(("COMETAPI", SETTING)):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> CometAPISettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def key_of(found: CometAPISettings) -> str | None:
    return found.api_key.get_secret_value() if found.api_key else None


def toml(place: Path, text: str) -> None:
    (place / "prefect.toml").write_text(f"[integrations.cometapi]\n{text}\n", encoding="utf-8")


def pyproject(place: Path, text: str) -> None:
    header = "[tool.prefect.integrations.cometapi]"
    (place / "pyproject.toml").write_text(f"{header}\n{text}\n", encoding="utf-8")


def test_defaults() -> None:
    found = load_settings()
    assert key_of(found) is None
    assert found.base_url == DEFAULT_API_ROOT
    assert found.max_whole_bytes < found.max_file_bytes == 512 * MIB
    assert 0 < found.poll_min < found.poll_max
    assert found.query_timeout < 45, "queries have been seen to hang for longer"


@pytest.mark.parametrize(
    ("environment", "key", "base_url"),
    [
        pytest.param({"COMETAPI_KEY": "sk-1"}, "sk-1", DEFAULT_API_ROOT, id="vendor-key"),
        pytest.param({"cometapi_key": "sk-1"}, "sk-1", DEFAULT_API_ROOT, id="any-case"),
        pytest.param({f"{SETTING}API_KEY": "sk-2"}, "sk-2", DEFAULT_API_ROOT, id="prefect-key"),
        pytest.param(
            {"COMETAPI_KEY": "sk-1", f"{SETTING}API_KEY": "sk-2"},
            "sk-1",
            DEFAULT_API_ROOT,
            id="vendor-key-first",
        ),
        pytest.param(
            {"COMETAPI_BASE_URL": "https://a.example/v1"},
            None,
            "https://a.example/v1",
            id="vendor-url",
        ),
        pytest.param(
            {f"{SETTING}BASE_URL": "https://b.example"}, None, "https://b.example", id="prefect-url"
        ),
        # Somebody else's key must not be taken for ours and sent to CometAPI.
        pytest.param(
            {"API_KEY": "sk-x", "BASE_URL": "https://x.example", "OPENAI_API_KEY": "sk-y"},
            None,
            DEFAULT_API_ROOT,
            id="plain-names-are-somebody-elses",
        ),
        pytest.param({"COMETAPI_BASE_URL": ""}, None, DEFAULT_API_ROOT, id="empty-url"),
        pytest.param({"COMETAPI_BASE_URL": " \ufeff"}, None, DEFAULT_API_ROOT, id="blank-url"),
        pytest.param({"COMETAPI_KEY": ""}, None, DEFAULT_API_ROOT, id="empty-key"),
        pytest.param({"COMETAPI_KEY": " \ufeff\n"}, None, DEFAULT_API_ROOT, id="blank-key"),
        pytest.param(
            {"COMETAPI_KEY": "\ufeff sk-1\r\n"}, "sk-1", DEFAULT_API_ROOT, id="pasted-key"
        ),
        # "An empty variable is how containers and CI systems spell 'not set'."
        pytest.param(
            {"COMETAPI_KEY": "", f"{SETTING}API_KEY": "sk-2"},
            "sk-2",
            DEFAULT_API_ROOT,
            id="empty-vendor-key-hides-nothing",
        ),
    ],
)
def test_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str | None, base_url: str
) -> None:
    found = settings(monkeypatch, **environment)
    assert (key_of(found), found.base_url) == (key, base_url)


NUMBERS: dict[str, float] = {
    "connect_timeout": 3.5,
    "create_timeout": 3.5,
    "chat_timeout": 3.5,
    "query_timeout": 3.5,
    "download_timeout": 3.5,
    "submit_timeout": 3.5,
    "reconnect_timeout": 3.5,
    "retry_after_cap": 3.5,
    "poll_min": 3.5,
    "poll_max": 3.5,
    "poll_share": 0.35,
    "requests_in_flight": 3,
    "downloads_in_flight": 3,
    "max_file_bytes": 3,
    "max_whole_bytes": 3,
}


def test_every_setting_is_in_a_table_here() -> None:
    others = {
        "api_key",
        "artifacts",
        "assets",
        "events",
        "base_url",
        "delivery_hosts",
        "ledger",
        "model_logs",
        "prices",
        "prompts",
        "remember_pace",
        "thumbnails",
    }
    assert set(CometAPISettings.model_fields) == others | set(NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_from_every_source_in_order(
    monkeypatch: pytest.MonkeyPatch, empty_place: Path, name: str
) -> None:
    value, default = NUMBERS[name], getattr(load_settings(), name)
    pyproject(empty_place, f"{name} = {value}")
    assert getattr(load_settings(), name) == value != default
    toml(empty_place, f"{name} = {value * 2}")
    assert getattr(load_settings(), name) == value * 2, "prefect.toml wins over pyproject.toml"
    monkeypatch.setenv(f"{SETTING}{name.upper()}", str(default))
    assert getattr(load_settings(), name) == default, "the environment wins over files"
    monkeypatch.delenv(f"{SETTING}{name.upper()}")
    monkeypatch.setenv(name.upper(), "1")
    assert getattr(load_settings(), name) == value * 2, "the bare name is somebody else's"


def test_key_and_url_from_files(monkeypatch: pytest.MonkeyPatch, empty_place: Path) -> None:
    pyproject(empty_place, 'api_key = "sk-p"\nbase_url = "https://p.example"')
    assert key_of(load_settings()) == "sk-p"
    toml(empty_place, 'api_key = "\ufeffsk-t "\nbase_url = "https://t.example"')
    found = load_settings()
    assert (key_of(found), found.base_url) == ("sk-t", "https://t.example")
    (empty_place / ".env").write_text("COMETAPI_KEY=sk-e\nAPI_KEY=sk-x\n")
    assert key_of(load_settings()) == "sk-e"
    found = settings(monkeypatch, API_KEY="sk-x", BASE_URL="https://x.example")
    assert (key_of(found), found.base_url) == ("sk-e", "https://t.example")
    assert key_of(settings(monkeypatch, COMETAPI_KEY="sk-v")) == "sk-v"
    assert key_of(load_settings()) == "sk-v", "each instance reads its sources afresh"


@pytest.mark.parametrize("name", ["COMETAPI_KEY", f"{SETTING}API_KEY"])
def test_an_empty_variable_does_not_hide_the_key_of_a_file(
    monkeypatch: pytest.MonkeyPatch, empty_place: Path, name: str
) -> None:
    toml(empty_place, 'api_key = "sk-t"')
    assert key_of(settings(monkeypatch, **{name: ""})) == "sk-t"


@pytest.mark.parametrize("name", ["poll_min", "requests_in_flight"])
def test_an_empty_variable_is_a_number_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    default = getattr(load_settings(), name)
    assert getattr(settings(monkeypatch, **{f"{SETTING}{name.upper()}": ""}), name) == default


BAD: list[tuple[str, str]] = [
    *((name, bad) for name in NUMBERS for bad in ("0", "-1", "nan", "inf", "many", "1e400")),
    *((name, "86401") for name in NUMBERS if name.endswith(("timeout", "cap"))),
    *((name, "2.5") for name in NUMBERS if isinstance(NUMBERS[name], int)),
    ("poll_share", "1.1"),
    ("requests_in_flight", "10001"),
]


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_a_bad_number_is_named(monkeypatch: pytest.MonkeyPatch, name: str, bad: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{name}: "):
        settings(monkeypatch, **{f"{SETTING}{name.upper()}": bad})


def test_delivery_hosts(monkeypatch: pytest.MonkeyPatch, empty_place: Path) -> None:
    assert load_settings().delivery_hosts == ""
    toml(empty_place, 'delivery_hosts = "*.A.example,.b.example."')
    assert load_settings().delivery_hosts == "a.example, b.example"
    name = f"{SETTING}DELIVERY_HOSTS"
    assert settings(monkeypatch, **{name: "c.example"}).delivery_hosts == "c.example"
    for bad in ("https://c.example", "c.example, 10.0.0.5", ","):
        with pytest.raises(ConfigurationError, match=r"\bdelivery_hosts: "):
            settings(monkeypatch, **{name: bad})


def test_prices(monkeypatch: pytest.MonkeyPatch, empty_place: Path) -> None:
    assert load_settings().prices == {}
    name = f"{SETTING}PRICES"
    prices = {"black-forest-labs/flux-schnell": 0.003, "a/b": 1}
    assert settings(monkeypatch, **{name: json.dumps(prices)}).prices == prices
    for bad in ('{"a/b": -1}', '{"a/b": "much"}', '{"a/b": NaN}', "0.003"):
        with pytest.raises(ConfigurationError, match="prices"):
            settings(monkeypatch, **{name: bad})


def test_the_home_of_the_ledger(monkeypatch: pytest.MonkeyPatch, empty_place: Path) -> None:
    assert load_settings().ledger == "prefect-server"
    name = f"{SETTING}LEDGER"
    block = "block://s3-bucket/records"
    assert settings(monkeypatch, **{name: block}).ledger == block
    for bad in ("server", "s3://bucket", "/var/ledger", "block://"):
        with pytest.raises(ConfigurationError, match=r"\bledger: "):
            settings(monkeypatch, **{name: bad})


def test_all_bad_settings_are_named_at_once(empty_place: Path) -> None:
    toml(empty_place, 'base_url = 5\npoll_min = "x"\nmax_file_bytes = 0')
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert all(name in str(caught.value) for name in ("base_url", "poll_min", "max_file_bytes"))
    assert "prefect.toml" in str(caught.value)


SECRET = "sk-hunter2"
BAD_KEYS = {
    "line-break": f"{SECRET}\n{SECRET}",
    "return": f"{SECRET}\rX-Header: {SECRET}",
    "space": f"{SECRET} {SECRET}",
    "bearer": f"Bearer {SECRET}",
    "tab": f"{SECRET}\t{SECRET}",
    "control": f"{SECRET}\x01",
    "delete": f"{SECRET}\x7f",
    "umlaut": f"{SECRET}ü",
    "dots": f"{SECRET}…",
    "mark-inside": f"sk-\ufeff{SECRET}",
    "surrogate": f"{SECRET}\udcff",
}


def says(error: BaseException) -> str:
    chain = [error, error.__cause__, error.__context__]
    shown = [f"{one} {one!r}" for one in chain if one is not None]
    return "\n".join([*shown, *traceback.format_exception(error)])


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, empty_place: Path, name: str
) -> None:
    with pytest.raises(ConfigurationError, match="Copy it again") as caught:
        clean_api_key(BAD_KEYS[name])
    assert "hunter2" not in says(caught.value)
    with pytest.raises(ConfigurationError, match="api_key: ") as caught:
        settings(monkeypatch, COMETAPI_KEY=BAD_KEYS[name])
    assert "hunter2" not in says(caught.value)


@pytest.mark.parametrize("mask", ["********", "**********"])
def test_what_prefect_shows_in_place_of_a_key_is_no_key(mask: str) -> None:
    with pytest.raises(ConfigurationError, match="choose them again"):
        clean_api_key(mask)


@pytest.mark.parametrize("value", ["['hunter2']", "true", "5"])
def test_a_key_of_another_kind_is_not_repeated(empty_place: Path, value: str) -> None:
    toml(empty_place, f"api_key = {value}")
    with pytest.raises(ConfigurationError, match="api_key: ") as caught:
        load_settings()
    assert "hunter2" not in says(caught.value)


@pytest.mark.parametrize(
    "pasted", ["sk-1", " sk-1", "sk-1\n", "\ufeffsk-1\r\n", "\u00a0sk-1\u200b", "\tsk-1\ufeff "]
)
def test_what_pasting_leaves_around_a_key_is_taken_off(pasted: str) -> None:
    assert clean_api_key(pasted) == "sk-1"


@pytest.mark.parametrize("nothing", ["", " ", "\ufeff", "\r\n\t"], ids=repr)
def test_an_empty_key_says_how_to_set_one(nothing: str) -> None:
    with pytest.raises(MissingAPIKey) as caught:
        clean_api_key(nothing)
    assert WAYS_TO_SET_A_KEY in str(caught.value)
    assert "COMETAPI_KEY" in WAYS_TO_SET_A_KEY


def test_the_key_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, COMETAPI_KEY=SECRET)
    assert key_of(found) == SECRET
    for shown in (str(found), repr(found), found.model_dump_json(), str(found.model_dump())):
        assert SECRET not in shown


def test_our_settings_leave_prefects_own_alone(
    monkeypatch: pytest.MonkeyPatch, empty_place: Path
) -> None:
    toml(empty_place, 'poll_min = "x"')
    before = get_current_settings().hash_key()
    with pytest.raises(ConfigurationError):
        settings(monkeypatch, COMETAPI_KEY="a b")
    assert get_current_settings().hash_key() == before
