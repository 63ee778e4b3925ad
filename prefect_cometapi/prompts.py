"""Inputs of predictions from a template and rows, and from a product of lists. No I/O.

What comes out is for `run_predictions` and its like, and says of each input where it came from.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, NamedTuple, cast

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prefect_cometapi.batch_models import PredictionRequest
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.redaction import beginning, shortened, without_secrets
from prefect_cometapi.urls import check_model

#: Longest text that a template may make, in characters. A prompt has some hundreds, a `data:` URI
#: that the service takes a quarter of a million.
RENDERED_MOST = 300_000
#: Largest power that a template may compute, in bits: 10 ** 1000 fits, a hang does not.
POWER_BITS = 4_000
#: How many columns of a row a message names, so that it can be read.
COLUMNS_SHOWN = 20
#: How many choices one list may have, so that an endless one is noticed.
CHOICES_MOST = 10_000

#: One expression and nothing else, such as `{{ seed }}`; what it evaluates to keeps its type.
_EXPRESSION = re.compile(r"\{\{[-+]?((?:(?!\{\{|\}\}|\{%|\{#).)+?)[-+]?\}\}", re.DOTALL)
_NOT_ROWS = (str, bytes, Mapping)


class _EmptyValue(Exception):
    """A template uses a value that its row leaves empty."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, which by itself bounds `range` and lets `'a' * 10**9` fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply, where that stays small."""
        if operator == "**":
            small = isinstance(left, int) and isinstance(right, int)
            if small and left.bit_length() * abs(right) > POWER_BITS:
                raise SecurityError("a power in it is too large")
        else:
            for many, times in ((left, right), (right, left)):
                long = isinstance(many, str | bytes | list | tuple) and isinstance(times, int)
                if long and len(many) * times > RENDERED_MOST:
                    raise SecurityError("a repetition in it is too long")
        return super().call_binop(context, operator, left, right)


def _finalize(value: Any) -> Any:
    if _is_empty(value):
        raise _EmptyValue
    return value


class _Blank(str):
    """What a table without NULL, as CSV, has where there is nothing; a text for templates."""

    __slots__ = ()


def _is_empty(value: object) -> bool:
    """True for NULL of a database, and for what pandas and CSV have in its place."""
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType", _Blank.__name__)


_environment = _Sandbox(undefined=StrictUndefined, autoescape=False, finalize=_finalize)

#: Makes a value of a row's columns.
_Maker = Callable[[Mapping[str, Any]], Any]


def fill_template(
    template: str | Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    *,
    key: str | None = None,
    model: str | None = None,
) -> Iterator[PredictionRequest]:
    """Make one input of each row.

    Args:
        template: A Jinja2 template of the prompt, such as `"A {{ colour }} boat"`; or the whole
            input, in which every text is a template: `{"prompt": "…", "seed": "{{ seed }}"}`. A
            text that is one expression and nothing else keeps the type of its value, except in
            `prompt`. Columns whose names are no words are `row["Product name"]`. Templates are
            code of yours: the sandbox keeps them from reaching beyond the row, and bounds
            repetitions, but a loop that prints nothing may take for ever. What rows hold is data,
            and is never read as a template.
        rows: Mappings of column to value (dicts, rows of SQLAlchemy or of sqlite3), read one by
            one as they are needed.
        key: The column whose value becomes the request's `key`, by which a row is known again
            when its prompt has changed.
        model: Another model than the batch's.

    Yields:
        A request for each row, whose `labels` and `origin` say which row it was, counted from 0
        as items of a batch are. A row that lacks a name which the template uses, or its key, or
        leaves it empty (None, NaN, a blank text), or makes an empty prompt, is a request that is
        `refused`, with the reason: a batch counts it as such, and goes on.

    Raises:
        InvalidInput: The template can not be read (at once, with the line), or the rows are no
            iterable of mappings.
    """
    if isinstance(rows, _NOT_ROWS) or not isinstance(rows, Iterable):
        raise InvalidInput(
            f"The rows are a {type(rows).__name__}; they are an iterable of mappings, such as a "
            "list of dicts. Nothing was sent."
        )
    fields = {"prompt": template} if isinstance(template, str) else template
    if not isinstance(fields, Mapping) or not fields:
        raise InvalidInput(
            f"The template is a {type(template).__name__} (or empty); it is a text, or an input "
            "whose texts are "
            "templates. Nothing was sent."
        )
    if model is not None:
        check_model(model)
    made = {str(name): _maker(value, str(name)) for name, value in fields.items()}
    origin = {"kind": "template", **_told(template)}
    return (
        _filled(row, number, made, key, model, {**origin, "row": number})
        for number, row in enumerate(rows)
    )


