"""`python -m prefect_cometapi ledger …`: the operations on the ledger, for people and scripts.

Standard output is the result; standard error is everything else.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from prefect_cometapi import operations, portal
from prefect_cometapi.collection import collect
from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.decisions import (
    Did,
    LedgerEntry,
    LedgerReport,
    RecordResult,
    being_sent,
    counted,
    what_to_do,
)
from prefect_cometapi.errors import CometAPIError, ConfigurationError, InvalidInput, LedgerError
from prefect_cometapi.ledger import Standing, shortened, way_out
from prefect_cometapi.models import Prediction, SavedFile
from prefect_cometapi.observer import Observer
from prefect_cometapi.prefect_api import reach_server
from prefect_cometapi.settings import ON_THE_SERVER, load_settings
from prefect_cometapi.submission import patience
from prefect_cometapi.urls import check_prediction_id, redact

#: How many batches that are over are named.
_BATCHES = 20
#: What is left to do is listed first.
_FIRST = (Standing.IN_DOUBT, Standing.SENDING, Standing.UNSAVED, Standing.ENDED)


def run(options: Namespace) -> int:
    """Run the action; returns the exit code.

    0: done. 1: something is left to do, or could not be done. 2: nothing was tried.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a prompt may be in letters that it has not
    try:
        _reach_server()
        code = _ACTIONS[options.action](options)
        sys.stdout.flush()
        return code
    except (InvalidInput, ConfigurationError) as error:
        _tell(str(error))
        return 2
    except CometAPIError as error:
        _tell(str(error))
        return 1
    except KeyboardInterrupt:
        _tell("Stopped. Nothing was canceled; what is running goes on, and can be collected.")
        return 130
    except BrokenPipeError:  # of `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# --- the actions ------------------------------------------------------------------------------


def _list(options: Namespace) -> int:
    entries = operations.list_records(
        options.scope, in_doubt=options.in_doubt, unsaved=options.unsaved
    )
    if options.json:
        return _print_json(entries)
    filtered = options.in_doubt or options.unsaved
    if not entries:
        print(f"No {'such ' if filtered else ''}record in {_place(options.scope)}.")
    else:
        _print_entries(entries, options)
    if options.scope is None and not filtered and (over := operations.finished_batches()):
        names = ", ".join(map(plain, over[:_BATCHES]))
        more = f", and {len(over) - _BATCHES} more" if len(over) > _BATCHES else ""
        print(f"\nBatches with nothing left to do, listed by --scope: {names}{more}")
    return 0


def _print_entries(entries: list[LedgerEntry], options: Namespace) -> None:
    print(f"{_records(len(entries))} in {_place(options.scope)}:")
    print(counted(entry.state for entry in entries))
    entries.sort(key=lambda entry: _FIRST.index(entry.standing))
    shown = entries[: options.limit] if options.limit > 0 else entries
    print()
    for line in table([_HEAD, *map(row, shown)]):
        print(line)
    if len(shown) < len(entries):
        print(f"… and {len(entries) - len(shown)} more: --limit 0 or --json shows all.")
    standings = {entry.standing for entry in entries}
    if Standing.IN_DOUBT in standings:
        print(f"\nIn doubt: a create may have been accepted and paid for. {way_out('KEY')}")
    if Standing.UNSAVED in standings:
        scope = f" --scope {shlex.quote(options.scope)}" if options.scope else ""
        print(
            "\nPaid, not saved: `python -m prefect_cometapi ledger collect --storage STORAGE"
            f"{scope}` (the service deletes outputs one hour after completion)"
        )
    for entry in entries:
        if entry.standing is Standing.SENDING and entry.record:
            print(f"\nBeing sent: {being_sent(entry.record, patience(load_settings()))}")
            break


