"""What a language model that is to write prompts is asked, and how its answer is read. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_cometapi.errors import InvalidInput, UnknownOutcome
from prefect_cometapi.failures import Call, Reply, quote, raise_for_error, request_id_of

#: So many prompts are asked for at once: some 4,000 tokens, which every model's answer holds.
AT_ONCE = 50
#: How many answers may bring less than half of what was asked for: what a model does not bring in
#: four, it does not bring. The others make progress, so that there is an end to them, too.
SHORT_MOST = 4
#: How many prompts one call may ask for. Each round tells the model what there is, so that much
#: more would cost more to ask for than to make.
PROMPTS_MOST = 1_000
#: Longest prompt that is taken, in characters: image models read some hundred words.
PROMPT_MOST = 2_000
#: Longest brief, in characters: with it, a request stays far below every model's limit.
BRIEF_MOST = 20_000
#: How many of its prompts a model is told when it is asked for others, and how much of each: the
#: beginning of the last few hundred is enough to think of something else.
TOLD_MOST, TOLD_CHARACTERS = 200, 100
#: So much of an answer is repeated in an error, in characters.
SAID_MOST = 300

_SCHEMA = {
    "type": "object",
    "properties": {"prompts": {"type": "array", "items": {"type": "string"}}},
    "required": ["prompts"],
    "additionalProperties": False,
}
#: Forms to ask for an answer in, the strictest first: where a model refuses one, the next is tried.
FORMS: tuple[Mapping[str, Any] | None, ...] = (
    {
        "type": "json_schema",
        "json_schema": {"name": "prompts", "strict": True, "schema": _SCHEMA},
    },
    {"type": "json_object"},
    None,
)
_INSTRUCTIONS = (
    "You write prompts for a model that makes pictures or other media. Each prompt stands alone, "
    "is concrete, and differs from all others in more than a word. Follow the user's brief. Answer "
    'with JSON only: {"prompts": ["first prompt", "second prompt"]}.'
)


class WrittenPrompt(BaseModel):
    """One prompt that a language model wrote."""

    model_config = ConfigDict(frozen=True)

    prompt: str = Field(min_length=1)
    response_id: str | None = None


@dataclass(frozen=True)
class Answer:
    """One answer of a language model.

    Attributes:
        texts: What it gives as prompts, as it is.
        response_id: The service's id of the answer.
        tokens: What it cost, in tokens, as far as the service says.
        cut: Whether it broke off because it was too long.
        said: What it says, shortened, for people.
    """

    texts: list[str] = field(default_factory=list)
    response_id: str | None = None
    tokens: int = 0
    cut: bool = False
    said: str = ""


class WrittenPrompts(BaseModel):
    """What a language model has written of what was asked for: the content of the file."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    scope: str
    api_root: str
    model: str
    brief: str
    sample: int = 0
    n: int = Field(ge=1, description="How many there are to be.")
    rounds: int = Field(default=0, description="In so many answers.")
    tokens: int = 0
    prompts: list[WrittenPrompt] = []

    @property
    def texts(self) -> list[str]:
        """The prompts alone."""
        return [each.prompt for each in self.prompts]

    @property
    def missing(self) -> int:
        """How many there are still to be written."""
        return self.n - len(self.prompts)

    def with_answer(self, answer: Answer, new: Iterable[str]) -> WrittenPrompts:
        """The same after one more answer, with what of it is new."""
        more = [WrittenPrompt(prompt=each, response_id=answer.response_id) for each in new]
        return self.model_copy(
            update={
                "prompts": [*self.prompts, *more],
                "rounds": self.rounds + 1,
                "tokens": self.tokens + answer.tokens,
            }
        )


def check_brief(brief: object, n: object, model: object) -> None:
    """Refuse what can not be right, before anything is sent.

    Raises:
        InvalidInput: Says what.
    """
    if not isinstance(brief, str) or not brief.strip() or len(brief) > BRIEF_MOST:
        raise InvalidInput(
            f"The brief is {_kind(brief)}; it is a text of up to {BRIEF_MOST:,} characters that "
            "says what the prompts are to be about. Nothing was sent."
        )
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= PROMPTS_MOST:
        raise InvalidInput(
            f"n is {n!r:.80}; it is how many prompts to write, from 1 to {PROMPTS_MOST:,}. For "
            "more of the same brief, count sample=1, 2, … Nothing was sent."
        )
    if not isinstance(model, str) or not re.fullmatch(r"[\w./:@+-]{1,200}", model):
        raise InvalidInput(
            f"{model!r:.80} is not the name of a language model, such as gpt-5-mini. Nothing was "
            "sent."
        )
    try:
        brief.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            "The brief holds half of a character (a cut emoji). Nothing was sent."
        ) from None


