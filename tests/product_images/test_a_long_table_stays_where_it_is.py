"""40,000 rows are a table's name: the run's parameters are small, and so is its memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.processes import ROOT, python, with_key
from tests.product_images.shop import Shop, quick

#: MiB that a run may need for 39,000 rows more, of which the texts alone are 20.
MORE = 30


def peak(shop: Shop, environment: dict[str, str], count: int) -> float:
    """MiB at most of a run that reads, checks and looks up so many rows."""
    done = python(*shop.words(dry_run=True), env=environment, cwd=ROOT, seconds=600)
    assert f"RESULT {count:,} would be sent" in done.stdout
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert found
    return int(found[1]) / 1024


@pytest.mark.long
def test_its_memory_does_not_grow_with_it(
    shop: Shop, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    environment = quick(with_key(prefect_environment, shop.service))
    peaks = []
    for first, end in ((0, 1_000), (1_000, 40_000)):
        rows = [
            {"id": id, "name": f"boat {id}", "about": "blue " * 100} for id in range(first, end)
        ]
        insert = text("INSERT INTO products (id, name, description) VALUES (:id, :name, :about)")
        with shop.engine.begin() as now:
            now.execute(insert, rows)
        peaks.append(peak(shop, environment, end))
    print(f"Peaks in MiB: {peaks}")
    assert peaks[1] < peaks[0] + MORE
    assert len(json.dumps(shop.parameters())) < 1_000
    assert shop.service.counts.creates == 0