def _show(options: Namespace) -> int:
    entries = operations.find_records(options.keys, options.scope)
    if options.json:
        return _print_json(entries)
    for entry in entries:
        fields = {"record": entry.key, "state": entry.state, "scope": entry.scope}
        if entry.record:
            known = entry.record.model_dump(mode="json", exclude={"owner", "scope", "files"})
            fields |= {"request key" if name == "key" else name: known[name] for name in known}
        for name, value in fields.items():
            if value not in (None, "", []):
                print(f"{name:<15} {plain(value)}")
        for file in entry.record.files or [] if entry.record else []:
            print(f"{'file':<15} {plain(file.location)}")
        if todo := what_to_do(entry, patience(load_settings())):
            print(f"{'what to do':<15} {todo}")
        print()
    return 0


def _collect(options: Namespace) -> int:
    report = portal.call(
        collect,
        _credentials(_block(options, lambda: _to_collect(options))).get_client(),
        options.storage,
        options.scope,
        keys=options.keys,
        prefix=options.prefix,
        timeout=options.timeout,
        observer=_Progress,
    )
    if not report.results:
        print(f"Nothing to collect in {_place(options.scope)}.")
    return _print_report(report)


def _adopt(options: Namespace) -> int:
    check_prediction_id(options.prediction_id)
    block = _block(options, lambda: operations.find_records(options.key, options.scope))
    has_key = block or load_settings().api_key
    result = operations.adopt_prediction(
        options.key,
        options.prediction_id,
        credentials=_credentials(block) if has_key else None,
        scope=options.scope,
    )
    return _print_report(LedgerReport(results=[result]))


def _abandon(options: Namespace) -> int:
    return _decide(options, operations.abandon_predictions, "Abandon")


def _resubmit(options: Namespace) -> int:
    what = "Allow one more create, which may be paid twice, for each of"
    return _decide(options, operations.resubmit_predictions, what)


def _decide(options: Namespace, decide: Callable[..., LedgerReport], question: str) -> int:
    if not options.keys and options.scope is not None:
        entries = operations.list_records(options.scope, in_doubt=True)
        if not entries:
            print(f"Nothing is in doubt in {_place(options.scope)}.")
            return 0
        _ask(options, f"{question} {_records(len(entries))} in doubt of scope {options.scope!r}?")
    return _print_report(decide(options.keys, scope=options.scope))


def _prune(options: Namespace) -> int:
    which: dict[str, Any] = {
        "older_than": options.older_than,
        "scope": options.scope,
        "everything": options.everything,
    }
    entries = operations.find_prunable(**which)
    if entries or options.everything:
        states = counted(entry.state for entry in entries) or "none"
        splits = ", and forget how scopes are split into shards" if options.everything else ""
        _ask(
            options,
            f"Delete {_records(len(entries))} ({states}) from {_place(options.scope)}{splits}? The "
            "same requests in the same scope are then paid for again.",
        )
    report = operations.prune_records(**which)
    if not report.results:
        print(f"No record to delete in {_place(options.scope)}.")
        return 0
    for result in report.results:
        if not result.done:
            print(line_of(result))
    print(f"{report.summary}.")
    return 0 if report.done else 1


_ACTIONS: dict[str, Callable[[Namespace], int]] = {
    "list": _list,
    "show": _show,
    "collect": _collect,
    "adopt": _adopt,
    "abandon": _abandon,
    "resubmit": _resubmit,
    "prune": _prune,
}


# --- where, and as whom -----------------------------------------------------------------------


def _reach_server() -> None:
    """Start Prefect's temporary server where there is no other, before anything waits for it."""
    if PREFECT_API_URL.value():
        return
    _tell(
        "PREFECT_API_URL is not set, so this looks at this machine's own Prefect database, in "
        f"{PREFECT_HOME.value()}."
    )
    try:
        reach_server()
    except Exception as error:
        raise LedgerError(f"Prefect's temporary server did not start: {error}") from error


