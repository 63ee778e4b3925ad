"""`python flows/product_images.py` makes its own table, and is run again for free."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prefect_cometapi.simulator import Simulator
from tests.processes import ROOT, python, wait_until, with_key
from tests.product_images.shop import quick
from tests.stopping import started

SCRIPT = ROOT / "flows" / "product_images.py"


def rows(folder: Path) -> list[tuple[str, str]]:
    file = folder / "products.sqlite"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as now:
        made = "SELECT picture, sha256 FROM products WHERE picture IS NOT NULL"
        return list(now.execute(made))


@pytest.mark.slow
def test_without_a_key_it_draws_stand_ins_and_says_so(
    prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    done = python(SCRIPT, env=prefect_environment, cwd=tmp_path, seconds=300)
    first, *_, last = done.stdout.splitlines()
    assert first == "No COMETAPI_KEY is set: the simulator draws stand-ins, for free."
    assert last == "30 saved"
    assert len(rows(tmp_path)) == 30
    for picture, sha256 in rows(tmp_path):
        assert hashlib.sha256(Path(picture).read_bytes()).hexdigest() == sha256
    again = python(SCRIPT, env=prefect_environment, cwd=tmp_path, seconds=300)
    assert again.stdout.splitlines()[-1].startswith("Nothing to do")


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=2)
def test_ctrl_c_and_the_same_again(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    environment = quick(with_key(prefect_environment, cometapi_simulator))
    with started(
        str(SCRIPT), environment=environment, log=tmp_path / "log", cwd=tmp_path
    ) as process:
        wait_until(lambda: len(rows(tmp_path)) >= 3, "three pictures")
        process.send(signal.SIGINT)
        assert process.ended(60) == 130
        assert "Interrupted. The next run goes on" in process.said
    done = python(SCRIPT, env=environment, cwd=tmp_path, seconds=300)
    assert len(rows(tmp_path)) == 30, done.stdout
    canceled = sum(
        each.status in ("canceled", "aborted") for each in cometapi_simulator.predictions.values()
    )
    assert cometapi_simulator.counts.charged == 30 + canceled
