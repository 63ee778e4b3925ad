"""What is kept of inputs, and of where they came from, holds no signature, secret or picture."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_cometapi import PredictionRequest
from prefect_cometapi.redaction import (
    MASKED,
    ORIGIN_MOST,
    beginning,
    is_secret,
    shortened,
    without_secrets,
)

# --- values -----------------------------------------------------------------------------------

PNG = b"\x89PNG not really"
VALUES: dict[str, tuple[Any, Any]] = {
    "image": ("https://host/x.png?X-Amz-Signature=secret#y", "https://host/x.png"),
    "image_user": ("https://me:secret@host:8443/x.png", "https://host:8443/x.png"),
    "database": ("postgresql://me:secret@host/db?x=secret", "postgresql://host/db"),
    "prompt": (
        "Like https://host/x.png?sig=secret, but in blue",
        "Like https://host/x.png but in blue",
    ),
    "steps": (4, 4),
    "size": ([1, 2.5, None, True], [1, 2.5, None, True]),
    "pair": ((1, "a"), [1, "a"]),
    "images": (
        [{"image_url": {"url": "https://host/x?sig=secret"}}],
        [{"image_url": {"url": "https://host/x"}}],
    ),
    "headers": ({"Authorization": "Bearer secret"}, {"Authorization": MASKED}),
    "broken": ("half \ud800 of it", "half ? of it"),
    "ratio": ("16:9", "16:9"),
    "data": ("data: the new oil", "data: the new oil"),
    "template": ("A boat as {{ url }}", "A boat as {{ url }}"),
    "of_a_template": (
        "https://host/{{ row['the name'] }}/{% if x %}y{% endif %}?sig=secret&more=secret",
        "https://host/{{ row['the name'] }}/{% if x %}y{% endif %}",
    ),
    "broken_template": (
        "https://host/{{ name ?sig=secret",
        f"https://host/{{{{ name ?sig={MASKED}",
    ),
    "half_a_url": (
        "{{ url }}?w=5&sig=secret&X-Amz-Credential=secret",
        f"{{{{ url }}}}?w=5&sig={MASKED}&X-Amz-Credential={MASKED}",
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_kept_without_what_nobody_may_see(name: str) -> None:
    value, expected = VALUES[name]
    kept = without_secrets({name: value})
    assert kept == {name: expected}
    json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()
    assert without_secrets(kept) == kept, "kept twice it is the same"


URIS = {
    f"data:image/png;base64,{b64encode(PNG).decode()}": ("image/png", PNG),
    "data:image/png,%89PNG%20not%20really": ("image/png", PNG),
    "data:,hello": ("text/plain", b"hello"),
    "DATA:Image/PNG;charset=x;base64,aGVsbG8=": ("image/png", b"hello"),
    "data:image/png;base64,???": ("image/png", b"???"),
}


@pytest.mark.parametrize("uri", URIS)
def test_pictures_are_told_by_type_size_and_hash(uri: str) -> None:
    media_type, content = URIS[uri]
    digest = hashlib.sha256(content).hexdigest()
    told = {"media_type": media_type, "size": len(content), "sha256": digest}
    assert without_secrets({"image": [uri]}) == {"image": [told]}


# --- names ------------------------------------------------------------------------------------

SECRET = """
    api_key API-Key X-Api-Key apiKey APIKey apikey openai_api_key openaiApiKey
    secret_access_key aws_secret_access_key secretAccessKey AWS_ACCESS_KEY_ID
    private_key privateKey ssh_private_key signing_key
    token hf_token hfToken replicate_api_token auth_token session_token authtoken
    secret secrets client_secret password Password db_password passwd passphrase
    authorization Authorization proxy-authorization
    credentials credential cookie connection_string connectionString
""".split()  # noqa: SIM905
PLAIN = """
    prompt max_tokens tokens tokenizer token_string trigger_word key music_key keyboard monkey
    seed time_signature author secretary passport cookie_cutter keyframe public_url
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", SECRET)
@pytest.mark.parametrize("value", ["hush", 1234, 0.5, ["hush"], {"a": "hush"}, ("hush",)], ids=repr)
def test_the_value_of_a_name_that_says_so_is_masked_whatever_it_is(name: str, value: Any) -> None:
    assert without_secrets({name: value}) == {name: MASKED}
    assert without_secrets({"more": [{name: value}]}) == {"more": [{name: MASKED}]}


@pytest.mark.parametrize("value", [None, True, False])
def test_that_there_is_none_is_no_secret(value: Any) -> None:
    assert without_secrets({"api_key": value}) == {"api_key": value}


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_no_secrets(name: str) -> None:
    assert not is_secret(name)
    assert without_secrets({name: "A boat"}) == {name: "A boat"}


# --- texts of any kind ------------------------------------------------------------------------


@given(st.text(alphabet="ab:/?&={}%@ .sigkey\"'", max_size=60))
def test_no_query_of_a_url_is_kept(text: str) -> None:
    kept = shortened(f"https://host/path?sig=SECRET{text}")
    assert "SECRET" not in kept


@pytest.mark.parametrize(
    "part", ["a", "{{", "{% ", "?", "?sig=", "://", "a://", "&key", "https://{{"]
)
def test_a_long_text_takes_no_longer_than_it_must(part: str) -> None:
    began = time.process_time()
    without_secrets({"x": part * (250_000 // len(part))})
    assert time.process_time() - began < 30, "it would take hours"


# --- origins ----------------------------------------------------------------------------------


def test_an_origin_is_never_held_as_it_may_not_be_kept() -> None:
    origin = {"choices": {"image": "https://host/x?sig=secret", "api_key": ["secret"]}}
    request = PredictionRequest(input={"prompt": "x"}, origin=origin)
    kept = {"choices": {"image": "https://host/x", "api_key": MASKED}}
    assert request.origin == kept
    assert PredictionRequest.model_validate(request.model_dump()).origin == kept
    assert "secret" not in repr(request)


def test_a_long_text_is_told_by_its_beginning_and_its_hash() -> None:
    assert beginning("brief", "Boats") == {"brief": "Boats"}
    assert beginning("brief", "x" * ORIGIN_MOST) == {"brief": "x" * ORIGIN_MOST}
    text = "Like https://host/x?sig=secret " + "long " * ORIGIN_MOST
    told = beginning("brief", text)
    assert told["brief_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert told["brief"].startswith("Like https://host/x long long")
    assert len(told["brief"]) == ORIGIN_MOST + 1
