"""Two thousand predictions while a fifth of all requests meet a fault; and what others would pay.

    python benchmarks/faults.py

Nothing is spent: the service is the simulator. See `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.fault_account import Account, account
from benchmarks.peers import Peers
from benchmarks.prefect_server import (
    ROOT,
    clean_environment,
    prefect_server,
    records_on_server,
)
from benchmarks.tables import markdown
from prefect_cometapi import simulator
from prefect_cometapi.simulator import records as simulator_records

#: The share of the requests of each operation, and of the predictions, that meets a fault.
SHARE = 0.2
#: Small, so that a hanging reply does not take for ever; none of them changes what is sent again.
SETTINGS = {
    "CREATE_TIMEOUT": "2",
    "QUERY_TIMEOUT": "1",
    "DOWNLOAD_TIMEOUT": "6",
    "SUBMIT_TIMEOUT": "60",
    "POLL_MIN": "0.3",
    "POLL_MAX": "1",
    "MAX_FILE_BYTES": "1500000",
}
#: The deadline of a prediction, in seconds.
TIMEOUT = 12.0


def rates() -> dict[str, float]:
    """Every fault of every operation, in equal parts."""
    operations = ("create", "query", "file", "cancel", "prediction")
    faults = [fault for fault in simulator.FAULTS.values() if fault.operation in operations]
    # What works, only with another status, would water the share down.
    faults = [fault for fault in faults if fault.name not in ("create.200", "create.202")]
    several = Counter(fault.operation for fault in faults)
    return {fault.name: SHARE / several[fault.operation] for fault in faults}


def _pass(number: int, folder: Path, environment: dict[str, str], order: dict[str, Any]) -> Any:
    """One process that asks for all of them; returns what it reported."""
    asked, report = folder / f"order-{number}.json", folder / f"report-{number}.json"
    asked.write_text(json.dumps(order))
    script = ROOT / "benchmarks" / "fault_flows.py"
    with (folder / f"log-{number}.txt").open("w") as log:
        subprocess.run(  # noqa: S603 - our own script
            [sys.executable, str(script), str(asked), str(report)],
            env=environment,
            stdout=log,
            stderr=log,
            check=True,
        )
    return json.loads(report.read_text())


def _records(port: int, ledger: Path) -> dict[str, Any]:
    """All records there are, in both homes; a file counts more than its claim."""
    found = {name: row["value"] for name, row in records_on_server(port).items()}
    return found | {path.stem: json.loads(path.read_bytes()) for path in ledger.rglob("[!.]*.json")}


def _run(predictions: int, folder: Path, port: int) -> tuple[Account, Account, dict[str, Any]]:
    """Our own two passes; the second is accounted for after the first."""
    # All requests, to say how many met which fault.
    simulator_records.MOST_REQUESTS = 10_000_000
    ledger, storage = folder / "ledger", folder / "storage"
    ledger.mkdir(exist_ok=True)
    order = {
        "predictions": predictions,
        "ledger": str(ledger),
        "storage": str(storage),
        "at once": 50,
        "timeout": TIMEOUT,
    }
    sizes = {"run_time": 0.4, "retry_after": 0.2, "oversize": 2_000_000}
    with simulator.run(seed=2, shape="mixed", faults=rates(), **sizes) as service:  # type: ignore[arg-type]
        environment = clean_environment(
            folder / "home",
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_LOGGING_TO_API_ENABLED="false",
            COMETAPI_BASE_URL=service.url,
            COMETAPI_KEY=service.api_key,
            PYTHONPATH=str(ROOT),
            **{f"PREFECT_INTEGRATIONS_COMETAPI_{name}": text for name, text in SETTINGS.items()},
        )
        report = _pass(1, folder, environment, order)
        first = account(service, report, _records(port, ledger), predictions)
        met = Counter(request.fault for request in service.requests if request.fault)
        requests = len(service.requests)
        faulty = met.total()
        print(
            f"First pass: {requests} requests, {faulty} faulty; {dict(first.endings)}", flush=True
        )
        service.clear_faults()
        again = _pass(2, folder, environment, order)
        second = account(service, again, _records(port, ledger), predictions, first)
        print(f"Again, without faults: {dict(second.endings)}", flush=True)
    return first, second, {"requests": requests, "faulty": faulty, "faults met": dict(met)}


def table(first: Account, second: Account, requests: dict[str, Any]) -> str:
    """Our own run, both passes."""
    endings = sorted({*first.endings, *second.endings}, key=lambda name: (name != "saved", name))
    rows: list[list[object]] = [
        [name, getattr(first, field), getattr(second, field)]
        for name, field in (
            ("charged", "charged"),
            ("accepted, the aborted ones included, which are free", "accepted"),
            ("asked for, accepted at least once", "logical"),
            ("deliberate further attempts, accepted", "deliberate"),
            ("**accepted unasked**", "unasked"),
            ("**paid for and named nowhere**", "unnamed"),
        )
    ]
    rows += [[f"ended as: {name}", first.endings[name], second.endings[name]] for name in endings]
    head = [f"{first.endings.total()} predictions", "a fifth faulty", "run again, no faults"]
    met = (
        f"{requests['requests']} requests in the first pass, {requests['faulty']} of them faulty, "
        f"in {len(requests['faults met'])} ways; a fifth of the predictions had a fate as well."
    )
    return f"{markdown(head, rows)}\n\n{met}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--predictions", type=int, default=2000, help="how many (%(default)s)")
    add("--short", action="store_true", help="60 predictions, and nobody else's clients")
    add("--no-peers", action="store_true", help="only this package")
    add("--only-peers", action="store_true", help="only the others")
    add("--json", type=Path, help="write the account there")
    add("--markdown", type=Path, help="write the tables there")
    add("--keep", type=Path, help="keep logs and files in this folder")
    options = parser.parse_args(arguments)
    predictions = 60 if options.short else options.predictions
    # So that ending this program ends the servers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The simulator writes to clients that have hung up, as it should.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    began, value, parts, broken = time.monotonic(), dict[str, Any](), list[str](), list[str]()
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cometapi-faults-"))
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        port = stack.enter_context(prefect_server(folder))
        peers = None if options.short or options.no_peers else Peers(folder, port)
        if not options.only_peers:
            first, second, requests = _run(predictions, folder, port)
            broken = first.broken + [text for text in second.broken if text not in first.broken]
            parts.append(table(first, second, requests))
            accounts = {"first": first.summary(), "second": second.summary()}
            value |= {"predictions": predictions, **requests, **accounts}
        if peers:
            value["peers"] = peers.rows()
            parts.append(peers.table(value["peers"]))
    value["seconds"] = round(time.monotonic() - began)
    parts.append(f"Prefect {version('prefect')}, Python {platform.python_version()}, SQLite.")
    text = "\n\n".join(parts) + "\n"
    print(f"\n{text}")
    if options.json:
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(f"# Through faults, and with other clients\n\n{text}")
    print("\n".join(broken) if broken else "Every promise was kept.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
