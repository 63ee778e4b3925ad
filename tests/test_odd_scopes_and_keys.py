"""A scope and a key may be any text: what they share is found by them, and nothing else."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_cometapi import portal
from prefect_cometapi.errors import InvalidInput, LedgerError
from prefect_cometapi.ledger import PREFIX, Outcome
from prefect_cometapi.records import TAG, open_ledger
from prefect_cometapi.simulator import Simulator
from tests.homes import Home, create

ODD = {
    "plain": "2026-11-22",
    "unicode": "Nächte in Åre, 夜 🛶",
    "path": "../../etc/passwd",
    "slashes": "a/b\\c//d",
    "dots": "..",
    "quotes": """it's "quoted" `so` $HOME; --""",
    "percent": "100%25 %2e%2e ?a=b&c#d",
    "spaces": "  around  ",
    "lines": "one\ntwo\ttabs",
    "like-a-run": "flow-run:not-a-uuid",
    "like-a-record": f"{PREFIX}{'0' * 40}",
    "json": '{"all_": ["x"]}',
    "control": "\x01\x7f",
    "200-characters": "x" * 200,
    "200-emoji": "🛶" * 200,
    "20-control-characters": "\x01" * 20,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_scopes_and_keys_are_found_again(
    name: str, home: Home, cometapi_simulator: Simulator
) -> None:
    check_odd(ODD[name], home, cometapi_simulator)


def check_odd(odd: str, home: Home, simulator: Simulator) -> None:
    # As long as a record gets: everything odd that a caller may say, and the service's own words.
    input = {"prompt": odd * 200, "seed": uuid4().int % 1000}
    made = create(odd, input=input, key=odd)
    assert create(odd, input={"prompt": "another"}, key=odd).id == made.id
    assert list(simulator.predictions)[-1] == made.id
    found = {key: record for key, record in home.records(odd).items() if record}
    assert made.record_key in found
    assert {record.scope for record in found.values()} == {odd}
    assert made.record_key not in home.records(f"{odd}x")
    outcome = found[str(made.record_key)].ended(Outcome.FAILED, odd * 300)
    portal.call(open_ledger(home.where).store, str(made.record_key), outcome)
    # Reason and excerpt are for people, and give way where a Variable has no room for all.
    stored = home.records(odd)[str(made.record_key)]
    assert stored is not None
    told = {"reason": outcome.reason, "excerpt": outcome.excerpt}
    assert stored.model_copy(update=told) == outcome
    if home.in_files:
        assert all(home.folder in file.resolve().parents for file in home.folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_scopes_on_postgresql(
    name: str,
    postgres_environment: dict[str, str],
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    with temporary_settings({PREFECT_API_URL: postgres_environment["PREFECT_API_URL"]}):
        check_odd(ODD[name], Home("prefect-server", tmp_path), cometapi_simulator)


def test_a_scope_that_is_called_like_the_ledgers_own_tag(
    home: Home, cometapi_simulator: Simulator
) -> None:
    create("another scope")
    check_odd(TAG, home, cometapi_simulator)


@pytest.mark.parametrize(
    "odd",
    ["", "half \ud83d"],
    ids=["empty", "half-a-pair"],
)
def test_what_no_home_can_hold_stops_before_the_post(
    odd: str, home: Home, cometapi_simulator: Simulator
) -> None:
    for options in ({"key": odd}, {"scope": odd}):
        with pytest.raises((InvalidInput, LedgerError), match="Nothing was sent"):
            create(**{"scope": "whatever", **options})
    assert not cometapi_simulator.requests
