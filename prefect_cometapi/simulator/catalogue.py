"""The models that the simulator knows, what they accept and what kind of output they give."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DATA_URI_LIMIT = 256 * 1024

OutputKind = Literal["urls", "url", "object", "tokens", "text", "number", "data", "null"]
Invalid = dict[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """The rule for one input: a JSON type ("uri" and "uris" for files), choices, limits."""

    type: str = "string"
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """One model: the median of its run time in seconds, its kind of output, its inputs."""

    name: str
    median: float
    output: OutputKind
    fields: Mapping[str, Field] = field(default_factory=dict)
    output_format: str = "webp"

    def files(self, given: Mapping[str, Any]) -> int:
        """How many files a prediction with this input makes."""
        fixed = {"urls": int(given.get("num_outputs", 1)), "url": 1, "object": 2}
        return fixed.get(self.output, 0)


_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_PROMPT = {"prompt": Field(required=True), "seed": Field("integer")}
_QUALITY = Field("integer", minimum=0, maximum=100)
_MODELS = (
    Model(
        "black-forest-labs/flux-schnell",
        1.5,
        "urls",
        {
            **_PROMPT,
            "aspect_ratio": Field(choices=_RATIOS),
            "output_format": Field(choices=("webp", "jpg", "png")),
            "output_quality": _QUALITY,
            "num_outputs": Field("integer", minimum=1, maximum=4),
            "num_inference_steps": Field("integer", minimum=1, maximum=4),
            "disable_safety_checker": Field("boolean"),
        },
    ),
    Model(
        "black-forest-labs/flux-kontext-pro",
        7.0,
        "url",
        {
            **_PROMPT,
            "input_image": Field("uri"),
            "aspect_ratio": Field(choices=("match_input_image", *_RATIOS)),
            "output_format": Field(choices=("jpg", "png")),
            "safety_tolerance": Field("integer", minimum=0, maximum=6),
        },
        output_format="png",
    ),
    Model(
        "black-forest-labs/flux-2-pro",
        12.0,
        "url",
        {
            **_PROMPT,
            "input_images": Field("uris", maximum=8),
            "aspect_ratio": Field(choices=("match_input_image", "custom", *_RATIOS)),
            "resolution": Field(choices=("match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP")),
            "width": Field("integer", minimum=256, maximum=2048),
            "height": Field("integer", minimum=256, maximum=2048),
            "output_format": Field(choices=("webp", "jpg", "png")),
            "output_quality": _QUALITY,
            "safety_tolerance": Field("integer", minimum=1, maximum=5),
        },
    ),
    Model(
        "stability-ai/sdxl",
        5.0,
        "urls",
        {
            **_PROMPT,
            "prompt": Field(),
            "negative_prompt": Field(),
            "image": Field("uri"),
            "width": Field("integer", minimum=256, maximum=2048),
            "height": Field("integer", minimum=256, maximum=2048),
            "num_outputs": Field("integer", minimum=1, maximum=4),
            "num_inference_steps": Field("integer", minimum=1, maximum=500),
            "guidance_scale": Field("number", minimum=1, maximum=50),
        },
        output_format="png",
    ),
    Model("simulator/text-tokens", 0.8, "tokens", _PROMPT),
    Model("simulator/text", 0.8, "text", _PROMPT),
    Model("simulator/object", 1.0, "object", _PROMPT),
    Model("simulator/number", 0.5, "number", _PROMPT),
    Model("simulator/data-uri", 0.5, "data", _PROMPT, output_format="png"),
    Model("simulator/nothing", 0.5, "null", _PROMPT),
    Model("simulator/url", 1.0, "url", _PROMPT),
)
CATALOGUE: Mapping[str, Model] = {model.name: model for model in _MODELS}


def invalid_fields(model: Model, given: Any) -> list[Invalid]:
    """What is wrong with an input, in Replicate's words; nothing if it is right."""
    if not isinstance(given, dict):
        return [_invalid("required", "", "input is required")]
    missing = [n for n, rule in model.fields.items() if rule.required and n not in given]
    found = [_invalid("required", "input", f"{name} is required") for name in missing]
    for name, value in given.items():
        if rule := model.fields.get(name):
            kind = f"input.{name}"
            found += [_invalid(type_, kind, text) for type_, text in _wrong(rule, name, value)]
    return found


def _invalid(type_: str, name: str, description: str) -> Invalid:
    return {"type": type_, "field": name, "description": description}


def _json_type(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object" if value is not None else "null"


def _wrong(rule: Field, name: str, value: Any) -> Iterator[tuple[str, str]]:
    expected = {"uri": "string", "uris": "array"}.get(rule.type, rule.type)
    given = _json_type(value)
    if given != expected and (expected, given) != ("number", "integer"):
        yield "invalid_type", f"Invalid type. Expected: {expected}, given: {given}"
        return
    if rule.choices and value not in rule.choices:
        listed = ", ".join(f'"{choice}"' for choice in rule.choices)
        yield "enum", f"{name} must be one of the following: {listed}"
    measure = len(value) if expected == "array" else value
    if rule.minimum is not None and measure < rule.minimum:
        yield "number_gte", f"Must be greater than or equal to {rule.minimum:g}"
    if rule.maximum is not None and measure > rule.maximum:
        yield "number_lte", f"Must be less than or equal to {rule.maximum:g}"
    if rule.type in ("uri", "uris"):
        for uri in [value] if rule.type == "uri" else value:
            if not str(uri).startswith(("https://", "http://", "data:")):
                yield "format", "Does not match format 'uri'"
            elif len(uri) > DATA_URI_LIMIT and uri.startswith("data:"):
                yield "string_lte", "data URIs must not be larger than 256 kB: give a public URL"
