"""What is to be created once, and what of that can not be right. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefect_cometapi import urls, wire
from prefect_cometapi.errors import InvalidInput

#: What to do about a create whose outcome nobody knows.
OnInDoubt = Literal["raise", "resubmit"]


@dataclass(frozen=True)
class Order:
    """What is to be created once.

    Attributes:
        model: The model, as `owner/name`.
        input: Its parameters.
        sample: Tells equal requests of one scope apart.
        key: The caller's own name for the request, in place of the input.
        scope: What shares predictions; None stands for the root flow run.
        on_in_doubt: What to do about a create whose outcome is unknown.
        credentials: Name of the saved credentials block, for whoever has to cancel it later.
    """

    model: str
    input: Mapping[str, Any]
    sample: int = 0
    key: str | None = None
    scope: str | None = None
    on_in_doubt: OnInDoubt = "raise"
    credentials: str | None = None

    def check(self) -> None:
        """Refuse what can not be right, before anything is sent.

        Raises:
            InvalidInput: Says what.
        """
        check_request(self.model, self.input, self.sample, self.scope, self.key)
        check_choice("on_in_doubt", self.on_in_doubt, ("raise", "resubmit"))


def check_request(
    model: str,
    input: Mapping[str, Any],
    sample: int = 0,
    scope: str | None = None,
    key: str | None = None,
) -> None:
    """Refuse what can not be right, before anything is sent.

    Raises:
        InvalidInput: Says what.
    """
    urls.check_model(model)
    wire.encode_create(input)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise InvalidInput(f"sample is {sample!r}; it counts 0, 1, 2, … Nothing was sent.")
    for name, text, example in (
        ("scope", scope, 'a date as "2026-11-22"'),
        ("key", key, 'a row\'s id as "product-4711"'),
    ):
        if text is not None and not (
            isinstance(text, str) and 0 < len(text.strip()) <= 200 and _is_whole(text)
        ):
            raise InvalidInput(
                f"{name} is {text!r:.80}; it is a text of up to 200 characters, such as {example}. "
                "Nothing was sent."
            )


def _is_whole(text: str) -> bool:
    """False for half a surrogate pair, such as a cut emoji, which nothing can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is none of the choices.

    Raises:
        InvalidInput: Says which there are.
    """
    if value not in choices:
        words = " or ".join(repr(choice) for choice in choices)
        raise InvalidInput(f"{name} is {value!r:.80}; it is {words}. Nothing was sent.")
