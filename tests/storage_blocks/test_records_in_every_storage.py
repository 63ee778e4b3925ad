"""Every kind of storage can be the ledger: records are written, listed, decided and collected."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from prefect_cometapi import LedgerError, Outcome, Standing, list_records, portal
from prefect_cometapi.records import FOLDER
from prefect_cometapi.simulator import Simulator
from prefect_cometapi.storage import awrite_text
from tests.homes import LEDGER, collected, create, did, in_doubt, make
from tests.storage_blocks.conftest import Place

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def scope(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new one, whose records are in the storage."""
    monkeypatch.setenv(LEDGER, place.saved())
    return f"scope-{uuid4()}"


def records(place: Place) -> list[str]:
    return sorted(name for name in place.everything() if name.startswith(f"{FOLDER}/"))


def test_a_second_run_finds_what_the_first_has_saved(
    place: Place, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    first = make(scope, tmp_path / "pictures")
    there = place.everything()
    second = make(scope, tmp_path / "pictures")
    assert second.files == first.files
    assert second.prediction.id == first.prediction.id
    counts = cometapi_simulator.counts
    assert (counts.charged, counts.downloads) == (1, 1)
    assert len(records(place)) == 1
    assert place.everything() == there


def test_what_was_never_saved_is_listed_and_collected(
    place: Place, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    created = [create(scope, sample=number) for number in range(3)]
    doubtful = in_doubt(cometapi_simulator, scope, sample=7)
    if not place.lists:
        with pytest.raises(LedgerError, match="files can not be listed"):
            list_records(scope)
        return
    entries = {entry.key: entry for entry in list_records(scope)}
    assert set(entries) == {str(each.record_key) for each in created} | {doubtful}
    assert entries[doubtful].standing is Standing.IN_DOUBT
    assert did(collected(tmp_path / "pictures", scope, timeout=20)).count("saved") == 3
    outcomes = [entry.record.outcome for entry in list_records(scope) if entry.record]
    assert outcomes.count(Outcome.SAVED) == 3
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert cometapi_simulator.counts.charged == 4


def test_a_neighbour_whose_name_begins_the_same_is_left_out(
    place: Place, scope: str, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    if not place.lists:
        pytest.skip("its interface lists no files")
    portal.call(awrite_text, place.storage, f"{FOLDER}-of-last-year/{scope}/a.json", "{}")
    created = create(scope)
    assert [entry.key for entry in list_records(scope)] == [created.record_key]
    assert created.record_key in {entry.key for entry in list_records()}
