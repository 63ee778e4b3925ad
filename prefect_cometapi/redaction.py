"""Inputs, and where they came from, as they may be kept: no signature, secret or picture. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from prefect_cometapi.urls import redact

MASKED = "**********"
#: Up to so many characters of a text are kept with each input that was made of it. Ten thousand
#: rows then add a few megabytes.
ORIGIN_MOST = 500

#: RFC 2397, as a whole value.
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((;[\w.+-]+(=[^,;\s]*)?)*),", re.IGNORECASE)
#: Where URLs carry users, passwords, signatures and tokens. In those of templates, what stands in
#: braces may hold anything. Bounded, because texts may be long.
_URL = re.compile(
    r"[a-z][a-z0-9+.-]{0,30}://(?:\{[{%][^{}]{0,300}[%}]\}|[^\s\"'<>])+", re.IGNORECASE
)
#: A parameter of a URL whose beginning is not there, such as `{{ url }}?sig=…`.
_SIGNATURE = re.compile(
    r"(?<=[?&])([\w.-]*(?:sig|signature|token|secret|password|credential|key))=[^\s\"'<>&]+",
    re.IGNORECASE,
)
#: The last words of a name whose value is nobody's business. Some models take keys of other
#: services as inputs. "max_tokens" and "tokenizer" are other words, and "key" alone may be C minor.
_SECRET = re.compile(
    r"(^|_)((api|access|secret|private|signing|encryption|subscription|account|master)_?key(_id)?"
    r"|(api|auth|access|hf)?token|secrets?|password|passwd|pwd|passphrase|authorization"
    r"|credentials?|cookies?|connection_?string)$"
)
#: Before which words of a name begin that are joined without a mark: accessKey, APIKey.
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")


def without_secrets(input: Mapping[str, Any]) -> dict[str, Any]:
    """An input, or an origin, as it may be kept.

    URLs lose user, query and fragment, `data:` URIs become type, size and hash, and the values of
    names that say so are masked, whatever they are.
    """
    return {_whole(str(name)): _kept(str(name), value) for name, value in input.items()}


def beginning(name: str, text: str) -> dict[str, str]:
    """A text for an origin: whole, or its beginning, and the hash of the whole by another name."""
    if len(text) <= ORIGIN_MOST:
        return {name: text}
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return {name: shortened(text), f"{name}_sha256": digest}


def shortened(value: Any) -> Any:
    """A value for an origin: of a long text the beginning, without what nobody may see."""
    kept = _kept("", value)
    long = isinstance(kept, str) and len(kept) > ORIGIN_MOST
    return f"{kept[:ORIGIN_MOST]}…" if long else kept


def is_secret(name: str) -> bool:
    """Whether a name says that its value is a secret."""
    return _SECRET.search(_JOINT.sub("_", name.strip()).lower()) is not None


def _whole(text: str) -> str:
    """Text without halves of characters, which nothing can store."""
    return text.encode("utf-8", "replace").decode()


def _kept(name: str, value: Any) -> Any:
    # That there is none, or whether there is one, is no secret.
    if is_secret(name) and value is not None and not isinstance(value, bool):
        return MASKED
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, list | tuple):
        return [_kept(name, each) for each in value]
    if not isinstance(value, str):
        return value
    if match := _DATA_URI.match(value):
        return _summary(value, match)
    plain = _URL.sub(lambda url: redact(url[0]), value)
    return _whole(_SIGNATURE.sub(rf"\1={MASKED}", plain))


def _summary(uri: str, match: re.Match[str]) -> dict[str, Any]:
    """A `data:` URI as the type, the size and the hash of its content."""
    content = unquote_to_bytes(uri[match.end() :])
    if match[2].lower().endswith(";base64"):
        with suppress(binascii.Error):  # then it is the text that is counted
            content = base64.b64decode(content, validate=True)
    return {
        "media_type": (match[1] or "text/plain").lower(),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