def _kind(value: object) -> str:
    """What a value is, without repeating it."""
    return f"{len(value):,} characters" if isinstance(value, str) else f"a {type(value).__name__}"


def file_name(folder: str, asked: WrittenPrompts, input: Mapping[str, Any]) -> str:
    """Where what was written is kept: equal for the same request in the same scope."""
    request = [
        *(asked.scope, asked.api_root, asked.model, asked.brief),
        *(asked.n, input, asked.sample),
    ]
    text = json.dumps(request, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    return f"prompts/{folder}/{hashlib.sha256(text).hexdigest()[:32]}.json"


def encode_question(written: WrittenPrompts, wanted: int, form: Mapping[str, Any] | None) -> bytes:
    """The body of a request for so many prompts, beside those that are there."""
    asked = f"Write exactly {wanted} prompts.\nBrief: {written.brief}"
    if written.sample:
        asked += f"\nThis is set {written.sample + 1} for the same brief: write other ones."
    if written.prompts:
        told = [each[:TOLD_CHARACTERS] for each in written.texts[-TOLD_MOST:]]
        asked += (
            "\nThese are written already (their beginnings). Write others: "
            f"{json.dumps(told, ensure_ascii=False)}"
        )
    body: dict[str, Any] = {
        "model": written.model,
        "messages": [
            {"role": "system", "content": _INSTRUCTIONS},
            {"role": "user", "content": asked},
        ],
    }
    if form is not None:
        body["response_format"] = form
    return json.dumps(body, ensure_ascii=False).encode()


def read_answer(reply: Reply, model: str) -> Answer:
    """What a language model answered.

    Raises:
        RequestError: Classified; `UnknownOutcome` where it is no chat completion.
    """
    raise_for_error(reply, Call.CHAT, f"model {model}")
    body = reply.json
    body = body if isinstance(body, dict) else {}
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    choice = choice if isinstance(choice, dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise UnknownOutcome(
            f"The answer of model {model} is no chat completion (HTTP {reply.status})."
            f"{quote(reply)}",
            status=reply.status,
            request_id=request_id_of(reply),
        )
    finish, text = choice.get("finish_reason"), _text_of(message.get("content"))
    usage, response_id = body.get("usage"), body.get("id")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else 0
    return Answer(
        texts=_listed(text),
        response_id=response_id if isinstance(response_id, str) else None,
        tokens=tokens if isinstance(tokens, int) and tokens >= 0 else 0,
        cut=finish == "length",
        said=_said(text, message, finish),
    )


def add_new(there: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Those texts that are usable as prompts and new, stripped; space and case do not matter."""
    seen, new = {_alike(each) for each in there}, []
    for text in (each.strip() for each in texts):
        if _is_usable(text) and _alike(text) not in seen:
            seen.add(_alike(text))
            new.append(text)
    return new


def read_written(content: bytes, asked: WrittenPrompts) -> WrittenPrompts | None:
    """What a file holds of what was asked for; None where it can not be read, or is another's.

    Args:
        content: The file's.
        asked: The request, with nothing written yet.
    """
    try:
        written = WrittenPrompts.model_validate_json(content)
    except ValidationError:
        return None
    blank = written.model_copy(update={"prompts": [], "rounds": 0, "tokens": 0})
    return written if blank == asked and written.missing >= 0 else None


# --- answers ----------------------------------------------------------------------------------

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def _text_of(content: object) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _listed(text: str) -> list[str]:
    """The texts of the list that an answer holds, wherever in it that is; none without one."""
    for candidate in _candidates(text):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            lists = [each for each in value.values() if isinstance(each, list)]
            value = value.get("prompts") if "prompts" in value else lists[0] if lists else None
        if isinstance(value, list):
            found = (each.get("prompt") if isinstance(each, dict) else each for each in value)
            return [each for each in found if isinstance(each, str)]
    return []


def _candidates(text: str) -> Iterator[str]:
    """What may be JSON: all of it, what stands in fences, and what stands in brackets."""
    yield text
    yield from _FENCE.findall(text)
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            yield text[start : end + 1]


def _alike(text: str) -> str:
    return " ".join(text.split()).casefold()


def _is_usable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair could not be stored
        return False
    return 0 < len(text) <= PROMPT_MOST and "\0" not in text


def _said(text: str, message: Mapping[str, Any], finish: object) -> str:
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip():
        said = f"it refused: {refusal}"
    elif text.strip():
        said = f"it said: {text}"
    elif message.get("tool_calls") or message.get("function_call"):
        said = "it called a tool instead of answering"
    else:
        said = "it said nothing"
    if finish == "length":
        said = f"its answer was cut off as too long; {said}"
    if finish == "content_filter":
        said = f"its answer was stopped by a filter of contents; {said}"
    line = " ".join(said.split())
    return line if len(line) <= SAID_MOST else f"{line[: SAID_MOST - 1]}…"
