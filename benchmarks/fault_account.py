"""The account of a fault run: what was asked for, what was paid, what came of it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.fault_flows import pictures, plain, prompt
from prefect_cometapi.simulator import Simulator

#: How a prediction may end with nothing more to do, and what the service then says of it; the one
#: in doubt may be anything.
ENDINGS = {
    "PredictionFailed": ("failed", "aborted"),
    "ContentRefused": ("failed",),
    "PredictionCanceled": ("canceled",),
    "PredictionTimeout": ("starting", "processing", "canceled"),
    "OutputExpired": ("succeeded, removed",),
}
IN_DOUBT = "SubmissionInDoubt"


@dataclass
class Account:
    """What was found after a pass.

    Attributes:
        charged: Predictions that cost money.
        accepted: Predictions that were made, the aborted ones included, which are free.
        logical: Of what was asked for, how many the service accepted at least once.
        deliberate: Accepted further attempts, each with a record that says that it was allowed.
        unasked: Accepted creates that nobody allowed.
        unnamed: Accepted predictions that neither a record nor an error names.
        endings: How often each ending was reported.
        broken: The promises that were broken.
        ids: What the service made for each number.
    """

    charged: int = 0
    accepted: int = 0
    logical: int = 0
    deliberate: int = 0
    unasked: int = 0
    unnamed: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    ids: dict[int, list[str]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """All but the ids."""
        return {name: value for name, value in vars(self).items() if name != "ids"}


def account(
    service: Simulator,
    report: Mapping[str, Any],
    records: Mapping[str, Any],
    predictions: int,
    before: Account | None = None,
) -> Account:
    """Account for each prediction.

    Args:
        service: Who was paid.
        report: What the run said of each prediction, by number.
        records: The ledger, by key.
        predictions: How many were asked for.
        before: The account of the pass before, after which nothing more may go wrong.
    """
    made, attempts = defaultdict[str, list[str]](list), defaultdict[str, list[Any]](list)
    found = Account(charged=service.counts.charged, accepted=service.counts.accepted)
    seen = service.predictions
    for id_ in seen:
        made[seen[id_].input["prompt"]].append(id_)
    for record in records.values():
        attempts[record["excerpt"]].append(record)
    for number in range(predictions):
        said, wrong = report.get(str(number), {}), list[str]()
        ids, tries = made[prompt(number)], attempts[prompt(number)]
        found.ids[number] = ids
        found.logical += bool(ids)
        allowed = max(len(tries), 1)
        if plain(number):
            allowed = 1
            if len(tries) > 1:
                wrong.append(f"{len(tries)} attempts that nobody asked for")
        found.deliberate += max(0, min(len(ids), allowed) - 1)
        found.unasked += max(0, len(ids) - allowed)
        if len(ids) > allowed:
            wrong.append(f"paid {len(ids)} times for {allowed} attempts")
        known = {record.get("prediction_id") for record in tries}
        nameless = sum(not record.get("prediction_id") for record in tries)
        if (lost := len(set(ids) - known) - nameless) > 0 or not said:
            found.unnamed += max(lost, 0)
            wrong.append(f"paid for {ids}, but only {known} are known")
        wrong += _ending(found, said, ids, pictures(number))
        if before and "error" in said and said["error"] != IN_DOUBT:
            states = [_state(service, id_, seen[id_].status) for id_ in ids]
            if not set(ENDINGS.get(said["error"], ())) & set(states):
                wrong.append(f"{said['error']} after the second pass, and it is {states}")
        if before and plain(number) and before.ids[number] and before.ids[number] != ids:
            wrong.append("paid again by the second pass")
        found.broken += [f"{prompt(number)}: {text}" for text in wrong]
    return found


def _state(service: Simulator, id_: str, status: str) -> str:
    """The status of a prediction, and whether its outputs are gone."""
    if status != "succeeded":
        return status
    reply = httpx.get(
        f"{service.url}/replicate/v1/predictions/{id_}",
        headers={"authorization": f"Bearer {service.api_key}"},
    ).json()
    while "data_removed" not in reply:
        reply = reply["data"]
    return "succeeded, removed" if reply["data_removed"] else status


def _ending(found: Account, said: Mapping[str, Any], ids: list[str], expected: int) -> list[str]:
    """Count how one ended; returns what is wrong with that."""
    if "files" in said:
        found.endings["saved"] += 1
        if said["id"] not in ids:
            return [f"saved {said['id']}, paid for {ids}"]
        if len(said["files"]) != expected:
            found.endings["saved"] -= 1
            found.endings["saved in part, and not said"] += 1
            return [f"saved {len(said['files'])} of {expected} files of {ids}, and said no more"]
        return [
            f"{file['name']} is not the file that was saved"
            for file in said["files"]
            if hashlib.sha256(Path(file["location"]).read_bytes()).hexdigest() != file["sha256"]
        ]
    error, message = said.get("error", "no word"), said.get("message", "")
    found.endings[error] += 1
    if not said.get("ours") or len(message) < 40:
        return [f"{error}: {message}"]
    return []