def _place(scope: str | None) -> str:
    url = PREFECT_API_URL.value()
    server = (
        redact(url) if url else f"this machine's own Prefect database in {PREFECT_HOME.value()}"
    )
    where = load_settings().ledger
    home = server if where == ON_THE_SERVER else f"the storage {where}, with claims at {server}"
    return f"the ledger at {home}{f', scope {scope!r}' if scope is not None else ''}"


def _to_collect(options: Namespace) -> list[LedgerEntry]:
    if options.keys:
        return operations.find_records(options.keys, options.scope)
    return operations.list_records(options.scope, unsaved=True)


def _block(options: Namespace, entries: Callable[[], list[LedgerEntry]]) -> str | None:
    """The credentials block that is named; without a key in the environment, the records' own."""
    if options.block or load_settings().api_key:
        return options.block  # type: ignore[no-any-return]
    records = (entry.record for entry in entries())
    blocks = {record.credentials for record in records if record and record.credentials}
    return blocks.pop() if len(blocks) == 1 else None


def _credentials(block: str | None) -> CometAPICredentials:
    if not block:
        return CometAPICredentials.from_env()
    try:
        loaded: Any = CometAPICredentials.load(block)
    except Exception as error:
        raise ConfigurationError(
            f"The credentials block {block!r} could not be loaded: {error}"
        ) from error
    return loaded  # type: ignore[no-any-return]


def _ask(options: Namespace, question: str) -> None:
    """Ask before a change of many records.

    Raises:
        InvalidInput: The answer is no, or there is nobody to ask.
    """
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(f"{question} Say so with --yes. Nothing was changed.")
    print(f"{question} [y/n] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("Nothing was changed.")


class _Progress(Observer):
    """Tells on standard error what happens while it does."""

    def saved(self, prediction: Prediction, files: list[SavedFile]) -> None:
        """Its outputs are in storage."""
        _tell(f"Saved {prediction.id}.")

    def trouble(self, message: str) -> None:
        """Something went wrong that is being dealt with."""
        _tell(message)


# --- how it looks -----------------------------------------------------------------------------

_HEAD = ("KEY", "STATE", "SENT (UTC)", "ATTEMPT", "MODEL", "PREDICTION", "PROMPT")


def row(entry: LedgerEntry) -> Sequence[str]:
    """A record in a line; the prompt last, because its letters may be two columns wide."""
    record = entry.record
    if record is None:
        return (entry.key, entry.state, "", "", "(can not be read)", "", "")
    return (
        entry.key,
        entry.state,
        f"{record.sent_at:%Y-%m-%d %H:%M:%S}",
        str(record.attempt),
        plain(record.model),
        plain(record.prediction_id or "-"),
        plain(shortened(": ".join(filter(None, (record.key, record.excerpt))), 60)),
    )


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]


def line_of(result: RecordResult, *, several: bool = False) -> str:
    """What was done about a record, in a line; of several in doubt, what to do is said below."""
    below = several and result.did is Did.IN_DOUBT
    message = "It may have been paid for; see below." if below else plain(result.message)
    return f"{result.did:<14}  {result.record_key}  {message}"


def plain(value: object) -> str:
    """A value for a terminal: prompts and ids come from elsewhere, and may hold its commands."""
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def _print_report(report: LedgerReport) -> int:
    doubtful = [result for result in report.results if result.did is Did.IN_DOUBT]
    for result in report.results:
        print(line_of(result, several=len(doubtful) > 1))
    if len(doubtful) > 1:
        print(f"\nIn doubt: a create may have been accepted and paid for. {way_out('KEY')}\n")
    if len(report.results) > 1:
        print(f"{report.summary}.")
    return 0 if report.done else 1


def _print_json(entries: Iterable[LedgerEntry]) -> int:
    values = [
        {"state": entry.state, **entry.model_dump(mode="json", exclude={"record": {"owner"}})}
        for entry in entries
    ]
    print(json.dumps(values, ensure_ascii=False, indent=2))
    return 0


def _tell(message: str) -> None:
    print(plain(message), file=sys.stderr, flush=True)
