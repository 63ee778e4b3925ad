"""On a Dask cluster: workers get a reference to the credentials, and everything is paid once."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_cometapi import CometAPICredentials
from prefect_cometapi.simulator import Simulator
from tests.processes import ROOT, python, with_key

pytest.importorskip("prefect_dask", reason="needs a Dask cluster: pip install prefect-dask")
pytestmark = pytest.mark.slow
SCRIPT = ROOT / "tests" / "flows" / "on_dask.py"


@pytest.mark.parametrize("block", [None, "for-dask"], ids=["from the environment", "a saved block"])
def test_tasks_on_dask(
    block: str | None,
    prefect_environment: dict[str, str],
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    environment = with_key(prefect_environment, cometapi_simulator)
    words = [SCRIPT, tmp_path]
    if block:
        credentials = CometAPICredentials(
            api_key=cometapi_simulator.api_key, base_url=cometapi_simulator.url
        )
        credentials.save(block, overwrite=True)
        words.append(Path(block))
        del environment["COMETAPI_KEY"]
    done = python(*words, env=environment, cwd=ROOT)
    assert "4 files" in done.stdout, done.stderr
    assert len(list(tmp_path.glob("*.webp"))) == 4
    assert cometapi_simulator.counts.charged == 4
    assert cometapi_simulator.api_key not in done.stdout + done.stderr
