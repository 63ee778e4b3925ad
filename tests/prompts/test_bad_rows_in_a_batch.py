"""Rows that do not fit a template are told by their number and key; the rest is made, and when they
are mended, a second run makes exactly what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi import (
    BatchFailed,
    BatchResult,
    CometAPICredentials,
    ItemStatus,
    combinations,
    fill_template,
    read_manifest,
    run_predictions,
)
from prefect_cometapi.simulator import Simulator
from tests.batches import NUMBER, TEXT, statuses

pytestmark = pytest.mark.usefixtures("prefect_server")

SAVED, REFUSED = ItemStatus.SAVED, ItemStatus.REFUSED


def run(inputs: Any, folder: Path) -> BatchResult:
    credentials = CometAPICredentials.from_env()
    try:
        result: BatchResult = run_predictions.fn(
            credentials, TEXT, inputs, folder, scope=f"rows of {credentials.base_url}"
        )
    except BatchFailed as error:
        return error.result
    return result


def test_the_rest_is_made_and_then_what_was_missing(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "colour": f"colour {n}"} for n in range(8)]
    del rows[2]["colour"]
    rows[5]["colour"] = None
    rows[6] = {"colour": "red"}

    def made() -> BatchResult:
        template = "A {{ colour }} boat"
        return run((each for each in fill_template(template, rows, key="id")), tmp_path)

    first = made()
    assert statuses(first) == [*[SAVED] * 2, REFUSED, *[SAVED] * 2, REFUSED, REFUSED, SAVED]
    two, five, six = first.failures
    assert two.error.startswith("Row 2 (id '2'): the template names 'colour', which the row does")
    assert two.error.endswith("Nothing was sent for it.")
    assert "Row 5 (id '5'): the template needs 'colour', which the row leaves empty" in five.error
    assert "Row 6: it lacks the column 'id'" in six.error
    assert [item.number for item in first.failures] == [2, 5, 6]
    assert [item.labels for item in first.failures] == [{"row": 2}, {"row": 5}, {"row": 6}]
    assert cometapi_simulator.counts.creates == 5

    for number in (2, 5, 6):
        rows[number] = {"id": number, "colour": "mended"}
    second = made()
    assert statuses(second) == [SAVED] * 8
    assert second.created == 3
    assert cometapi_simulator.counts.creates == cometapi_simulator.counts.charged == 8


def test_a_table_without_the_key_column(cometapi_simulator: Simulator, tmp_path: Path) -> None:
    rows = [{"sku": n, "colour": f"colour {n}"} for n in range(3)]
    first = run(fill_template("A {{ colour }} boat", rows, key="id"), tmp_path)
    assert statuses(first) == [REFUSED] * 3
    for number, item in enumerate(first.failures):
        assert item.error.startswith(
            f"Row {number}: it lacks the column 'id', which is the key; it has: sku, colour."
        )
    assert cometapi_simulator.counts.creates == 0
    second = run(fill_template("A {{ colour }} boat", rows, key="sku"), tmp_path)
    assert statuses(second) == [SAVED] * 3


def test_rows_that_break_off_are_made_and_the_rest_by_the_second_run(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    there = False

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(6):
            if number == 4 and not there:
                raise ConnectionError("the database has gone away")
            yield {"id": number, "colour": f"colour {number}"}

    first = run(fill_template("A {{ colour }} boat", rows(), key="id"), tmp_path)
    assert statuses(first) == [SAVED] * 4
    assert "the database has gone away" in first.stopped
    there = True
    second = run(fill_template("A {{ colour }} boat", rows(), key="id"), tmp_path)
    assert statuses(second) == [SAVED] * 6
    assert (second.created, cometapi_simulator.counts.charged) == (2, 6)


def test_what_nobody_may_see_of_where_they_came_from_is_kept_nowhere(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    template = {
        "prompt": "A {{ colour }} boat",
        "image": "https://host.example/{{ colour }}.png?sig=hush",
        "hf_token": "hush",
    }
    filled = fill_template(template, [{"colour": "red"}, {}])
    chosen = combinations(
        {"prompt": "y"}, image=["https://me:hush@host.example/a.png?sig=hush"], api_key=["hush"]
    )
    result = run([*filled, *chosen], tmp_path)
    assert statuses(result) == [SAVED, REFUSED, SAVED]
    assert "hush" not in result.model_dump_json()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("manifest" in path.name for path in kept)
    assert any("journal" in path.name for path in kept)
    assert [path for path in kept if b"hush" in path.read_bytes()] == []


def test_where_prompts_came_from_is_in_the_manifest(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    filled = fill_template("{{ a }}", [{"a": "x"}])
    chosen = combinations({"prompt": "y"}, seed=[1], model=[NUMBER])
    result = run([*filled, *chosen], tmp_path)
    assert result.manifest
    items = list(read_manifest(tmp_path, result.manifest))
    assert [item.origin for item in items] == [
        {"kind": "template", "template": "{{ a }}", "row": 0},
        {"kind": "combination", "choices": {"seed": 1, "model": NUMBER}},
    ]
    assert [item.model for item in items] == [TEXT, NUMBER]
    assert cometapi_simulator.counts.charged == 2
