"""The form that the UI shows for a run: each field explained, choices to choose from, bounds kept.

What the form would not take is refused before anything is spent, from wherever it comes.
"""

from __future__ import annotations

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.many_machines import many_machines, shard
from flows.nightly_gallery import nightly_gallery
from flows.product_images import product_images
from flows.quickstart import quickstart
from flows.table import table
from flows.variations import variations

FLOWS: dict[str, Any] = {
    "gallery": nightly_gallery,
    "machines": many_machines,
    "products": product_images,
    "quickstart": quickstart,
    "shard": shard,
    "table": table,
    "variations": variations,
}
NEEDED: dict[str, dict[str, Any]] = {
    "gallery": {"theme": "Boats"},
    "shard": {"shard": {"of_scope": "boats", "number": 1, "of": 2}},
    "variations": {"prompt": "A boat"},
}


@pytest.mark.parametrize("name", FLOWS)
def test_each_field_is_explained(name: str) -> None:
    schema = parameter_schema(FLOWS[name])
    assert set(schema.required or []) == set(NEEDED.get(name, ()))
    for field, shown in schema.properties.items():
        assert shown["description"], field


@pytest.mark.parametrize(
    ("name", "field", "shown"),
    [
        ("gallery", "theme", {"type": "string", "maxLength": 120}),
        ("gallery", "pictures", {"type": "integer", "minimum": 1, "maximum": 200, "default": 12}),
        ("gallery", "allow_failures", {"type": "number", "minimum": 0, "maximum": 1}),
        ("gallery", "aspect_ratio", {"enum": ["1:1", "3:2", "16:9", "2:3", "9:16"]}),
        ("gallery", "model", {"default": "black-forest-labs/flux-schnell"}),
        (
            "gallery",
            "model",
            {"enum": ["black-forest-labs/flux-schnell", "black-forest-labs/flux-2-pro"]},
        ),
        ("gallery", "time_zone", {"default": "Europe/Berlin"}),
        ("gallery", "simulate", {"type": "boolean"}),
        ("variations", "seeds", {"type": "array", "items": {"type": "integer"}, "minItems": 1}),
        ("variations", "editor", {"enum": ["black-forest-labs/flux-kontext-pro"]}),
        ("quickstart", "samples", {"type": "integer", "minimum": 1, "maximum": 20}),
        ("table", "allow_failures", {"type": "number", "minimum": 0, "maximum": 1}),
        ("products", "edition", {"type": "string", "maxLength": 60, "default": "1"}),
        ("machines", "shards", {"type": "integer", "minimum": 1, "maximum": 1000}),
    ],
)
def test_what_the_form_shows(name: str, field: str, shown: dict[str, Any]) -> None:
    schema = parameter_schema(FLOWS[name])
    found = dict(schema.properties[field])
    for reference in [found.get("$ref"), *(each.get("$ref") for each in found.get("allOf", []))]:
        if reference:  # a drop-down's choices are defined apart
            found = {**schema.definitions[reference.rpartition("/")[2]], **found}
    assert {key: found.get(key) for key in shown} == shown


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("gallery", {"pictures": 0}),
        ("gallery", {"pictures": 201}),
        ("gallery", {"theme": ""}),
        ("gallery", {"theme": "  "}),
        ("gallery", {"theme": "x" * 121}),
        ("gallery", {"edition": " "}),
        ("gallery", {"aspect_ratio": "7:1"}),
        ("gallery", {"model": "nobody/nothing"}),
        ("gallery", {"time_zone": "Mars/Olympus"}),
        ("gallery", {"time_zone": "../../etc/passwd"}),
        ("gallery", {"allow_failures": 1.5}),
        ("variations", {"seeds": []}),
        ("variations", {"models": ["nobody/nothing"]}),
        ("variations", {"aspect_ratios": ["7:1"]}),
        ("variations", {"prompt": ""}),
        ("variations", {"scope": "x" * 151}),
        ("quickstart", {"samples": 21}),
        ("table", {"allow_failures": 2}),
        ("table", {"scope": " "}),
        ("products", {"at_most": 0}),
        ("products", {"edition": ""}),
        ("machines", {"shards": 0}),
        ("shard", {"shard": {"of_scope": "boats", "number": 0, "of": 2}}),
    ],
)
def test_what_is_out_of_bounds_is_refused(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError, match=next(iter(given))):
        FLOWS[name].validate_parameters({**NEEDED.get(name, {}), **given})
