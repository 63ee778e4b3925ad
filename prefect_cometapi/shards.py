"""A batch for several processes: split into shards, each a batch of its own with its own scope.

One process at a time works on a scope, so as many work side by side as there are shards. How many
that is is decided once: with another number, items would belong to other shards, which do not know
that they are paid for. So the first call writes it down on Prefect's server, and it stays, also
when `ledger prune` forgets the batches: their records are still in their storage.
"""

from __future__ import annotations

from logging import getLogger

from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists

from prefect_cometapi import portal
from prefect_cometapi.batch_models import Shard
from prefect_cometapi.batch_rules import check_count
from prefect_cometapi.errors import InvalidInput, LedgerError
from prefect_cometapi.holdings import SCOPE, TAG, Holding, as_ledger_error, read, variable_name
from prefect_cometapi.orders import check_request
from prefect_cometapi.prefect_api import ask, current_scope

#: Some model, for a check of the scope alone.
_ANY_MODEL = "any/model"


@portal.on_background_loop
async def asplit_scope(scope: str | None, shards: int) -> list[Shard]:
    """Async twin of `split_scope`."""
    check_request(_ANY_MODEL, {}, scope=scope)
    check_count("shards", shards)
    scope = scope or await current_scope()
    known = await _known(scope) or await _written(scope, shards)
    if not known.shards:
        raise InvalidInput(
            f"The batch of scope {scope!r} was worked on as a whole: what it has paid for would "
            "not be found in its shards. Go on with it as a whole, or use another scope. Nothing "
            "was sent."
        )
    if known.shards != shards:
        getLogger("prefect_cometapi").warning(
            "The scope %r was split into %d shards at first, and stays so (not %d): with another "
            "number, items would belong to shards that do not know that they are paid for. To "
            "split it anew, and pay for all of it again: `prefect variable delete %s`.",
            scope,
            known.shards,
            shards,
            variable_name(scope),
        )
    return Shard.all_of(scope, known.shards)


def split_scope(scope: str | None, shards: int) -> list[Shard]:
    """Split a scope into shards, so that several processes work on a batch side by side.

    Each shard is a batch of its own: `shard.pick(inputs)` are its items, `shard.scope` its scope.
    The first call for a scope decides how many there are; later ones return as many, whatever they
    ask for. Nothing else is shared: `in_flight`, `max_cost` and the like hold for each shard.

    Args:
        scope: What shares predictions: a name such as a date; None for the root flow run.
        shards: How many there are to be, where the scope is new.

    Returns:
        The shards: plain data, which travels to other machines.

    Raises:
        InvalidInput: That is no number of shards, or the scope was worked on as a whole.
        LedgerError: Prefect's server could not be used. Nothing was sent.
    """
    return portal.call(asplit_scope, scope, shards)


async def _known(scope: str) -> Holding | None:
    found = await read(scope)
    return found[0] if found else None


async def _written(scope: str, shards: int) -> Holding:
    holding = Holding(scope=scope, place="", identity="", left=0, shards=shards)
    new = VariableCreate(
        name=variable_name(scope),
        value=holding.model_dump(mode="json"),
        tags=[TAG, SCOPE + scope],
    )
    with as_ledger_error():
        try:
            await ask(lambda client: client.create_variable(new))
            return holding
        except ObjectAlreadyExists:  # somebody was quicker, or only the answer was lost
            pass
    known = await _known(scope)
    if known is None:
        raise LedgerError(
            f"How the scope {scope!r} is split was deleted just now. Try again. Nothing was sent."
        )
    return known
