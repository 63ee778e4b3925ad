"""Texts of inputs that are not to be repeated, taken out of what a service says. Pure.

With the setting `prompts` off, no text of an input is told to Prefect. Services quote prompts in
their reasons, whole or in part, escaped in their own ways; so what is looked for are letters and
digits in a row, whatever stands between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_cometapi.models import Prediction

#: So many letters and digits in a row that an input has, too, are a quotation; of texts that are
#: not ASCII fewer, because a letter of those may be a word.
IN_A_ROW, IN_A_ROW_ELSEWHERE = 10, 5
#: A whole text of an input that is shorter is looked for as well, down to this.
SHORTEST = 4
#: So much of a `data:` URI is looked for.
DATA_MOST = 400
#: How JSON writes what it can not have as it is.
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\[nrtbf]")
#: In place of a quotation.
GAP = "…"

#: In place of a reason, where it is not known what it may quote.
UNTOLD = "The service's words are not repeated (setting `prompts`)."

#: What is hidden: the texts of an input; None for an input that nobody knows, and so everything.
Hidden = tuple[str, ...] | None


def hidden_texts(input: Mapping[str, Any] | None, shown: bool) -> Hidden:
    """What is hidden of what a service says about an input.

    Args:
        input: The input; None where it is not known.
        shown: The setting `prompts`.
    """
    if shown:
        return ()
    return (*_texts(input), "") if input else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):  # of a whole picture, its beginning tells a quotation
        yield value[:DATA_MOST] if value[:5].lower() == "data:" else value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def without(said: str, hidden: Hidden) -> str:
    """What was said, without what it quotes of an input."""
    if hidden is None:
        return ""
    plain = _ESCAPE.sub(lambda match: " " * len(match[0]), said)
    letters = [(at, letter) for at, each in enumerate(plain) for letter in _folded(each)]
    line = "".join(letter for _, letter in letters)
    quoted = set[int]()
    for text in hidden:
        whole = _folded(text)
        row = min(IN_A_ROW if whole.isascii() else IN_A_ROW_ELSEWHERE, len(whole))
        if row < SHORTEST:
            continue
        parts = {whole[at : at + row] for at in range(len(whole) - row + 1)}
        for at in range(len(line) - row + 1):
            if line[at : at + row] in parts:
                quoted.update(range(at, at + row))
    kept, end, before = "", 0, -2
    for number in sorted(quoted):
        at = letters[number][0]
        if number != before + 1:  # else it is part of the same quotation
            kept += said[end:at] + GAP
        end, before = at + 1, number
    return kept + said[end:]


def _folded(text: str) -> str:
    """Its letters and digits, whatever their case."""
    return "".join(filter(str.isalnum, text)).casefold()


def told(prediction: Prediction, hidden: Hidden, *, logs: bool) -> Prediction:
    """A prediction as it may be told.

    Args:
        prediction: As the service describes it.
        hidden: What is hidden of its input. Its log is as well then: models quote and rewrite it.
        logs: The setting `model_logs`.
    """
    if hidden == ():
        return prediction if logs else prediction.model_copy(update={"logs": ""})
    error = prediction.error and without(
        prediction.error, hidden or tuple(_texts(prediction.input))
    )
    if hidden is None and not prediction.input:
        error = error and UNTOLD
    return prediction.model_copy(update={"error": error, "logs": ""})
