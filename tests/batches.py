"""Batches for tests: how they are run, and what is left of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi import (
    BatchFailed,
    BatchItem,
    BatchResult,
    CometAPICredentials,
    ItemStatus,
    arun_predictions,
    iter_predictions,
    run_predictions,
)
from prefect_cometapi.ledger import Record, read_record
from prefect_cometapi.records import folder_of
from prefect_cometapi.simulator import Simulator

#: Makes a small text, so that many cost little.
TEXT = "simulator/text"
#: Another one.
NUMBER = "simulator/number"

#: Runs a batch of so many items, in a process of its own; prints the result, or the error's.
SCRIPT = """
import json, sys
from pathlib import Path
from prefect_cometapi import BatchFailed, CometAPICredentials, run_predictions

count, storage, scope, options = map(json.loads, sys.argv[1:])
inputs = [{"prompt": f"boat {number}"} for number in range(count)]
credentials = CometAPICredentials.from_env()
try:
    result = run_predictions.fn(
        credentials, "simulator/text", inputs, Path(storage), scope=scope, **options
    )
except BatchFailed as error:
    result = error.result
print(result.model_dump_json())
"""


def boats(count: int, first: int = 0) -> list[dict[str, Any]]:
    """So many inputs."""
    return [{"prompt": f"boat {number}"} for number in range(first, first + count)]


def told(items: list[BatchItem]) -> list[dict[str, Any]]:
    """What is the same however often a batch is run."""
    ordered = sorted(items, key=lambda item: item.number)
    return [item.model_dump(exclude={"found", "polls"}) for item in ordered]


@dataclass
class Batches:
    """Runs batches of one scope against the simulator."""

    service: Simulator
    credentials: CometAPICredentials
    folder: Path
    scope: str

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"scope": self.scope, "storage": self.folder, "model": TEXT, **options}

    def run(self, inputs: Any, **options: Any) -> BatchResult:
        """Run a batch to its end."""
        result: BatchResult = run_predictions.fn(
            self.credentials, inputs=inputs, **self._options(options)
        )
        return result

    async def arun(self, inputs: Any, **options: Any) -> BatchResult:
        """The same by the async twin."""
        result: BatchResult = await arun_predictions.fn(
            self.credentials, inputs=inputs, **self._options(options)
        )
        return result

    def fail(self, inputs: Any, **options: Any) -> BatchFailed:
        """Run a batch that ends with an error."""
        with pytest.raises(BatchFailed) as raised:
            self.run(inputs, **options)
        return raised.value

    def iterate(self, inputs: Any, **options: Any) -> Iterator[BatchItem]:
        """Run it item by item."""
        return iter_predictions(self.credentials, inputs=inputs, **self._options(options))

    # --- what is left -------------------------------------------------------------------------

    @property
    def records_folder(self) -> Path:
        """Where the records are, if they are in the folder of the outputs."""
        return self.folder / "cometapi-batches" / folder_of(self.scope)

    def journals(self) -> list[Path]:
        """The files of the journal, in their order."""
        return sorted(self.records_folder.glob("run-*/journal-*.jsonl"))

    def records(self) -> dict[str, Record | None]:
        """What the journal says of each create that was not taken back."""
        found: dict[str, Record | None] = {}
        for file in self.journals():
            for line in map(json.loads, file.read_text("utf-8").splitlines()):
                if "record" in line:
                    found[line["record_key"]] = line["record"]
        return {key: read_record(value) for key, value in found.items() if value is not None}

    def outputs(self) -> list[str]:
        """The names of the files that were saved."""
        return sorted(
            path.name for path in self.folder.iterdir() if path.is_file() and path.name[0] != "."
        )


def statuses(result: BatchResult) -> list[ItemStatus]:
    """How the items ended, in the order of the inputs."""
    return [item.status for item in result.items]
