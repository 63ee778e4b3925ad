"""Records live where an argument says, else the setting `ledger`, else beside the outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_HOME

from prefect_cometapi import CometAPICredentials, read_manifest, run_predictions
from prefect_cometapi.batch_records import default_ledger
from prefect_cometapi.settings import load_settings
from prefect_cometapi.simulator import Simulator
from tests.servers import BOAT, MODEL, configure

pytestmark = pytest.mark.usefixtures("prefect_server")
BLOCK = "block://local-file-system/the-setting"


@pytest.mark.parametrize(
    ("setting", "storage", "expected"),
    [
        ("prefect-server", "pictures", "pictures"),
        ("prefect-server", None, "PREFECT_HOME"),
        (BLOCK, "pictures", BLOCK),
        (BLOCK, None, BLOCK),
    ],
)
def test_without_an_argument(
    setting: str, storage: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, ledger=setting)
    found = str(default_ledger(storage, load_settings()))
    assert found == expected.replace("PREFECT_HOME", str(PREFECT_HOME.value()))


@pytest.mark.parametrize("argument", [False, True])
def test_prefects_result_storage_has_no_say(
    argument: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cometapi_simulator: Simulator,
) -> None:
    folders = {name: tmp_path / name for name in ("pictures", "setting", "argument", "results")}
    for folder in folders.values():
        folder.mkdir()
    LocalFileSystem(basepath=str(folders["setting"])).save("the-setting", overwrite=True)
    configure(monkeypatch, ledger=BLOCK)
    ledger = folders["argument"] if argument else None

    @flow(persist_result=True, result_storage=folders["results"])
    def boats() -> str:
        credentials, pictures = CometAPICredentials.from_env(), folders["pictures"]
        result = run_predictions(credentials, MODEL, [BOAT], pictures, ledger=ledger)
        return str(result.manifest)

    manifest = boats()
    having = [name for name, folder in folders.items() if (folder / manifest).exists()]
    assert having == ["argument" if argument else "setting"]
    # It is found by what the batch was given, whatever the setting says.
    (item,) = read_manifest(folders["pictures"], manifest, ledger=ledger)
    assert Path(item.files[0].location).parent == folders["pictures"]
    assert list(folders["results"].iterdir())  # Prefect's own results are there
