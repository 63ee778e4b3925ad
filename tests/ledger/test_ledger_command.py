"""`python -m prefect_cometapi ledger`: what it prints, what it asks, and how it ends."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi import (
    CometAPICredentials,
    Outcome,
    Record,
    SubmissionInDoubt,
    create_prediction,
    list_records,
)
from prefect_cometapi.__main__ import main
from prefect_cometapi.ledger import record_key
from prefect_cometapi.ledger_command import plain, table
from prefect_cometapi.simulator import Simulator
from tests.homes import Home, create, in_doubt
from tests.processes import python
from tests.servers import BOAT, MODEL

pytestmark = pytest.mark.slow


class Said:
    """What a command said, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(["ledger", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Said(code, captured.out, captured.err)

    return run


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Put a person in front of a terminal."""
    stdin = io.StringIO("".join(f"{line}\n" for line in lines))
    stdin.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize("home", ["server", "folder", "objects"], indirect=True)
def test_the_story_of_a_night(
    home: Home,
    run: Any,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
) -> None:
    paid = str(create(scope).record_key)
    doubtful = [in_doubt(cometapi_simulator, scope, sample) for sample in (1, 2, 3)]
    lost = list(cometapi_simulator.predictions)[1]

    said = run("list", "--scope", scope)
    assert said.code == 0
    lines = said.out.splitlines()
    assert "4 records in the ledger at" in lines[0]
    assert scope in lines[0]
    assert lines[1] == "3 in doubt; 1 paid, not saved"
    assert " ".join(lines[3].split()) == "KEY STATE SENT (UTC) ATTEMPT MODEL PREDICTION PROMPT"
    assert [line.split()[0] for line in lines[4:8]] == [*doubtful, paid], "what is open first"
    assert MODEL in lines[4]
    assert lines[4].endswith("A paper boat")
    assert "ledger adopt KEY PREDICTION_ID" in said.out
    assert "ledger collect --storage STORAGE" in said.out

    said = run("show", doubtful[0])
    assert f"ledger resubmit {doubtful[0]}" in said.out
    assert "A paper boat" in said.out
    assert said.out.split()[:2] == ["record", doubtful[0]]

    said = run("collect", "--scope", scope, "--storage", tmp_path / "pictures", "--timeout", "20")
    assert said.code == 1, "some are in doubt"
    assert said.out.splitlines()[-1] == "3 in doubt; 1 saved."
    assert said.out.count("ledger adopt KEY PREDICTION_ID") == 1
    assert "in doubt" not in said.err
    assert len(list((tmp_path / "pictures").glob("*.webp"))) == 1

    said = run("adopt", doubtful[0], lost)
    assert (said.code, said.out.split()[0]) == (0, "adopted")
    assert "The service says that it is" in said.out
    said = run("adopt", doubtful[1], lost)
    assert (said.code, said.out) == (2, "")
    assert f"is that of record {doubtful[0]}" in said.err

    assert run("abandon", doubtful[1]).code == 0
    said = run("resubmit", "--scope", scope, "--yes")
    assert (said.code, said.out.split()[:2]) == (0, ["resubmitted", doubtful[2]])
    said = run("collect", "--scope", scope, "--storage", tmp_path / "pictures", "--timeout", "20")
    assert (said.code, said.out.split()[:2]) == (0, ["saved", doubtful[0]])
    assert f"Saved {lost}." in said.err
    said = run("collect", "--scope", scope, "--storage", tmp_path / "pictures")
    assert said.code == 0
    assert said.out.startswith("Nothing to collect in the ledger at")
    assert "2 saved; 1 abandoned; 1 resubmitted" in run("list", "--scope", scope).out
    assert cometapi_simulator.counts.creates == 4
    if home.in_files:
        assert f"the storage {home.where}" in said.out


def test_lists_for_programs(
    run: Any, cometapi_simulator: Simulator, scope: str, home: Home
) -> None:
    paid = str(create(scope).record_key)
    doubtful = in_doubt(cometapi_simulator, scope, 1)
    [first, second] = json.loads(run("list", "--scope", scope, "--json").out)
    assert (first["key"], first["state"]) == (paid, "paid, not saved")
    assert first["record"]["prediction_id"] in cometapi_simulator.predictions
    assert (second["key"], second["standing"]) == (doubtful, "in doubt")
    assert "owner" not in second["record"]
    [unsaved] = json.loads(run("list", "--scope", scope, "--json", "--unsaved").out)
    assert unsaved == first
    assert json.loads(run("show", doubtful, "--json").out) == [second]
    assert json.loads(run("list", "--scope", "nobody's", "--json").out) == []
    assert cometapi_simulator.api_key not in run("show", paid).out


def test_bulk_changes_are_asked_about(
    run: Any,
    cometapi_simulator: Simulator,
    scope: str,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [in_doubt(cometapi_simulator, scope, sample) for sample in range(2)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    said = run("abandon", "--scope", scope)
    assert (said.code, said.out) == (2, "")
    assert "--yes" in said.err
    for answer, code in (("n", 2), ("", 2), ("y", 0)):
        answers(monkeypatch, answer)
        said = run("abandon", "--scope", scope)
        assert said.code == code
        assert f"Abandon 2 records in doubt of scope {scope!r}? [y/n]" in said.err
    outcomes = [home.read(scope, key).outcome for key in keys]
    assert outcomes == [Outcome.ABANDONED] * 2
    said = run("abandon", "--scope", scope)
    assert (said.code, said.out.startswith("Nothing is in doubt")) == (0, True)
    said = run("prune", "--scope", scope, "--older-than", "0")
    assert said.code == 2, "the person has left"
    assert "Delete 2 records (2 abandoned)" in said.err
    assert run("prune", "--scope", scope, "--older-than", "0", "--yes").out == "2 deleted.\n"
    said = run("prune", "--scope", scope)
    assert (said.code, said.out.startswith("No record to delete")) == (0, True)


@pytest.mark.parametrize("home", ["objects"], indirect=True)
def test_what_can_not_be_deleted_is_said(run: Any, scope: str, home: Home) -> None:
    assert run("abandon", str(create(scope).record_key)).code == 0
    said = run("prune", "--scope", scope, "--older-than", "0", "--yes")
    assert said.code == 1
    assert "no way to delete" in said.out
    assert said.out.endswith("1 not done.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", record_key("a", "b", "c", {}, 0)], 2, "There is no record"),
        (["show", "my-variable"], 2, "There is no record my-variable"),
        (["adopt", "my-variable", "abc"], 2, "There is no record my-variable"),
        (["adopt", "my-variable", "../abc"], 2, "not a prediction id"),
        (["abandon"], 2, "Say which"),
        (["prune", "--older-than", "-1"], 2, "a number of days"),
        (["collect", "--storage", "s3://bucket"], 2, "is a URL"),
        (["collect", "--storage", ".", "--timeout", "nan"], 2, "The time-out is nan"),
        (["collect", "--storage", ".", "--block", "nobody-saved-this"], 2, "could not be loaded"),
        (["collect", "--storage", "/dev/null/x"], 1, "can not be written to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line(
    arguments: list[str], code: int, words: str, run: Any, scope: str
) -> None:
    said = run(*arguments)
    assert (said.code, said.out) == (code, "")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_without_a_key_an_id_is_adopted_unasked_and_nothing_is_collected(
    run: Any,
    cometapi_simulator: Simulator,
    scope: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = in_doubt(cometapi_simulator, scope)
    monkeypatch.delenv("COMETAPI_KEY")
    said = run("collect", "--storage", ".")
    assert (said.code, said.out) == (2, "")
    assert "COMETAPI_KEY" in said.err
    said = run("adopt", key, "abc")
    assert said.code == 0
    assert "The service was not asked" in said.out


def test_a_block_is_used_where_it_is_named(
    run: Any, cometapi_simulator: Simulator, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    CometAPICredentials.from_env().save("collector", overwrite=True)
    key = in_doubt(cometapi_simulator, scope)
    monkeypatch.setenv("COMETAPI_BASE_URL", "https://elsewhere.example")
    [made] = cometapi_simulator.predictions
    assert "is" in run("adopt", key, made, "--block", "collector").out


def test_without_a_key_the_records_own_block_is_used(
    run: Any,
    cometapi_simulator: Simulator,
    scope: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    CometAPICredentials.from_env().save("of-the-run", overwrite=True)
    saved: Any = CometAPICredentials.load("of-the-run")
    cometapi_simulator.script("create", ["ok", "lost"])
    for sample in range(2):
        with suppress(SubmissionInDoubt):
            create_prediction.fn(saved, MODEL, BOAT, scope=scope, sample=sample)
    monkeypatch.delenv("COMETAPI_KEY")
    said = run("collect", "--storage", tmp_path, "--scope", scope, "--timeout", "20")
    assert said.out.count("saved ") == 1, said
    [in_doubt] = list_records(scope, in_doubt=True)
    assert run("adopt", in_doubt.key, "nonsense").code == 1  # the service was asked


def test_many_records_stay_readable(run: Any, home: Home, scope: str) -> None:
    for number in range(12):
        sent_at = datetime.now(UTC) - timedelta(minutes=number)
        record = Record(
            scope=scope,
            model=MODEL,
            api_root="r",
            sent_at=sent_at,
            excerpt=f"\x1b[2J{number} 紙の船" * 9,
            prediction_id=f"id-{number}",
        ).ended(Outcome.SAVED)
        home.write(record_key(scope, "r", MODEL, {}, number), record)
    said = run("list", "--scope", scope, "--limit", "3")
    assert said.out.count("id-") == 3
    assert "… and 9 more: --limit 0 or --json shows all." in said.out
    assert "\x1b" not in said.out
    assert run("list", "--scope", scope, "--limit", "0").out.count("id-") == 12


def test_nothing_there_says_where_it_looked(
    run: Any, home: Home, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL

    said = run("list", "--scope", "nobody's")
    assert said.code == 0
    assert PREFECT_API_URL.value() in said.out
    assert '"nobody\'s"' in said.out


def test_columns_are_aligned_and_letters_are_harmless() -> None:
    assert table([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]
    assert plain("A\x1b[31m\u202eboat\ud800\n紙") == "A?[31m?boat??紙"


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys; from prefect_cometapi.__main__ import main\n"
        "try: main(['ledger', '--help'])\n"
        "except SystemExit: print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = python("-c", code)
    assert "resubmit" in done.stdout
    assert not {"prefect", "pydantic", "httpx"} & set(done.stdout.splitlines()[-1].split())


@pytest.mark.slow
def test_without_a_server_it_looks_into_the_machines_own_database(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    environment.pop("PREFECT_API_URL", None)
    words = ("-m", "prefect_cometapi", "ledger", "list", "--json")
    done = python(*words, env=environment, seconds=180)
    assert json.loads(done.stdout) == []
    assert "PREFECT_API_URL is not set" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
