"""Which attempt at an item of a batch is the one to go on with, by the records. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefect_cometapi.ledger import Outcome, Record

#: How a prediction ended that is made again where the caller wants what failed to be.
MAY_BE_RETRIED = (Outcome.FAILED, Outcome.CANCELED, Outcome.EXPIRED)
#: After which a further attempt is made in any case.
ONE_MORE = (Outcome.RESUBMITTED, Outcome.STOPPED)


@dataclass(frozen=True)
class Past:
    """The attempts that are not to be gone on with: how many, and how many of them count."""

    attempts: int
    counted: int


def past_of(record_of: Callable[[int], tuple[bool, Record | None]], *, again: bool) -> Past:
    """What is over of an item.

    Args:
        record_of: Whether there is a record of an attempt, and the record where it can be read.
        again: What failed is made again.
    """
    number, counted = 0, 0
    while True:
        _, record = record_of(number + 1)
        outcome = record.outcome if record else None
        if outcome in MAY_BE_RETRIED:
            # Where the next attempt is there already, it is what is gone on with.
            if not again and not record_of(number + 2)[0]:
                break
            counted += not again
        elif outcome not in ONE_MORE:
            break
        number += 1
    return Past(number, counted)
