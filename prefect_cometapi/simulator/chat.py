"""Chat completions in OpenAI's shape: deterministic, and able to write picture prompts."""

import functools
import itertools
import json
import math
import operator
import random
import re
from collections.abc import Mapping
from typing import Any

_MEDIA = (
    "watercolour on rough paper",
    "35 mm photograph",
    "oil on canvas",
    "isometric illustration",
    "ink drawing with a single accent colour",
    "paper collage",
    "gouache poster",
    "wide cinematic still",
    "linocut print",
    "macro photograph",
)
_LIGHTS = (
    "at first light",
    "in soft morning fog",
    "under a clear noon sky",
    "in long evening shadows",
    "by moonlight",
    "in the rain, with reflections",
    "lit from behind",
    "in falling snow",
)
_VIEWS = (
    "seen from above",
    "close up",
    "far away in a wide, empty scene",
    "at eye level",
    "framed by leaves",
    "with much quiet space around it",
)
_NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_MOST = 100


def complete(body: Mapping[str, Any], seed: int, now: float) -> dict[str, Any]:
    """The answer to a chat request.

    Args:
        body: The request: `messages`, perhaps `response_format` and `seed`.
        seed: The simulator's seed. Equal requests get equal answers.
        now: The time for `created`.
    """
    asked = _last_words(body.get("messages") or [])
    source = random.Random(f"{seed}|{body.get('seed')}|{asked}")  # noqa: S311
    writer = _Writer(_subject(asked), _how_many(asked), source)
    words = " ".join(_words(message) for message in body.get("messages") or [])
    named = re.search(r'"(\w+)"\s*:\s*\[', words)
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            text = json.dumps(writer.fill(schema, schema), ensure_ascii=False)
        case form if named or form == {"type": "json_object"}:
            key = named[1] if named else "prompts"
            text = json.dumps({key: writer.prompts(writer.number or 3)}, ensure_ascii=False)
        case _:
            prompts = writer.prompts(writer.number or 1)
            numbered = [f"{n}. {prompt}" for n, prompt in enumerate(prompts, 1)]
            text = "\n".join(numbered if len(prompts) > 1 else prompts)
    used, made = len(asked) // 4 + 8, len(text) // 4 + 1
    message = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{source.getrandbits(96):024x}",
        "object": "chat.completion",
        "created": int(now),
        "model": body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": used,
            "completion_tokens": made,
            "total_tokens": used + made,
        },
    }


def _last_words(messages: list[dict[str, Any]]) -> str:
    return next((_words(m) for m in reversed(messages) if m.get("role") == "user"), "")


def _words(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def _how_many(asked: str) -> int | None:
    """The first number in it that is no aspect ratio or size."""
    words = rf"\b([1-9]\d{{0,2}}|{'|'.join(_NUMBERS)})\b"
    if found := re.search(rf"(?<![:x.]){words}(?!\s*[:x.]\s*\d)", asked.lower()):
        word = found[1]
        return min(int(word) if word.isdecimal() else _NUMBERS.index(word) + 2, _MOST)
    return None


def _subject(asked: str) -> str:
    """What the pictures are to show, in the user's words."""
    for lead in ("(?:topic|subject|theme|brief|idea):", "about", "of", "for"):
        if found := re.search(rf"\b{lead}:?\s+([^.\n{{]+)", asked, re.IGNORECASE):
            return found[1].strip(" \"'")[:200]
    return asked.partition("\n")[0].strip(" .\"'")[:200] or "a paper boat on calm water"


class _Writer:
    """Fills schemas and lists with prompts, never the same one twice while there are others."""

    def __init__(self, subject: str, number: int | None, source: random.Random) -> None:
        self.number = number
        self._source = source
        styles = list(itertools.product(_LIGHTS, _VIEWS, _MEDIA))
        source.shuffle(styles)
        self._prompts = itertools.cycle(", ".join((subject, *style)) for style in styles)

    def prompts(self, number: int) -> list[str]:
        return list(itertools.islice(self._prompts, number))

    def fill(self, schema: dict[str, Any], root: dict[str, Any]) -> Any:
        """A value that satisfies a JSON schema (the part of it that structured output allows)."""
        if "$ref" in schema:
            path = schema["$ref"].split("/")[1:]
            return self.fill(functools.reduce(operator.getitem, path, root), root)
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return self.fill(choices[0], root)
        if choices := [schema["const"]] if "const" in schema else schema.get("enum"):
            return self._source.choice(choices)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind[0] if isinstance(kind, list) else kind:
            case "object":
                parts = schema.get("properties", {})
                return {name: self.fill(part, root) for name, part in parts.items()}
            case "array":
                least, most = schema.get("minItems", 0), schema.get("maxItems", _MOST)
                count = min(max(self.number or 3, least), most)
                return [self.fill(schema.get("items", {}), root) for _ in range(count)]
            case "integer" | "number" as number:
                low = schema.get("minimum", min(schema.get("maximum", 1), 1))
                high = schema.get("maximum", low + 9)
                if number == "number":
                    return self._source.uniform(low, high)
                return self._source.randint(math.ceil(low), math.floor(high))
            case "boolean":
                return self._source.random() < 0.5
            case "null":
                return None
            case _:
                return next(self._prompts)[: schema.get("maxLength")]