def combinations(
    input: Mapping[str, Any], /, **choices: Iterable[Any]
) -> Iterator[PredictionRequest]:
    """Make an input of each combination of choices, the last one changing fastest.

    Args:
        input: What all of them share, such as `{"prompt": "A boat"}`.
        choices: For each parameter the values to try, such as `seed=[1, 2]`; they take the place
            of what `input` has. Those of `model` are models.

    Yields:
        A request for each combination, whose `origin` has its choices.

    Raises:
        InvalidInput: There is no choice for a parameter, or a text in place of a list; at once.
    """
    if not isinstance(input, Mapping):
        raise InvalidInput(
            f"The input is a {type(input).__name__}, not an object of parameters such as "
            '{"prompt": "A paper boat"}. Nothing was sent.'
        )
    lists = [_choices(name, values) for name, values in choices.items()]

    def request(chosen: Mapping[str, _Choice]) -> PredictionRequest:
        given = {name: each.value for name, each in chosen.items()}
        model = given.pop("model", None)
        told = {name: each.told for name, each in chosen.items()}
        return PredictionRequest(
            input={**input, **given},
            model=model,
            origin={"kind": "combination", "choices": told},
        )

    return (
        request(dict(zip(choices, chosen, strict=True))) for chosen in itertools.product(*lists)
    )


class _Choice(NamedTuple):
    """A choice as it is given to the model, and as it is told of."""

    value: Any
    told: Any


def _choices(name: str, values: object) -> list[_Choice]:
    if isinstance(values, _NOT_ROWS) or not isinstance(values, Iterable):
        example = "…" if "prompt" in name else f"{values!r:.40}"
        raise InvalidInput(
            f"The choices for {name!r} are a {type(values).__name__}; they are a list, such as "
            f"{name}=[{example}]. Nothing was sent."
        )
    found = list(itertools.islice(values, CHOICES_MOST + 1))
    if not found:
        raise InvalidInput(f"There is no choice for {name!r}: its list is empty. Nothing was sent.")
    if len(found) > CHOICES_MOST:
        raise InvalidInput(
            f"There are more than {CHOICES_MOST:,} choices for {name!r}. Nothing was sent."
        )
    if name == "model":
        for each in found:
            check_model(each)
    return [_Choice(each, shortened(each)) for each in found]


# --- templates --------------------------------------------------------------------------------


def _maker(value: Any, where: str) -> _Maker:
    """What makes an input's value of a row: every text in it is a template."""
    if isinstance(value, Mapping):
        inner = {str(name): _maker(each, f"{where}.{name}") for name, each in value.items()}
        return lambda row: {name: make(row) for name, make in inner.items()}
    if isinstance(value, list | tuple):
        items = [_maker(each, f"{where}[{number}]") for number, each in enumerate(value)]
        return lambda row: [make(row) for make in items]
    if not isinstance(value, str):
        return lambda row: value
    try:
        expression = _EXPRESSION.fullmatch(value.strip())
        if expression and where != "prompt":
            return _Expression(expression[1])
        return _Text(value)
    except TemplateSyntaxError as error:
        why = (error.message or "").rstrip(".")
        raise InvalidInput(
            f"The template of {where!r} can not be read: line {error.lineno}: {why}. "
            "Nothing was sent."
        ) from None


class _Text:
    """A template that makes a text."""

    def __init__(self, source: str) -> None:
        self.names = meta.find_undeclared_variables(_environment.parse(source))
        self._template = _environment.from_string(source)

    def __call__(self, row: Mapping[str, Any]) -> str:
        parts, length = [], 0
        with _explaining(self.names, row):
            for part in self._template.generate(row):
                length += len(part)
                if length > RENDERED_MOST:
                    raise SecurityError(f"it makes more than {RENDERED_MOST:,} characters")
                parts.append(part)
        return "".join(parts)


