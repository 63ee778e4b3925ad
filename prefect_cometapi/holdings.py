"""What is known of batches on Prefect's server: one Variable each, whoever is at work on them.

It says where the records of a scope are, and whose turn it is (`lease`); or that the scope is split
into shards (`shards`), each of them a batch with a Variable of its own. It stays when all is over.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_cometapi.batch_models import Shard
from prefect_cometapi.errors import InvalidInput, LedgerError
from prefect_cometapi.holders import Holder
from prefect_cometapi.prefect_api import ask

#: What marks the Variables of batches; those of single records have another one.
TAG = "cometapi-batch"
#: What marks those of prompts that are just being written.
PROMPTS_TAG = "cometapi-prompts"
#: In so many seconds without a sign, a process that writes prompts is certainly gone.
PROMPTS_LEAST = 3_600.0
SCOPE = "scope:"


@dataclass(frozen=True)
class Place:
    """Where the records of a batch are.

    Attributes:
        reference: What opens it again, from anywhere for a saved block; empty for an unsaved one.
        identity: What tells it from others.
    """

    reference: str
    identity: str

    def __str__(self) -> str:
        return self.reference or f"an unsaved block ({self.identity})"


class Holding(BaseModel):
    """What the Variable says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    scope: str
    place: str
    identity: str
    runs: int = 0
    #: How many of its records are in doubt, or paid for and not saved; None while it is at work.
    left: int | None = None
    holder: Holder | None = None
    seen: str = ""
    #: Into how many shards the scope is split, each a batch of its own; 0 where it is a batch.
    shards: int = 0

    def check_place(self, place: Place) -> None:
        """Refuse another place than where the records are.

        Raises:
            InvalidInput: Says which.
        """
        if self.shards:
            raise InvalidInput(
                f"The batch of scope {self.scope!r} is split into {self.shards} shards "
                "(`split_scope`), each with records of its own: what was paid for would not be "
                "found in them. Work on its shards, or use another scope. Nothing was sent."
            )
        if self.identity != place.identity:
            raise InvalidInput(
                f"The batch of scope {self.scope!r} keeps its records in {self.place or '?'}, and "
                f"these are to be in {place}: what was paid for would not be found there. Use the "
                "same ledger, or another scope. Nothing was sent."
            )


def variable_name(scope: str) -> str:
    """The name of the Variable of a scope's batch."""
    return f"cometapi-batch-{hashlib.sha256(scope.encode()).hexdigest()[:40]}"


async def read(scope: str) -> tuple[Holding, float, UUID] | None:
    """What the Variable says, how old that is, and its id; None where there is none."""
    with as_ledger_error():
        reply = await request("GET", f"/variables/name/{variable_name(scope)}")
        if reply is None:
            return None
        row = reply.json()
        try:
            holding = Holding.model_validate(row["value"])
        except ValidationError as error:
            raise LedgerError(
                f"The Variable {row['name']} can not be read, and says who is at work on the batch "
                f"of scope {scope!r}. Delete it if nobody is: `prefect variable delete "
                f"{row['name']}`. Nothing was sent."
            ) from error
        now = reply.headers.get("date")
        then = datetime.fromisoformat(row["updated"])
        since = parsedate_to_datetime(now) - then if now else timedelta()
        return holding, max(0.0, since.total_seconds()), UUID(row["id"])


async def runs_before(scope: str, place: Place) -> int:
    """How many runs have worked on the batch of a scope.

    Raises:
        InvalidInput: Its records are in another place.
        LedgerError: Prefect's server could not be used.
    """
    found = await read(scope)
    if found is None:
        return 0
    found[0].check_place(place)
    return found[0].runs


async def holdings(scope: str | None = None) -> list[Holding]:
    """Where the batches keep their records: of a scope and its shards, or all that are known.

    Raises:
        LedgerError: Prefect's server could not be used.
    """
    listed = await _listed(*_of(scope))
    found = {each.scope: each for each in listed if not each.shards}
    for split in listed if scope else ():
        for shard in Shard.all_of(split.scope, split.shards):
            found |= {each.scope: each for each in await holdings(shard.scope)}
    return list(found.values())


def _of(scope: str | None) -> list[str]:
    return [SCOPE + scope] if scope else []


async def _listed(*tags: str, tag: str = TAG) -> list[Holding]:
    found = list[Holding]()
    for offset in itertools.count(step=200):
        question = {
            "variables": {"tags": {"all_": [tag, *tags]}},
            "sort": "NAME_ASC",
            "limit": 200,
            "offset": offset,
        }

        async def page(client: PrefectClient) -> Any:
            return await client.request("POST", "/variables/filter", json=question)  # noqa: B023

        with as_ledger_error():
            rows = (await ask(page)).json()
        for row in rows:
            with suppress(ValidationError):
                found.append(Holding.model_validate(row["value"]))
        if len(rows) < 200:
            break
    return found


async def forget(
    older_than: timedelta, scope: str | None = None, *, splits: bool = False
) -> list[str]:
    """Delete the Variables of batches that are over, with nothing left to do, and old.

    Their records stay in their storage, and are found by a run of the same scope with the same
    ledger. So how a scope is split into shards stays, too: with another number of them, items
    would be in shards that do not find what was paid for.

    Args:
        older_than: For so long they have not been worked on.
        scope: Only that of this scope, and of its shards.
        splits: Forget also how scopes are split, after all of their shards: what is made in them
            again is then paid for again.

    Returns:
        The scopes.

    Raises:
        LedgerError: Prefect's server could not be used.
    """
    split = [each for each in await _listed(*_of(scope)) if each.shards]
    asked = {
        scope,
        *(shard.scope for each in split for shard in Shard.all_of(each.scope, each.shards)),
    }
    scopes = []
    for holding in [*await holdings(scope), *(split if splits else ())]:
        if scope is not None and holding.scope not in asked:
            continue
        if holding.holder is None and holding.left == 0:
            found = await read(holding.scope)
            if holding.shards and await holdings(holding.scope):
                continue  # some of its shards are still known
            if found and found[0] == holding and found[1] >= older_than.total_seconds():
                await delete(found[2])
                scopes.append(holding.scope)
    if scope is None:
        await _forget_prompts(older_than)
    return scopes


async def _forget_prompts(older_than: timedelta) -> None:
    """Delete what processes that were killed have left of prompts that were being written."""
    for holding in await _listed(tag=PROMPTS_TAG):
        found = await read(holding.scope)
        if found and found[1] >= max(older_than.total_seconds(), PROMPTS_LEAST):
            await delete(found[2])


async def delete(id: UUID) -> None:
    """Delete a Variable, if it is there."""
    with as_ledger_error():
        await request("DELETE", f"/variables/{id}")


async def request(
    method: Any, path: Any, *, urgent: bool = False, json: Any = None
) -> httpx.Response | None:
    """Prefect's answer about one Variable; None where it is not there."""
    try:
        return await ask(lambda client: client.request(method, path, json=json), urgent=urgent)
    except ObjectNotFound:
        return None
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 404:
            return None
        raise


@contextmanager
def as_ledger_error() -> Iterator[None]:
    """What goes wrong with Prefect's server is a `LedgerError`."""
    try:
        yield
    except LedgerError:
        raise
    except Exception as error:
        raise LedgerError(
            "Prefect's server, which says who is at work on a batch, could not be used "
            f"({type(error).__name__}: {error}). Nothing was sent."
        ) from error
