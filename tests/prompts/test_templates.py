"""A template and rows make an input of each row; a row that does not fit is refused, and told."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_cometapi import InvalidInput, PredictionRequest, fill_template

BOAT = "A {{ colour }} boat"


def only(template: Any, row: Any, **options: Any) -> PredictionRequest:
    [request] = fill_template(template, [row], **options)
    return request


def value(template: str, **row: Any) -> Any:
    request = only({"prompt": "x", "it": template}, row)
    return request.input["it"] if not request.refused else request.refused


# --- what comes out ---------------------------------------------------------------------------


def test_each_row_makes_an_input() -> None:
    rows = [{"id": 7, "colour": "red"}, {"id": 9, "colour": "blue"}]
    made = list(fill_template(BOAT, rows, key="id", model="a/b"))
    assert [each.input for each in made] == [{"prompt": "A red boat"}, {"prompt": "A blue boat"}]
    assert [each.key for each in made] == ["7", "9"]
    assert [each.labels for each in made] == [{"row": 0}, {"row": 1}]
    assert made[1].origin == {"kind": "template", "template": BOAT, "row": 1}
    assert {each.model for each in made} == {"a/b"}


def test_rows_are_read_as_they_are_needed() -> None:
    read = itertools.count()
    endless = fill_template(BOAT, ({"colour": number} for number in read))
    assert next(endless).input == {"prompt": "A 0 boat"}
    assert next(read) == 1


def test_rows_of_databases_are_rows() -> None:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    rows = database.execute("SELECT 'red' AS colour")
    assert only(BOAT, rows.fetchone()).input == {"prompt": "A red boat"}
    of_sqlalchemy = SimpleNamespace(_mapping={"colour": "red"})
    assert only(BOAT, of_sqlalchemy).input == {"prompt": "A red boat"}


def test_a_template_may_be_the_whole_input() -> None:
    template = {
        "prompt": "{{ colour }}",
        "seed": "{{ seed }}",
        "steps": 4,
        "images": ["{{ url }}"],
        "more": {"is": "{{ seed + 1 }}"},
    }
    made = only(template, {"colour": 5, "seed": 3, "url": "https://x.example/a.png"})
    assert made.input == {
        "prompt": "5",
        "seed": 3,
        "steps": 4,
        "images": ["https://x.example/a.png"],
        "more": {"is": 4},
    }
    assert made.origin["template"] == template


class Scalar:
    """A value as numpy has it, and so rows of pandas."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def item(self) -> Any:
        return self._value

    def __str__(self) -> str:
        return str(self._value)


@pytest.mark.parametrize(
    ("template", "it", "expected"),
    [
        ("{{ it }}", 3, 3),
        ("  {{- it -}} ", 0.5, 0.5),
        ("{{ it }}", True, True),
        ("{{ it }}", "3", "3"),
        ("{{ it }}", ["a"], ["a"]),
        ("{{ it }}", {"a": 1}, {"a": 1}),
        ("{{ it }}", Decimal("1.50"), 1.5),
        ("{{ it }}", Decimal(5), 5),
        ("{{ it }}", Scalar(7), 7),
        ("{{ it }}", Scalar("seven"), "seven"),
        ("{{ it | int }}", "3", 3),
        ("{{ it > 2 }}", 3, True),
        ("{{ it }} {{ it }}", 3, "3 3"),
        ("{{ it }}!", 3, "3!"),
        ("{{ '}' ~ it }}", 3, "}3"),
        ("{% if it %}yes{% endif %}", 3, "yes"),
        ("plain", 3, "plain"),
    ],
)
def test_one_expression_alone_keeps_its_type(template: str, it: Any, expected: Any) -> None:
    made = value(template, it=it)
    assert made == expected
    assert type(made) is type(expected)


def test_a_column_whose_name_is_no_word() -> None:
    assert only("A {{ row['The colour'] }} boat", {"The colour": "red"}).input == {
        "prompt": "A red boat"
    }


def test_what_rows_hold_is_never_a_template() -> None:
    assert only(BOAT, {"colour": "{{ 7 * 7 }}{% raw %}"}).input == {
        "prompt": "A {{ 7 * 7 }}{% raw %} boat"
    }
    assert only(BOAT, {"colour": "<b>&"}).input == {"prompt": "A <b>& boat"}


def test_a_long_template_is_told_by_its_beginning_and_its_hash() -> None:
    origin = only("long " * 200, {}).origin
    assert len(str(origin["template"])) < 600
    assert len(origin["template_sha256"]) == 64
    assert only("long " * 201, {}).origin["template_sha256"] != origin["template_sha256"]


