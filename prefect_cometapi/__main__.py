"""The command line: `python -m prefect_cometapi`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from prefect_cometapi.doctor import examine


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
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
    options = parser.parse_args(arguments)
    return asyncio.run(_doctor(options.storage, options.block))


async def _doctor(storage: str, block: str | None) -> int:
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
