"""What this package costs beside other ways of doing the same, as one table.

python benchmarks/performance.py            # half an hour or more
python benchmarks/performance.py --short    # a few minutes; also a slow test
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script, it is not found from the folder that it is in
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import measures, measures_virtual
from benchmarks.measures import FULL, SHORT, TINY, Bench, Row
from benchmarks.prefect_server import prefect_server
from benchmarks.tables import markdown

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "flights": measures.flights,
    "hanging": measures.hanging,
    "long": measures.long_runs,
    "polls": measures_virtual.placed_polls,
    "rate": measures_virtual.creates_at_a_limit,
    "tasks": measures.task_runs,
    "files": measures.files,
    "imports": measures.imports,
    "small": measures.small,
}
SIZES = {"full": FULL, "short": SHORT, "tiny": TINY}


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{shown} {unit}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """All rows, and whether they reach what they are to."""
    head = ["measured", "ours", "beside", "", "ratio", "reach", ""]
    body: list[list[object]] = []
    for row in rows:
        sign = "≥" if row.least else "≤"
        compared = row.beside is not None
        body.append(
            [
                row.name,
                _number(row.ours, row.unit),
                row.than,
                _number(row.beside, row.unit),
                f"{row.ratio:.3g}" if compared else "",
                f"{sign} {row.reach:.3g}" + ("" if compared else f" {row.unit}".rstrip()),
                "reached" if row.reached else "**missed**",
            ]
        )
    return markdown(head, body)


def fill(page: Path, text: str) -> None:
    """Put the table between the page's marks."""
    before, begin, rest = page.read_text().partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- /measured -->")
    if not end:
        raise ValueError(f"{page} has no <!-- measured --> and <!-- /measured -->.")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


class Measured:
    """All that was measured, written down as it comes: a run takes an hour, and may not end.

    Args:
        size: How much of everything.
        file: Where it is written; None for nowhere.
        new: Begin anew, in place of adding to what is there.
    """

    def __init__(self, size: str, file: Path | None, *, new: bool) -> None:
        self._file = file
        self._value: dict[str, Any] = {"size": asdict(SIZES[size]), "rows": {}, "raw": {}}
        if file and file.exists() and not new:
            earlier = json.loads(file.read_text())
            if earlier["size"] != json.loads(json.dumps(self._value["size"])):
                raise ValueError(f"{file} is of another size.")
            self._value = earlier

    def keep(self, name: str, rows: list[Row], raw: dict[str, Any]) -> None:
        """Keep what one measure has found."""
        shown = [{**asdict(row), "ratio": row.ratio, "reached": row.reached} for row in rows]
        self._value["rows"][name] = shown
        self._value["raw"] |= raw
        if self._file:
            self._file.write_text(json.dumps(self._value, indent=1) + "\n")

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the measures."""
        names, known = {field.name for field in fields(Row)}, self._value["rows"]
        return [
            Row(**{name: value for name, value in row.items() if name in names})
            for measure in MEASURES
            for row in known.get(measure, [])
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 where something was not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--short", action="store_true", help="less of everything")
    add("--size", choices=SIZES, help="how much of everything (full)")
    add("--only", choices=MEASURES, action="append", help="only this; may be repeated")
    add("--json", type=Path, help="write everything that was measured there; --only adds to it")
    add("--docs", type=Path, help="put the table into this page, such as docs/performance.md")
    add("--keep", type=Path, help="keep logs and environments in this folder")
    options = parser.parse_args(arguments)
    size = options.size or ("short" if options.short else "full")
    # So that ending this program ends the servers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began, measured = time.monotonic(), Measured(size, options.json, new=not options.only)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cometapi-performance-"))
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        port = stack.enter_context(prefect_server(folder))
        bench = Bench(folder.absolute(), SIZES[size], port)
        for name in options.only or MEASURES:
            found = MEASURES[name](bench)
            print(f"\n{name}, after {time.monotonic() - began:.0f} s\n{table(found)}", flush=True)
            measured.keep(name, found, bench.raw)
    rows = measured.rows
    text = table(rows) + (
        f"\n\nMedians of {SIZES[size].repeats}, size {size}. Prefect {version('prefect')}, httpx "
        f"{version('httpx')}, replicate {version('replicate')}, Python "
        f"{platform.python_version()}.\n"
    )
    print(f"\n{text}")
    if options.docs:
        fill(options.docs, text)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
