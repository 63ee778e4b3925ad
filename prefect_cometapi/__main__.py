"""The command line: `python -m prefect_cometapi`.

What a command needs is imported when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

#: The actions of `ledger`: what each does, and its options in the order of `_OPTIONS`.
_ACTIONS = {
    "list": ("list records: counts, then one line each", "in-doubt unsaved limit scope json"),
    "show": ("show all of a record", "keys scope json"),
    "collect": (
        "save what was paid for and never saved",
        "keys? scope storage prefix timeout block",
    ),
    "adopt": ("give a record in doubt the id of its prediction", "key id scope block"),
    "abandon": ("give records up: neither sent again nor looked for", "keys? scope yes"),
    "resubmit": ("let what is in doubt be sent once more; may pay twice", "keys? scope yes"),
    "prune": ("delete old records that have ended", "scope older-than everything yes"),
}
_OPTIONS: dict[str, tuple[str, dict[str, object]]] = {
    "key": ("key", {"metavar": "KEY", "help": "key of the record"}),
    "id": ("prediction_id", {"metavar": "PREDICTION_ID", "help": "from the vendor's dashboard"}),
    "keys": ("keys", {"metavar": "KEY", "nargs": "+", "help": "keys of records"}),
    "keys?": ("keys", {"metavar": "KEY", "nargs": "*", "help": "keys of records"}),
    "scope": ("--scope", {"help": "only what shares this, such as flow-run:<id of a flow run>"}),
    "in-doubt": ("--in-doubt", {"action": "store_true", "help": "those that may be paid for"}),
    "unsaved": ("--unsaved", {"action": "store_true", "help": "those paid for and not saved"}),
    "limit": ("--limit", {"type": int, "default": 100, "help": "lines, 0 for all (default: 100)"}),
    "json": ("--json", {"action": "store_true", "help": "all of them as JSON"}),
    "storage": (
        "--storage",
        {"required": True, "help": "folder or block://type-slug/name to save to"},
    ),
    "prefix": ("--prefix", {"default": "", "help": "relative path in front of the file names"}),
    "timeout": (
        "--timeout",
        {"type": float, "default": 0.0, "help": "seconds to wait for those that run (default: 0)"},
    ),
    "block": ("--block", {"help": "saved CometAPICredentials block (default: the environment)"}),
    "older-than": (
        "--older-than",
        {"type": float, "default": 7.0, "metavar": "DAYS", "help": "days, at least (default: 7)"},
    ),
    "everything": (
        "--everything",
        {
            "action": "store_true",
            "help": "also what is in doubt or was never saved, and how scopes are split",
        },
    ),
    "yes": ("--yes", {"action": "store_true", "help": "do not ask"}),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "ledger":
        from prefect_cometapi import ledger_command

        return ledger_command.run(options)
    return asyncio.run(_doctor(options.storage, options.block))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefect_cometapi", description="CometAPI predictions from Prefect."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="check settings, key, proxy, storage and Prefect; spends nothing",
        description="Check settings, key, proxy, storage and Prefect. Spends nothing.",
    )
    doctor.add_argument(
        "--storage", default=".", help="folder or block://type-slug/name to check (default: .)"
    )
    doctor.add_argument("--block", help="check this saved CometAPICredentials block")
    ledger = commands.add_parser(
        "ledger",
        help="what was paid for: list, collect and decide; spends nothing",
        description="Records of what was submitted and paid for. Spends nothing. Ends with 0 where "
        "all is done, 1 where something is left to do, 2 where nothing was tried.",
    )
    actions = ledger.add_subparsers(dest="action", required=True)
    for action, (text, options) in _ACTIONS.items():
        described = actions.add_parser(action, help=text, description=f"{text.capitalize()}.")
        for option in options.split():
            name, details = _OPTIONS[option]
            described.add_argument(name, **details)  # type: ignore[arg-type]
    return parser


async def _doctor(storage: str, block: str | None) -> int:
    from prefect_cometapi.doctor import examine

    healthy = True
    async for finding in examine(storage, block):
        print(finding, flush=True)
        healthy = healthy and finding.ok is not False
    print(
        "Everything needed is there."
        if healthy
        else "Something is wrong; the lines marked FAIL say what to do."
    )
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
