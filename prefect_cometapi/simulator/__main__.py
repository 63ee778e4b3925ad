"""`python -m prefect_cometapi.simulator`: the simulator as a program."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from random import Random

from prefect_cometapi.simulator.faults import FAULTS, OPERATIONS
from prefect_cometapi.simulator.plan import find_fault


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefect_cometapi.simulator",
        description="A stand-in CometAPI: no spending, and it misbehaves on demand.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8400, help="port to listen on; 0: any free one (%(default)s)")
    add("--api-key", help="the only key to accept; without it any key does")
    seed = "decides ids, times and faults by rate (another one each time)"
    add("--seed", type=int, default=Random().randrange(2**31), help=seed)  # noqa: S311
    shapes = ("plain", "enveloped", "mixed")
    add("--shape", choices=shapes, default="plain", help="shape of the replies (%(default)s)")
    add("--run-time", type=float, help="median run time in seconds, for every model")
    add("--speed", type=float, default=1.0, help="times faster than real time (%(default)s)")
    ttl = "seconds from completion until data are deleted (%(default)s)"
    add("--output-ttl", type=float, default=3600.0, help=ttl)
    add("--public-url", help="root of the URLs of output files")
    add("--lure-url", help="root of an untrusted host that redirects and `urls` lead to")
    add(
        "--retry-after",
        type=float,
        default=1.0,
        help="seconds that a 429 asks to wait (%(default)s)",
    )
    rates = (
        "let this share of requests meet a fault (create.lost=0.1), or the nth only (create.lost@3)"
    )
    add("--fault", action="append", default=[], metavar="NAME=RATE|NAME@N", help=rates)
    add("--list-faults", action="store_true", help="print all faults and stop")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulator until Ctrl-C or SIGTERM."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    if options.pop("list_faults"):
        for fault in sorted(FAULTS.values(), key=lambda each: OPERATIONS.index(each.operation)):
            print(f"{fault.name:28} {fault.text}")
        return 0
    rates, places = {}, []
    for word in options.pop("fault"):
        name, at, number = word.partition("@")
        name, _, rate = name.partition("=")
        try:
            find_fault(name)
            if at:
                places.append((name, int(number)))
            else:
                rates[name] = float(rate)
        except ValueError as error:
            parser.error(f"--fault {word}: {error}")
    try:
        from prefect_cometapi.simulator.server import run
    except ModuleNotFoundError as error:  # Pillow, of which the message says how to get it
        print(error, file=sys.stderr)
        return 1
    stopped = threading.Event()
    for number_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_, lambda *_: stopped.set())
    with run(**options, faults=rates) as simulator:
        for name, place in places:
            simulator.script_at(name, place)
        use = f"COMETAPI_BASE_URL={simulator.url} COMETAPI_KEY={simulator.api_key}"
        print(
            f"CometAPI simulator at {simulator.url}, which tells there what it was asked for; "
            f"nothing costs money. Use: {use}",
            flush=True,
        )
        stopped.wait()
        counts = simulator.counts
    print(
        f"{counts.creates} creates, {counts.charged} charged, "
        f"{counts.polls} polls, {counts.connections} connections",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
