"""Whether what is left after a crash and a retry is what was promised."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.boundaries import Places
from benchmarks.crash_plan import Plan
from prefect_cometapi.simulator import Simulator

IN_DOUBT = "SubmissionInDoubt"
#: What a report says of one prediction.
Ending = Mapping[str, Any]


def paid_for(service: Simulator, prompt: str) -> list[str]:
    """The ids of what the service has made for a prompt: the vendor's dashboard."""
    return [id_ for id_, seen in service.predictions.items() if seen.input["prompt"] == prompt]


async def damaged_files(places: Places, service: Simulator, hashes: dict[str, str]) -> list[str]:
    """The files that can be seen and are not whole, or not what the service made."""
    return [
        path.name
        for path in places.files()
        if not _decodes(path)
        or hashlib.sha256(path.read_bytes()).hexdigest() != await _hash(path.stem, service, hashes)
    ]


def _decodes(path: Path) -> bool:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()
    except OSError:
        return False
    return True


async def _hash(stem: str, service: Simulator, hashes: dict[str, str]) -> str:
    """What an output's bytes hash to, as the service serves it; asked for while it does."""
    if stem not in hashes:
        id_, _, number = stem.rpartition("-")
        async with httpx.AsyncClient(base_url=service.url) as http:
            headers = {"authorization": f"Bearer {service.api_key}"}
            reply = await http.get(f"/replicate/v1/predictions/{id_}", headers=headers)
            value = reply.json()
            while "output" not in value:
                value = value["data"]
            output = await http.get(value["output"][int(number)])
        hashes[stem] = hashlib.sha256(output.content).hexdigest()
    return hashes[stem]


def judge(
    plan: Plan,
    prompts: list[str],
    service: Simulator,
    *,
    reports: list[Mapping[str, Ending]],
    records: Mapping[str, Any],
    posts: Mapping[str, int],
    resubmitted: set[str],
) -> tuple[Counter[str], list[str]]:
    """What became of each prediction, and the promises that were broken.

    Args:
        plan: What was done.
        prompts: What was asked for, each once.
        service: The service, which knows what was paid for.
        reports: What the runs that came to their end said, by prompt.
        records: The ledger, by key.
        posts: How often each was sent.
        resubmitted: What a person has let be sent again.
    """
    named = {record.get("prediction_id") for record in records.values() if record}
    counts, broken = Counter[str](), list[str]()
    first, last = (reports[0], reports[-1]) if reports else ({}, {})
    for prompt in prompts:
        ids, before, ending = paid_for(service, prompt), first.get(prompt, {}), last.get(prompt, {})
        counts["charged"] += len(ids)
        if posts.get(prompt, 0) > 1 + (prompt in resubmitted) or len(ids) > 1:
            broken.append(f"{prompt}: {posts[prompt]} creates, {len(ids)} charged")
        if before.get("error") == IN_DOUBT:
            counts["in doubt"] += 1
            counts["adopted"] += prompt not in resubmitted
            if before["record_key"] not in records:
                broken.append(f"{prompt}: in doubt, but its record is gone")
        if "files" in ending:
            counts["finished" if "files" in before else "finished then"] += 1
            broken += _damage(prompt, ending, ids)
            continue
        error = ending.get("error")
        if error == "OutputExpired" and plan.late:
            counts["expired"] += 1
        else:
            broken.append(f"{prompt}: {error or 'no word'} {ending.get('message', '')}")
        for id_ in ids:
            if id_ not in named or error is None:
                counts["lost"] += 1
                broken.append(f"{prompt}: {id_} is paid for, and nothing names it")
    return counts, broken


def _damage(prompt: str, ending: Ending, ids: list[str]) -> list[str]:
    files = ending["files"]
    if ending["id"] not in ids or not files:
        return [f"{prompt}: saved {ending['id']}, paid for {ids}"]
    return [
        f"{prompt}: {file['name']} is not the file that was saved"
        for file in files
        if hashlib.sha256(Path(file["location"]).read_bytes()).hexdigest() != file["sha256"]
    ]