class _Expression:
    """A template that is one expression, whose value keeps its type."""

    def __init__(self, source: str) -> None:
        self.names = meta.find_undeclared_variables(_environment.parse(f"{{{{{source}}}}}"))
        self._evaluate = _environment.compile_expression(source, undefined_to_none=False)

    def __call__(self, row: Mapping[str, Any]) -> Any:
        with _explaining(self.names, row):
            value = self._evaluate(row)
            if isinstance(value, Undefined):
                str(value)  # raises, with its name
            value = _finalize(value)
            return _plain(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it: databases and tables have numbers of their own."""
    if isinstance(value, bool | int | float | list | dict):
        return value
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == int(value) else float(value)
    if callable(unwrapped := getattr(value, "item", None)):  # of numpy, as in rows of pandas
        inner = unwrapped()
        return inner if isinstance(inner, bool | int | float) else str(value)
    return str(value)


class _Unfilled(Exception):
    """A row does not fill the template; says why."""


@contextmanager
def _explaining(names: set[str], row: Mapping[str, Any]) -> Iterator[None]:
    """Tell what goes wrong while a template is filled, in words about its row."""
    try:
        yield
    except UndefinedError as error:
        named = re.fullmatch(r"'(.+)' is undefined", error.message or "")
        if named and named[1] in names:
            why = f"the template names {named[1]!r}, which the row does not have"
        else:
            why = f"the template can not be filled: {error.message}"
        raise _Unfilled(f"{why}; it has: {_columns(row)}") from None
    except _EmptyValue:
        found = sorted(repr(name) for name in names if _is_empty(row.get(name, 0)))
        raise _Unfilled(
            f"the template needs {', '.join(found) or 'a value'}, which the row leaves empty"
            "; a template can say what to use then: {{ colour or 'blue' }}, or {{ colour or '' }}"
        ) from None
    except Exception as error:  # whatever a filter, or a value in the row, raises
        what = error.message if isinstance(error, TemplateError) else None
        what = what or f"{type(error).__name__}: {error!s:.200}"
        raise _Unfilled(f"the template can not be filled: {what.rstrip('.')}") from None


def _columns(row: Mapping[str, Any]) -> str:
    names = [name for name in row if name != "row"]
    more = f" and {len(names) - COLUMNS_SHOWN} more" if len(names) > COLUMNS_SHOWN else ""
    return (", ".join(names[:COLUMNS_SHOWN]) or "no columns at all") + more


def _filled(
    row: object,
    number: int,
    makers: Mapping[str, _Maker],
    key: str | None,
    model: str | None,
    origin: dict[str, Any],
) -> PredictionRequest:
    """The request that a row makes."""
    known: dict[str, Any] = {"model": model, "labels": {"row": number}, "origin": origin}
    name = f"Row {number}"
    try:
        columns = _as_columns(row)
        if key is not None:
            known["key"] = _key_of(columns, key)
            name += f" ({key} {known['key']!r})"
        columns = {name: _as_blank(value) for name, value in columns.items()}
        names = {"row": columns, **columns}
        input = {field: make(names) for field, make in makers.items()}
        if isinstance(prompt := input.get("prompt"), str):
            input["prompt"] = prompt.strip()
            if not input["prompt"]:
                raise _Unfilled("the template makes an empty prompt of it")
    except _Unfilled as error:
        return PredictionRequest(input={}, refused=f"{name}: {error}.", **known)
    return PredictionRequest(input=input, **known)


def _as_columns(row: object) -> dict[str, Any]:
    row = getattr(row, "_mapping", row)  # SQLAlchemy's rows are tuples with names
    if not isinstance(row, Mapping) and not hasattr(row, "keys"):  # sqlite3's have only that
        raise _Unfilled(f"it is of type {type(row).__name__}, not a mapping of column to value")
    try:
        return {str(name): value for name, value in dict(cast("Any", row)).items()}
    except Exception as error:  # whatever the library that made it raises
        raise _Unfilled(f"it can not be read: {type(error).__name__}: {error!s:.200}") from None


def _as_blank(value: Any) -> Any:
    return _Blank() if isinstance(value, str) and not value.strip() else value


def _key_of(columns: Mapping[str, Any], key: str) -> str:
    if key not in columns:
        raise _Unfilled(
            f"it lacks the column {key!r}, which is the key; it has: {_columns(columns)}"
        )
    value = columns[key]
    if _is_empty(value) or not str(value).strip():
        raise _Unfilled(f"its column {key!r}, which is the key, is empty")
    return str(value)


def _told(template: str | Mapping[str, Any]) -> dict[str, Any]:
    """A template in an origin: whole, or its beginning and its hash."""
    if isinstance(template, str):
        return beginning("template", template)
    kept = without_secrets(template)
    told = beginning("template", json.dumps(kept, default=str))
    return told if len(told) > 1 else {"template": json.loads(told["template"])}
