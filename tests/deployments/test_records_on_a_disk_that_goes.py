"""A deployed batch with its records on a disk of its machine says so, and makes 100 at most."""

from __future__ import annotations

import pytest

from prefect_cometapi.batch_rules import LOCAL_MOST
from tests.deployments.conftest import Project

SAYS = "keeps its records in a folder of this machine"


@pytest.mark.long
def test_few_with_a_warning_and_many_not(project: Project) -> None:
    rows = (f"row-{number},Paper boat number {number}\n" for number in range(LOCAL_MOST + 5))
    (project.folder / "long.csv").write_text("id,prompt\n" + "".join(rows))
    project.deploy()
    with project.worker():
        few = project.run("table/weekly", simulate=False)
        assert few.end() == "COMPLETED", few.log()
        many = project.run("table/weekly", simulate=False, table="long.csv")
        assert many.end() == "FAILED", many.log()
    assert any(SAYS in line for line in few.log())
    assert SAYS in many.read()["state"]["message"]
    # Inputs that nobody can count beforehand: the one that is too many ends it.
    assert 12 < project.service.counts.charged <= 12 + LOCAL_MOST