# --- rows that do not fit ---------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a name that is missing": (
        BOAT,
        {"id": 1, "color": "red"},
        "Row 0 (id '1'): the template names 'colour', which the row does not have; it has: id, "
        "color.",
    ),
    "a column that is empty": (
        BOAT,
        {"id": 1, "colour": None},
        "the template needs 'colour', which the row leaves empty; a template can say",
    ),
    "what pandas calls empty": (
        {"prompt": "x", "seed": "{{ seed }}"},
        {"id": 1, "seed": float("nan")},
        "needs 'seed', which the row leaves empty",
    ),
    "a blank cell of a CSV table": (
        "A {{ colour }} {{ name }}",
        {"id": 1, "colour": "", "name": " "},
        "the template needs 'colour', 'name', which the row leaves empty",
    ),
    "one that is the whole prompt": (" {{ a }} ", {"id": 1, "a": "  "}, "leaves empty"),
    "an empty prompt": ("{{ a or '' }}", {"id": 1, "a": "  "}, "makes an empty prompt"),
    "a key that is missing": (
        BOAT,
        {"colour": "red"},
        "Row 0: it lacks the column 'id', which is the key; it has: colour.",
    ),
    "a key that is empty": ("x", {"id": None}, "its column 'id', which is the key, is empty"),
    "a blank key": ("x", {"id": " "}, "its column 'id', which is the key, is empty"),
    "no row": ("x", 5, "it is of type int, not a mapping of column to value"),
    "no columns": (BOAT, {"id": 1}, "it has: id."),
    "a part that is missing": ("{{ a.b }}", {"id": 1, "a": {}}, "has no attribute 'b'"),
    "an error in an expression": ("{{ 1 / a }}", {"id": 1, "a": 0}, "ZeroDivisionError"),
    "an attribute that leads out": ("{{ a.__class__ }}", {"id": 1, "a": 0}, "is unsafe"),
    "an include": ("{% include 'a' %}", {"id": 1}, "no loader"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_does_not_fit_is_refused_with_the_reason(name: str) -> None:
    template, row, reason = REFUSED[name]
    request = only(template, row, key="id")
    assert reason in request.refused
    assert request.input == {}
    assert request.labels == {"row": 0}
    assert request.origin["row"] == 0


def test_the_other_rows_go_on() -> None:
    rows: list[Any] = [{"colour": "red"}, {}, {"colour": "blue"}]
    made = [each.input or each.refused[:5] for each in fill_template(BOAT, rows)]
    assert made == [{"prompt": "A red boat"}, "Row 1", {"prompt": "A blue boat"}]


def test_a_template_says_what_to_use_where_there_is_nothing() -> None:
    template = "A {{ colour or 'blue' }} {{ thing | default('boat') }}"
    assert only(template, {"colour": None}).input == {"prompt": "A blue boat"}


def test_many_columns_are_not_all_told() -> None:
    row = {f"column_{number}": number for number in range(300)}
    assert only(BOAT, row).refused.endswith("column_19 and 280 more.")


def test_a_value_that_can_not_be_shown_is_its_rows_affair() -> None:
    class Torn:
        def __str__(self) -> str:
            raise OSError("the connection is gone")

    assert "OSError: the connection is gone" in only(BOAT, {"colour": Torn()}).refused


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 12 }}",
        "{{ 10 ** 12 * 'a' }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ range(10 ** 9) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}long{% endfor %}{% endfor %}",
    ],
)
def test_a_template_can_not_fill_the_memory(template: str) -> None:
    began = time.process_time()
    assert only(template, {}).refused
    assert time.process_time() - began < 30, "it would take hours, or all memory"


# --- what is refused at once ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "where"),
    [
        ("A boat\n{{ colour", "'prompt' can not be read: line 2"),
        ("{% if x %}", "line 1"),
        ("{{ a | no_such_filter }}", "no_such_filter"),
        ({"prompt": "x", "more": {"seed": ["{{ a b }}"]}}, "'more.seed[0]' can not be read"),
    ],
)
def test_a_template_that_can_not_be_read_is_refused_at_once(template: Any, where: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        fill_template(template, [])
    assert where in str(refused.value)
    assert "Nothing was sent." in str(refused.value)


@pytest.mark.parametrize("rows", ["text", b"bytes", {"a": "row"}, 5, None], ids=repr)
def test_rows_that_are_none(rows: Any) -> None:
    with pytest.raises(InvalidInput, match="iterable of mappings"):
        fill_template(BOAT, rows)


@pytest.mark.parametrize("template", [5, None, {}, ["x"]], ids=repr)
def test_a_template_that_is_none(template: Any) -> None:
    with pytest.raises(InvalidInput, match="texts are templates"):
        fill_template(template, [])


def test_a_model_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="owner/name"):
        fill_template(BOAT, [], model="flux")


def test_rows_that_break_are_not_hidden() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"colour": "red"}
        raise ConnectionError("the database has gone away")

    made = fill_template(BOAT, rows())
    next(made)
    with pytest.raises(ConnectionError):
        next(made)
