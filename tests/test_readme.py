"""What the README says is true: code runs, tables match the source, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefect_cometapi.simulator import Simulator
from tests.processes import python, with_key
from tests.readme_tables import README, with_tables

TEXT = README.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
TESTS = [block for block in BLOCKS if "def test_" in block]
SCRIPTS = [block for block in BLOCKS if "def test_" not in block]


def test_there_is_something_to_check() -> None:
    assert len(SCRIPTS) >= 4
    assert len(TESTS) == 1


def test_the_scripts_run_one_after_the_other(
    cometapi_simulator: Simulator, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    for number, block in enumerate(SCRIPTS):
        path = tmp_path / f"block_{number}.py"
        path.write_text(block, "utf-8")
        environment = with_key(prefect_environment, cometapi_simulator)
        python(path.name, cwd=tmp_path, env=environment)
    pictures = list((tmp_path / "pictures").iterdir())
    assert len(pictures) == cometapi_simulator.counts.charged == 4


@pytest.mark.slow
def test_the_test_of_a_users_flow_passes(
    prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "test_my_flow.py").write_text(TESTS[0], "utf-8")
    environment = {k: v for k, v in prefect_environment.items() if k != "PREFECT_API_URL"}
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = python(*words, cwd=tmp_path, env=environment, seconds=300)
    assert "2 passed" in done.stdout


def test_the_tables_match_the_source() -> None:
    assert with_tables(TEXT) == TEXT, "run: python tests/readme_tables.py"


@pytest.mark.parametrize("name", ["main job", "tests"])
def test_the_two_commands_are_where_they_are_looked_for(name: str) -> None:
    pattern = rf"<!-- command: {name} -->\n```bash\n([^\n]+)\n```"
    assert len(re.findall(pattern, TEXT)) == 1


def test_links_to_files_lead_somewhere() -> None:
    targets = [
        target
        for target in re.findall(r"\]\(([^)#]+)\)", TEXT)
        if not target.startswith("https://")
    ]
    assert targets
    for target in targets:
        assert (README.parent / target).exists(), target
