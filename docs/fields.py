"""Tells the reference what fields of models and members of enumerations mean.

Models say it in `Field(description=…)`, enumerations in a `#:` comment above; both become the list
of attributes that a docstring would have.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe


class Fields(griffe.Extension):
    """An extension of griffe, which reads the sources for mkdocstrings."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Put what is known of its attributes into its docstring, once."""
        attributes = [
            each
            for each in cls.members.values()
            if isinstance(each, griffe.Attribute)
            and "property" not in each.labels
            and not each.name.startswith("_")
            and each.name != "model_config"
        ]
        if any(str(base).endswith("Enum") for base in cls.bases):
            rows = list(self._of_enumeration(cls, attributes))
        elif any(_call(each) for each in attributes):
            rows = list(self._of_model(attributes))
        else:
            return
        if cls.docstring is None:
            return
        cls.docstring.parsed.append(griffe.DocstringSectionAttributes(rows))
        for row in rows:
            del cls.members[row.name]

    def _of_model(self, attributes: list[griffe.Attribute]) -> Iterator[griffe.DocstringAttribute]:
        for each in attributes:
            said = _call(each)
            description = ast.literal_eval(said["description"]) if "description" in said else ""
            default = said.get("default", None if said else each.value)
            yield griffe.DocstringAttribute(
                each.name, annotation=each.annotation, description=description, value=default
            )

    def _of_enumeration(
        self, cls: griffe.Class, attributes: list[griffe.Attribute]
    ) -> Iterator[griffe.DocstringAttribute]:
        lines = cls.lines_collection[Path(str(cls.filepath))]
        for each in attributes:
            above, comment = (each.lineno or 1) - 2, list[str]()
            while lines[above].strip().startswith("#:"):
                comment.insert(0, lines[above].strip().removeprefix("#:").strip())
                above -= 1
            yield griffe.DocstringAttribute(
                each.name, annotation=each.value, description=" ".join(comment)
            )


def _call(attribute: griffe.Attribute) -> dict[str, Any]:
    """The keywords of a field's `Field(…)`; none where it is no such call."""
    call = attribute.value
    if not isinstance(call, griffe.ExprCall) or str(call.function) != "Field":
        return {}
    return {
        each.name: each.value if each.name == "default" else str(each.value)
        for each in call.arguments
        if isinstance(each, griffe.ExprKeyword)
    }
