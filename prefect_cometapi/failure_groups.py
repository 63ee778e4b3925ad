"""What went wrong in a batch, by reason: bounded, whatever goes wrong how often. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from prefect_cometapi.batch_models import BatchItem, FailedItem, FailureGroup, ItemStatus
from prefect_cometapi.batch_rules import REASON_LENGTH
from prefect_cometapi.ledger import shortened

#: So many reasons are told apart; what comes after them counts as one more.
REASONS = 30
OTHER = "other reasons"
#: So many items of each are named; of those in doubt, each of which is to be decided, more.
NAMED, IN_DOUBT_NAMED = 10, 100

#: What tells two of a kind apart: numbers, ids, and what is quoted.
_PARTICULAR = re.compile(r"""\b\w*\d\w*\b|"[^"]*"|'[^']*'|“[^”]*”""")


@dataclass
class _Group:
    first: BatchItem
    reason: str
    count: int = 0
    items: list[FailedItem] = field(default_factory=list)


class FailureGroups:
    """The failures of a batch so far."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], _Group] = {}

    def add(self, item: BatchItem) -> None:
        """Count an item that went wrong."""
        reason = item.reason or shortened(item.error, REASON_LENGTH)
        kind = (item.status, item.error_type, _PARTICULAR.sub("#", reason).casefold())
        if kind not in self._groups and len(self._groups) >= REASONS:
            kind, reason = (item.status, "", OTHER), OTHER
        group = self._groups.setdefault(kind, _Group(item, reason))
        group.count += 1
        most = IN_DOUBT_NAMED if item.status is ItemStatus.IN_DOUBT else NAMED
        if len(group.items) < most:
            group.items.append(
                FailedItem(
                    number=item.number,
                    key=item.key,
                    excerpt=item.excerpt,
                    prediction_id=item.prediction_id,
                    record_key=item.record_key,
                    request_id=item.request_id,
                )
            )

    def told(self) -> list[FailureGroup]:
        """All of them: what is in doubt first, then the most frequent."""
        groups = [
            FailureGroup(
                status=group.first.status,
                error_type=group.first.error_type if group.reason != OTHER else "",
                reason=group.reason,
                count=group.count,
                items=group.items,
            )
            for group in self._groups.values()
        ]
        return sorted(
            groups, key=lambda group: (group.status is not ItemStatus.IN_DOUBT, -group.count)
        )
