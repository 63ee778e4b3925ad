"""Flows with marked keys, everything at DEBUG, with failures; then every byte that they wrote or
sent anywhere is searched. A process that gives its key away on purpose shows what is searched.

What Prefect's server sends back when a saved block is loaded holds the key by nature, and is
searched only for the processes that load none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.leaks.everything import KEYS, ROUTES, Happened, run_everything
from tests.leaks.search import CANARY, MARK, REFUSED, SIGNATURE, finds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Happened]:
    with ExitStack() as stack:
        yield run_everything(tmp_path_factory.mktemp("leaks"), stack)


# --- what came of it --------------------------------------------------------------------------


def test_everything_went_as_wrong_as_it_should(happened: Happened) -> None:
    processes = happened.processes
    assert {name: p.popen.returncode for name, p in processes.items() if p.popen.returncode} == {}
    both = {"AccountError", "SubmissionInDoubt", "StorageError", "NeverDelivered", "InvalidInput"}
    both |= {"PredictionTimeout", "OutputUnavailable", "TimeoutError", "RuntimeError"}
    both |= {"Generation", "Cancellation", "LedgerReport", "list", "int"}
    assert both | {"InputRejected", "RateLimited", "PredictionFailed"} <= {*processes["env"].seen}
    only = {"RequestRejected", "OutputDamaged", "SerializationError"}
    assert both | only <= {*processes["block"].seen}
    for name in ("env-stopped", "block-stopped"):
        assert processes[name].seen == ["KeyboardInterrupt"]
    assert processes["rejected"].seen == ["RuntimeError", *["ValidationError"] * 3]
    ended = {f"prediction.endless {x}" for x in ("thread 0", "thread 1", "env", "one", "block")}
    assert ended <= happened.api.canceled, "by Ctrl-C"
    ended = {f"prediction.endless left {name}" for name in ("env", "block")}
    assert ended <= happened.api.canceled, "by the hook"
    assert (processes["block"].folder / "work/ledger").is_dir()
    for name in ("env", "block"):  # what tells where files come from is searched as well
        assert list(processes[name].folder.rglob("*.provenance.json"))
        assert list(processes[name].folder.rglob("summary-*.json"))


def test_the_events_of_predictions_are_searched(happened: Happened) -> None:
    names = ("created", "succeeded", "saved", "failed", "canceled", "in-doubt", "not-saved")
    told = {f"cometapi.prediction.{name}" for name in names} | {"cometapi.batch.finished"}
    for place in ("shown by Prefect: events", "table events"):
        seen = happened.places[place].decode("utf-8", "replace")
        assert {name for name in told if name not in seen} == set()


def test_the_api_is_sent_the_key_in_one_header(happened: Happened) -> None:
    requests = happened.api.server.requests
    calls = [each for each in requests if not each.target.startswith("/files")]
    assert len(calls) > 60
    assert len([each for each in calls if each.target.startswith("/v1/chat/")]) > 15
    assert all(each.raw.lower().count(b"authorization:") == 1 for each in calls)
    sent = {each.headers["authorization"].removeprefix("Bearer ") for each in calls}
    assert sent == {*KEYS.values(), f"sk-cnr-{CANARY}"}
    files = [each for each in requests if each.target.startswith("/files/")]
    assert len(files) > 15
    assert {"authorization", "cookie"} & {name for each in files for name in each.headers} <= {
        "authorization"  # of the one that gives it away on purpose
    }
    assert len([each for each in files if "authorization" in each.headers]) == 1


def test_the_lure_is_asked_for_files_only(happened: Happened) -> None:
    targets = [each.target.partition("?")[0] for each in happened.lure.requests]
    assert [target for target in targets if not target.startswith("/files/")] == ["/"]
    assert len(targets) >= 3
    assert {each.method for each in happened.lure.requests} == {"GET"}


def test_the_key_is_nowhere_else(happened: Happened) -> None:
    found = happened.found(MARK)
    blocks = [place for place in found if re.match(r"request of setup: POST /api/block_doc", place)]
    # Or more: where SQLite is busy, Prefect's client sends one again.
    assert len(blocks) >= 3, "saving blocks is what sends their keys to Prefect's server"
    assert {place: how for place, how in found.items() if place not in blocks} == {}


def test_a_key_that_is_refused_with_something_else_is_nowhere(happened: Happened) -> None:
    # Tracebacks with local variables show what Prefect and pydantic were called with.
    own = ("request of setup: P", "file of rejected: work/locals.log")
    assert happened.found(REFUSED, but=own) == {}


def test_signatures_are_in_no_log_and_no_record(happened: Happened) -> None:
    # Results have the URLs of outputs, and local variables have.
    found = happened.found(SIGNATURE, but=("file request", "sent to the lure"))
    allowed = re.compile(r"file of (env|block|on-purpose)\S*: (work/\S*locals.log|\S+/storage/)")
    assert {place: how for place, how in found.items() if not allowed.match(place)} == {}
    assert len(found) > 3
    assert finds(happened.places["sent to the lure"], SIGNATURE)


# --- a test that can not fail is no test ------------------------------------------------------

GIVEN_AWAY = (
    *(f"shown by Prefect: {name}$" for name in ROUTES),
    *(f"file of on-purpose: {name}$" for name in ("stdout", "stderr", "tmp/a file")),
    *(
        f"file of on-purpose: work/{name}"
        for name in ("pictures/", "ledger/", "locals.log", "rich")
    ),
    *(rf"file of on-purpose: home/\.prefect/storage/given-{number}$" for number in range(4)),
    r"file of on-purpose: home/\.prefect/storage/\w+$",
    r"file of on-purpose: home/\.prefect/storage/parameters/",
    r"file of server: prefect\.db$",
    *(f"table {name}$" for name in ("artifact", "deployment", "events", "flow_run", "log")),
    *(f"table {name}$" for name in ("flow_run_state", "task_run", "variable")),
    *(f"request of on-purpose: POST /api/{name}/" for name in ("artifacts", "logs", "variables")),
    "request of on-purpose: POST /api/flow_runs/.+/set_state",
    "request of on-purpose: PATCH /api/variables/name/cometapi-",
    "frames of on-purpose: GET /api/events/in",
    "sent to the lure$",
    "sent back to on-purpose$",
    "file request",
    "API request",
)


@pytest.mark.parametrize("place", GIVEN_AWAY)
def test_what_is_given_away_on_purpose_is_found(place: str, happened: Happened) -> None:
    found = [each for each in happened.found(CANARY) if re.match(place, each)]
    assert found
