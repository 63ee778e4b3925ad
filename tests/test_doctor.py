"""The doctor names what is wrong and what to do about it, and spends nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_cometapi import CometAPICredentials
from prefect_cometapi.__main__ import main
from prefect_cometapi.doctor import setting_origins
from prefect_cometapi.simulator import Simulator
from tests.servers import configure


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["doctor", *arguments])
    return code, capsys.readouterr().out


@pytest.mark.usefixtures("prefect_server")
def test_all_is_well(
    cometapi_simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = run(capsys, "--storage", str(tmp_path))
    assert code == 0, said
    assert f"ok    API: {cometapi_simulator.url} answers and does not refuse the key" in said
    assert "ok    Prefect:" in said
    assert f"ok    storage: files can be written to {tmp_path}" in said
    assert list(tmp_path.iterdir()) == []
    assert cometapi_simulator.counts.creates == 0
    assert cometapi_simulator.api_key not in said


def test_no_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = run(capsys, "--storage", str(tmp_path))
    assert code == 1
    assert "FAIL  credentials: There is no CometAPI key. Set one in one of three ways" in said


@pytest.mark.parametrize("fault", ["401", "403", "html"])
def test_a_service_that_refuses(
    fault: str, cometapi_simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    cometapi_simulator.script("query", [fault])
    code, said = run(capsys)
    assert code == 1
    assert "FAIL  API:" in said


def test_nothing_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMETAPI_KEY", "sk-x")
    monkeypatch.setenv("COMETAPI_BASE_URL", "http://127.0.0.1:9")
    configure(monkeypatch, reconnect_timeout=0.1)
    code, said = run(capsys)
    assert code == 1
    assert "could not be reached" in said


def test_a_folder_that_can_not_be_written(
    cometapi_simulator: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, said = run(capsys, "--storage", str(tmp_path / "file" / "below"))
    assert code == 1
    assert "FAIL  storage:" in said


def test_a_setting_that_can_not_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, poll_min="soon")
    code, said = run(capsys)
    assert code == 1
    assert "poll_min" in said


@pytest.mark.usefixtures("prefect_server")
def test_a_saved_block(cometapi_simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    CometAPICredentials.from_env().save("doctored", overwrite=True)
    code, said = run(capsys, "--block", "doctored")
    assert code == 0, said
    assert "a key from block 'doctored'" in said
    code, said = run(capsys, "--block", "nobody-saved-this")
    assert code == 1
    assert "nobody-saved-this" in said


def test_it_knows_where_settings_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMETAPI_KEY", "sk-x")
    Path(".env").write_text("PREFECT_INTEGRATIONS_COMETAPI_POLL_MAX=9\n")
    Path("prefect.toml").write_text(
        '[integrations.cometapi]\nbase_url = "https://x.example"\npoll_max = 3\n'
    )
    assert setting_origins() == {
        "api_key": "the environment",
        "poll_max": ".env",
        "base_url": "prefect.toml",
    }


def test_proxies_are_shown_without_their_password(
    cometapi_simulator: Simulator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@proxy.example:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    _, said = run(capsys)
    assert "https proxy: http://proxy.example:3128" in said
    assert "hush" not in said
    assert "FAIL  SSL_CERT_FILE: /nowhere/ca.pem does not exist" in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("THUMNAILS", "PREFECT_INTEGRATIONS_COMETAPI_THUMBNAILS"),
        ("prompt", "PREFECT_INTEGRATIONS_COMETAPI_PROMPTS"),
        ("SOMETHING_ELSE_ENTIRELY", ""),
    ],
)
def test_a_setting_that_is_misspelt_is_named(
    name: str, meant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PREFECT_INTEGRATIONS_COMETAPI_{name}", "false")
    code, said = run(capsys)
    assert code == 1
    hint = f"; was {meant} meant?" if meant else ""
    assert f"there is none of the name PREFECT_INTEGRATIONS_COMETAPI_{name}{hint}\n" in said
