"""What the pages tell people to type exists: commands, options, scripts, extras, deployments."""

from __future__ import annotations

import re
import sqlite3
import tomllib
from pathlib import Path

import prefect.settings
import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel
from prefect.events.schemas.automations import AutomationCore

from prefect_cometapi import __main__ as ours
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.simulator import Simulator
from prefect_cometapi.simulator import __main__ as simulator
from tests.docs import commands
from tests.docs.pages import Snippet, pages, snippets
from tests.processes import ROOT

BLOCKS, TEXT = list(commands.of_blocks()), list(commands.of_text())
#: Our own ones that need nothing that a reader would have to fill in.
OURS = sorted(
    {
        tuple(words)
        for _, words in BLOCKS
        if words[:2] == ["python", "-m"]
        and words[2].startswith("prefect_cometapi")
        and not re.search(
            r"\b[A-Z_]{2,}\b|--fault|^prefect_cometapi.simulator$", " ".join(words[2:])
        )
    }
)


@pytest.mark.parametrize(("where", "words"), BLOCKS, ids=[where for where, _ in BLOCKS])
def test_a_command_of_a_block(where: str, words: list[str]) -> None:
    commands.check(words)


@pytest.mark.parametrize(("where", "words"), TEXT, ids=[where for where, _ in TEXT])
def test_a_command_of_a_sentence(where: str, words: list[str]) -> None:
    commands.check(words, whole=False)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_our_own_commands_run(
    words: tuple[str, ...],
    world: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, module, *rest = words
    main = simulator.main if module.endswith("simulator") else ours.main
    assert main(rest) == 0, capsys.readouterr()


def test_commands_are_found() -> None:
    assert len(BLOCKS) > 60
    assert len(TEXT) > 40
    assert len(OURS) > 4


@pytest.mark.parametrize(
    "typo",
    [
        "python -m prefect_cometapi ledger lisst",
        "python -m prefect_cometapi doctor --stroage x",
        "python -m prefect_cometapi.simulator --fautl x",
        "python flows/table.py --tabel x",
        "python flows/tabel.py",
        "prefect deploy --al",
        "prefect deploy --name nobody",
        "prefect deployment run quickstart/nobody",
        "prefect gcl make cometapi",
        'pip install "prefect-cometapi[image]"',
        "pip install -c constraint.txt x",
        "python -m pytest tests/nothing.py",
        "prefekt deploy",
    ],
)
def test_a_typo_is_noticed(typo: str) -> None:
    [words] = commands.commands(typo)
    with pytest.raises(AssertionError):
        commands.check(words, whole=False)


def test_a_command_in_a_block_is_whole() -> None:
    [words] = commands.commands("python -m prefect_cometapi ledger collect")
    with pytest.raises(commands.Incomplete):
        commands.check(words)


# --- settings, and files in other languages ---------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_settings_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"\bPREFECT_[A-Z_]*[A-Z]\b", page.read_text("utf-8")):
        own = name.removeprefix("PREFECT_INTEGRATIONS_COMETAPI_").lower()
        ours = own in CometAPISettings.model_fields or name == "PREFECT_INTEGRATIONS_COMETAPI"
        others = name.startswith(("PREFECT_INTEGRATIONS_KUBERNETES_", "PREFECT_LOGGING_LOGGERS_"))
        assert ours or others or hasattr(prefect.settings, name), name


@pytest.mark.parametrize("snippet", snippets("toml"), ids=str)
def test_a_file_of_settings_is_read(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / snippet.title).write_text(snippet.code, "utf-8")
    monkeypatch.chdir(tmp_path)
    table = tomllib.loads(snippet.code)["integrations"]["cometapi"]
    read = CometAPISettings()
    assert {name: getattr(read, name) for name in table} == table


@pytest.mark.parametrize("snippet", snippets("sql"), ids=str)
def test_a_statement_is_one(snippet: Snippet) -> None:
    with sqlite3.connect(":memory:") as database:
        database.executescript((ROOT / "flows" / "products.sql").read_text("utf-8"))
        database.executescript(snippet.code)


FILES = [ROOT / "prefect.yaml", *sorted(ROOT.glob("*/automations.yaml"))]
FILES += sorted(ROOT.glob("automations/*.yaml"))
#: What their reader fills in.
BLOCK = ("ID-OF-YOUR-BLOCK", "00000000-0000-0000-0000-000000000000")
TEXTS = {path.name: path.read_text("utf-8").replace(*BLOCK) for path in FILES}
TEXTS |= {str(each): each.code for each in snippets("yaml")}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_prefect_reads_what_is_written_for_it(text: str) -> None:
    content = yaml.safe_load(text)
    if "automations" in content:
        for each in content["automations"]:
            AutomationCore.model_validate(each)
        return
    PrefectYamlModel.model_validate(content)
    for each in content["deployments"]:  # a word that it does not know it passes over
        assert set(each) <= set(DeploymentConfig.model_fields)
