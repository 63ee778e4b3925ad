"""A key that is refused, or that the service repeats, is in no message and in no stored exception.

Prefect stores the exceptions of failed runs where results are persisted, and logs their messages.
"""

from __future__ import annotations

import html
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import cloudpickle  # type: ignore[import-untyped]
import pytest
from pydantic import SecretStr, ValidationError

from prefect_cometapi import CometAPICredentials, CometAPISettings, PredictionJob
from prefect_cometapi.errors import CometAPIError
from prefect_cometapi.failures import Reply
from tests.leaks.search import MARK, finds
from tests.servers import BOAT, MODEL, Answer, client_for, serve

KEY = f"sk-{MARK}"
BAD_KEY = f"{KEY} pasted with more"
PLAIN_URL = "http://staging.example"

Make = Callable[[], object]


def credentials(**fields: Any) -> Make:
    return lambda: CometAPICredentials(**{"api_key": SecretStr(KEY), **fields})


def job(credentials: Any, **fields: Any) -> Make:
    return lambda: PredictionJob(credentials=credentials, **{"model": MODEL, **fields})


REFUSED: dict[str, Make] = {
    "a key that can not be one": credentials(api_key=BAD_KEY),
    "the same, as a secret": credentials(api_key=SecretStr(BAD_KEY)),
    "a key in a list": credentials(api_key=[KEY]),
    "a key in the wrong field": credentials(base_url=KEY),
    "a good key, and a base URL without TLS": credentials(api_key=KEY, base_url=PLAIN_URL),
    "the same, as a secret and a base URL": credentials(base_url=PLAIN_URL),
    "a good key, and a flag that is none": credentials(api_key=KEY, allow_insecure="perhaps"),
    "data for the credentials": lambda: CometAPICredentials.model_validate(
        {"api_key": KEY, "base_url": PLAIN_URL}
    ),
    "a job with a key that can not be one": job({"api_key": BAD_KEY}),
    "a job with a base URL without TLS": job({"api_key": KEY, "base_url": PLAIN_URL}),
    "a job with a key for credentials": job(KEY),
    "a job with a bad model": job({"api_key": KEY}, model="no-owner"),
    "a job without a model": lambda: PredictionJob.model_validate(
        {"credentials": {"api_key": KEY}}
    ),
    "a setting that can not be a key": lambda: CometAPISettings(api_key=SecretStr(BAD_KEY)),
    "a setting that is no text": lambda: CometAPISettings(api_key=[KEY]),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused_is_not_kept(how: str) -> None:
    with pytest.raises(ValidationError) as caught:
        REFUSED[how]()
    error = caught.value
    kept = {
        "message": str(error),
        "repr": repr(error),
        "traceback": "".join(traceback.format_exception(error)),
        "errors()": str(error.errors()),
        "json()": error.json(),
        "pickle": pickle.dumps(error),
        "cloudpickle": cloudpickle.dumps(error),
    }
    assert {name: found for name, value in kept.items() if (found := finds(value))} == {}
    # What is left says what is wrong, and can be read back where Prefect has stored it.
    assert all(each["msg"] and each["type"] for each in error.errors())
    assert str(pickle.loads(kept["pickle"])) == str(error)  # noqa: S301


# --- a service that repeats it ----------------------------------------------------------------

ODD_KEY = f"sk-/+&{MARK}"
SPELLED: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON with escaped slashes": lambda key: key.replace("/", "\\/"),
    "JSON in JSON": lambda key: json.dumps(json.dumps(key))[1:-1],
    "URL": lambda key: quote(key, safe=""),
    "HTML": html.escape,
}


def spelled(how: str, key: str) -> bytes:
    return f'{{"error": {{"message": "invalid token: {SPELLED[how](key)}"}}}}'.encode()


@pytest.mark.parametrize("key", [KEY, ODD_KEY], ids=["plain key", "odd key"])
@pytest.mark.parametrize("how", SPELLED)
def test_a_repeated_key_is_taken_out_however_it_is_spelled(how: str, key: str) -> None:
    with serve(lambda _: Answer(401, spelled(how, key))) as api:
        with pytest.raises(CometAPIError) as caught:
            client_for(api.url, key).create_prediction(MODEL, BOAT)
        assert len(api.requests) == 1
    assert "invalid token" in str(caught.value)
    assert finds(str(caught.value)) == {}


def test_a_key_in_the_name_of_a_header_is_taken_out() -> None:
    reply = Reply(401, {f"x-{KEY}": "1", f"x-{KEY.lower()}": "1"}, b"")
    assert finds(repr(reply.without(KEY))) == {}
