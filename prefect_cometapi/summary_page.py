"""A batch at a glance: what became of it, what it cost, what is to be done. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from prefect_cometapi import markup
from prefect_cometapi.batch_models import (
    BatchResult,
    FailedItem,
    FailureGroup,
    ItemStatus,
    Spread,
)
from prefect_cometapi.batch_rules import counted, ways_out
from prefect_cometapi.events import COMMAND

#: So many items are named of each reason; of those in doubt, each of which is to be decided, more.
NAMED, IN_DOUBT_NAMED = 5, 50


def headline(result: BatchResult, *, interrupted: bool = False) -> str:
    """What became of it in a line, which the lists of Prefect's UI show."""
    what = f"{result.summary}, of {counted(result.inputs)}"
    if result.dry_run:
        return f"A dry run: {what}; nothing was sent"
    early = "Interrupted: " if interrupted else "Ended early: " if result.stopped else ""
    return f"{early}{what}"


def summary(
    result: BatchResult,
    created: Mapping[str, int],
    prices: Mapping[str, float],
    *,
    place: str = "",
    left_running: int | None = None,
) -> str:
    """The page.

    Args:
        result: What became of the batch.
        created: How many predictions of each model it has created, or would.
        prices: What one of each model costs.
        place: Where the outputs go, in words.
        left_running: It was interrupted, and so many predictions were running then.
    """
    interrupted = left_running is not None
    return markup.page(
        f"## {headline(result, interrupted=interrupted)}",
        markup.paragraph(*_introduction(result, left_running)),
        _in_doubt(result),
        _reasons([each for each in result.reasons if each.status is not ItemStatus.IN_DOUBT]),
        "### Cost",
        _cost(result, created, prices),
        "### Numbers",
        markup.table([], _numbers(result, place)),
        "### What to do next" if not result.dry_run else "",
        markup.bullets(map(markup.prose, _next(result, interrupted))) if not result.dry_run else "",
    )


def _introduction(result: BatchResult, left_running: int | None) -> list[str]:
    said = [f"Model {markup.code(result.model)}, scope {markup.code(result.scope)}."]
    if result.stopped:
        said.append(f"<b>It was ended early:</b> {markup.text(result.stopped)}")
    if left_running is not None:
        said.append(
            f"<b>It was interrupted</b> after {markup.seconds(result.seconds)}, while "
            f"{left_running:,} predictions were running; the log says what became of them."
        )
    return said


# --- what went wrong --------------------------------------------------------------------------


def _in_doubt(result: BatchResult) -> str:
    groups = [each for each in result.reasons if each.status is ItemStatus.IN_DOUBT]
    if not groups:
        return ""
    scope, rows = shlex.quote(result.scope), list[list[str]]()
    for group in groups:
        for item in group.items[: IN_DOUBT_NAMED - len(rows)]:
            request = f"<br>request {markup.code(item.request_id)}" if item.request_id else ""
            which = f"{_name(item)}<br>{markup.code(item.record_key or 'no record')}"
            rows.append([which, f"{markup.text(group.reason)}{request}"])
    more = sum(group.count for group in groups) - len(rows)
    return markup.page(
        "### In doubt: decide these first",
        markup.paragraph(
            "Each may have been accepted and paid for, and its id is not known. Look for it in the "
            "vendor's dashboard; it is not sent again until you decide:"
        ),
        markup.table(["item and its record (KEY)", "what happened"], rows),
        markup.paragraph(f"… and {more:,} more.") if more > 0 else "",
        markup.commands(
            [
                f"{COMMAND} list --in-doubt --scope {scope}",
                f"{COMMAND} adopt KEY PREDICTION_ID  # there",
                f"{COMMAND} resubmit KEY  # not there: pay again",
                f"{COMMAND} abandon KEY  # not wanted any more",
            ]
        ),
    ).rstrip()


def _reasons(groups: Sequence[FailureGroup]) -> str:
    if not groups:
        return ""
    rows = []
    for group in groups:
        reason = group.reason or group.error_type
        rows.append([f"<b>{group.count:,}</b>", group.status, markup.text(reason), _items(group)])
    table = markup.table(["", "what", "why", "which"], rows)
    return markup.page("### What went wrong", table).rstrip()


