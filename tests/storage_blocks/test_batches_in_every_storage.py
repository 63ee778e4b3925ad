"""In every kind of storage a batch keeps its records, goes on where it was stopped, pays once."""

from __future__ import annotations

import itertools
import json

import pytest

from prefect_cometapi import BatchItem, read_manifest
from tests.batches import Batches, boats, told
from tests.storage_blocks.conftest import Place

COUNT = 6


def is_home_once(place: Place, items: list[BatchItem]) -> None:
    """Each item has its file, under its own name, and there are no others."""
    files = [file for item in items for file in item.files]
    assert len(files) == len(items)
    assert set(place.outputs()) == {file.name for file in files}


def test_the_second_run_finds_all_and_adds_nothing(place: Place, batches: Batches) -> None:
    first = batches.run(boats(COUNT), storage=place.storage, prefix="day")
    is_home_once(place, first.items)
    outputs, fetched = place.outputs(), batches.service.counts.downloads
    second = batches.run(boats(COUNT), storage=place.storage, prefix="day")
    assert (second.created, second.found) == (0, COUNT)
    assert told(first.items) == told(second.items)
    assert place.outputs() == outputs
    assert batches.service.counts.downloads == fetched
    assert batches.service.counts.charged == COUNT


def test_its_manifest_is_read_from_there(place: Place, batches: Batches) -> None:
    result = batches.run(boats(COUNT), storage=place.storage)
    assert result.manifest is not None
    assert told(list(read_manifest(place.storage, result.manifest))) == told(result.items)
    journal = [name for name in place.everything() if "/journal-" in name]
    for name in journal:
        for line in place.everything()[name].splitlines():
            assert json.loads(line)
    assert journal


def test_stopped_in_the_middle_it_goes_on(place: Place, batches: Batches) -> None:
    running = batches.iterate(boats(COUNT), storage=place.storage, in_flight=2)
    assert len(list(itertools.islice(running, 2))) == 2
    running.close()  # type: ignore[attr-defined]
    paid = batches.service.counts.charged
    assert 2 <= paid < COUNT
    result = batches.run(boats(COUNT), storage=place.storage)
    assert result.summary == f"{COUNT} saved"
    assert result.created == COUNT - paid
    assert batches.service.counts.charged == COUNT
    is_home_once(place, result.items)


@pytest.mark.slow
def test_a_saved_block_is_the_same_by_its_name(place: Place, batches: Batches) -> None:
    reference = place.saved()
    first = batches.run(boats(2), storage=reference)
    second = batches.run(boats(3), storage=reference)
    assert (second.created, second.found) == (1, 2)
    assert told(second.items)[:2] == told(first.items)
    is_home_once(place, second.items)
