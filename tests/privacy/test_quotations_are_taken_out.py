"""Of what a service says, what it quotes of an input is left out, and the rest stays."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_cometapi.hidden_texts import UNTOLD, Hidden, hidden_texts, told, without
from tests.servers import made_of

BOAT = 'A paper boat on calm water,\nat night: "quietly" drifting'


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Out of memory.", "Out of memory."),
        (f"Bad prompt: {BOAT}", "Bad prompt: …"),
        (f"Bad prompt: {BOAT!r}.", "Bad prompt: '…'."),
        (f"Bad prompt: {BOAT.upper()}!", "Bad prompt: …!"),
        (
            'Bad prompt: {"prompt": "A paper boat on calm water,\\nat night"}',
            'Bad prompt: {"prompt": "…"}',
        ),
        ("Bad prompt: A  paper\tboat, on CALM water", "Bad prompt: …"),
        ("'paper boat on' is not allowed", "'…' is not allowed"),
        ("paper boats", "paper boats"),
        ("It says 'A paper boat on' and 'drifting' there", "It says '…' and 'drifting' there"),
        ("", ""),
    ],
)
def test_what_is_quoted(said: str, left: str) -> None:
    assert without(said, hidden_texts({"prompt": BOAT}, shown=False)) == left


@pytest.mark.parametrize(
    ("prompt", "said", "left"),
    [
        ("boat", "No boat today", "No … today"),
        ("boat", "No BOATS", "No …S"),
        ("cat", "No cat today", "No cat today"),
        ("夜の港に浮かぶ紙の船", "禁止: 夜の港に浮かぶ紙の船", "禁止: …"),
        ("Straßenbahn im Winter", "Zu: STRASSENBAHN IM WINTER", "Zu: …"),
        ("", "Out of memory", "Out of memory"),
        ("…!?", "Out of memory", "Out of memory"),
    ],
)
def test_short_prompts_and_other_letters(prompt: str, said: str, left: str) -> None:
    assert without(said, hidden_texts({"prompt": prompt}, shown=False)) == left


def test_every_text_of_an_input_is_one() -> None:
    input = {"n": 1, "negative": "no ships at all", "more": [{"style": "in the manner of Turner"}]}
    hidden = hidden_texts(input, shown=False)
    assert without("no ships at all, in the manner of Turner", hidden) == "…"


@pytest.mark.parametrize(
    ("input", "shown", "hidden"),
    [
        ({"prompt": BOAT}, True, ()),
        (None, True, ()),
        ({}, False, None),
        (None, False, None),
        ({"seed": 1}, False, ("",)),
    ],
)
def test_what_is_hidden(input: Any, shown: bool, hidden: Hidden) -> None:
    assert hidden_texts(input, shown) == hidden


def test_of_an_input_that_nobody_knows_nothing_is_repeated() -> None:
    assert without("Anything may be a quotation.", None) == ""


@pytest.mark.parametrize(
    ("repeated", "input", "shown", "logs", "error", "log"),
    [
        ({"prompt": BOAT}, {"prompt": BOAT}, True, True, f"bad: {BOAT}", "log"),
        ({"prompt": BOAT}, {"prompt": BOAT}, True, False, f"bad: {BOAT}", ""),
        ({"prompt": BOAT}, {"prompt": BOAT}, False, True, "bad: …", ""),
        ({}, {"prompt": BOAT}, False, True, "bad: …", ""),
        ({"prompt": BOAT}, None, False, True, "bad: …", ""),
        ({}, None, False, True, UNTOLD, ""),
    ],
)
def test_a_prediction_is_told_without_them(
    repeated: dict[str, Any],
    input: dict[str, Any] | None,
    shown: bool,
    logs: bool,
    error: str,
    log: str,
) -> None:
    seen = made_of(None, input=repeated, error=f"bad: {BOAT}", logs="log")
    left = told(seen, hidden_texts(input, shown), logs=logs)
    assert (left.error, left.logs, left.input) == (error, log, repeated)


def test_of_a_whole_picture_its_beginning_is_looked_for() -> None:
    picture = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUg" * 20_000
    hidden = hidden_texts({"image": picture}, shown=False)
    assert sum(map(len, hidden or ())) < 1000
    assert without(f"Can not read {picture[:60]}.", hidden) == "Can not read ….."[:-1]