def _items(group: FailureGroup) -> str:
    told = []
    for item in group.items[:NAMED]:
        known = [markup.code(each) for each in (item.prediction_id, item.record_key) if each][:1]
        known += [f"request {markup.code(item.request_id)}"] if item.request_id else []
        told.append(", ".join([_name(item), *known]))
    more = group.count - len(told)
    return "<br>".join([*told, *([f"… and {more:,} more"] if more > 0 else [])])


def _name(item: FailedItem) -> str:
    name = f"key {item.key}" if item.key is not None else f"item {item.number}"
    return markup.text(f"{name}: {item.excerpt}" if item.excerpt else name)


# --- what it cost -----------------------------------------------------------------------------


def _cost(result: BatchResult, created: Mapping[str, int], prices: Mapping[str, float]) -> str:
    made = {model: number for model, number in created.items() if number}
    if not made:
        how = "would be" if result.dry_run else "was"
        return markup.paragraph(f"Nothing: no prediction {how} created.")
    rows, total = [], 0.0
    for model, number in made.items():
        price = prices.get(model)
        total += number * (price or 0.0)
        cost = "no price set" if price is None else f"{number * price:g}, at {price:g} each"
        rows.append([markup.code(model), f"{number:,}", cost])
    unknown = [model for model in made if model not in prices]
    if len(made) > 1 and not unknown:
        rows.append(["<b>together</b>", f"<b>{sum(made.values()):,}</b>", f"<b>{total:g}</b>"])
    how = "An estimate, by the setting <code>prices</code>: nobody has asked the service."
    if unknown:
        example = shlex.quote(json.dumps({**prices, **dict.fromkeys(unknown, 0.003)}))
        how = "To see what it costs, set the prices: " + markup.code(
            f"PREFECT_INTEGRATIONS_COMETAPI_PRICES={example}"
        )
    if result.count(ItemStatus.IN_DOUBT):
        how = f"What this run left in doubt counts as paid. {how}"
    head = ["model", "would be created" if result.dry_run else "created now", "estimated cost"]
    return markup.page(markup.table(head, rows), markup.paragraph(how)).rstrip()


# --- numbers ----------------------------------------------------------------------------------


def _numbers(result: BatchResult, place: str) -> list[list[str]]:
    told = {
        "items": result.summary,
        "paid for by an earlier run": f"{result.found:,}" if result.found else "",
        "saved now": (
            f"{result.files:,} files, {markup.size(result.size)}" if result.files else ""
        ),
        "outputs": markup.text(place),
        "took": markup.seconds(result.seconds),
        "run time of the model": _spread(result.run_times),
        "wait before it was started": _spread(result.queue_times),
        "from completion to saved": _spread(result.saved_after),
        "polls": _polls(result),
        "creates offered again": f"{result.creates_again:,}" if result.creates_again else "",
        "429s": f"{result.rate_limited:,}" if result.rate_limited else "",
        "manifest": (
            f"{markup.code(result.manifest)} in the {markup.text(result.ledger)}"
            if result.manifest
            else ""
        ),
    }
    if result.dry_run:
        told = {name: told[name] for name in ("items", "paid for by an earlier run", "outputs")}
    return [[markup.text(name), value] for name, value in told.items() if value]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    median, p95, longest = map(markup.seconds, (spread.median, spread.p95, spread.longest))
    return f"half within {median}, 95 % within {p95}, the longest {longest}"


def _polls(result: BatchResult) -> str:
    if not (result.polls or result.polls_failed):
        return ""
    told = f"{result.polls:,}"
    if result.created and not result.found:  # what was found is polled as well, as far as it runs
        told += f", or {result.polls / result.created:.1f} a prediction"
    return f"{told}; {result.polls_failed:,} more failed" if result.polls_failed else told


def _next(result: BatchResult, interrupted: bool) -> list[str]:
    if not (result.failed or result.stopped or interrupted):
        return ["Nothing: all is well."]
    ways = ways_out(result)
    return ways[1:] if result.count(ItemStatus.IN_DOUBT) else ways
