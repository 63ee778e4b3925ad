"""Credentials that are sent elsewhere, and a search for the key in what is sent."""

from __future__ import annotations

import base64
import json
from typing import Any

from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, PredictionJob
from tests.servers import BOAT, KEY, MODEL


def made_in_code(**fields: Any) -> CometAPICredentials:
    return CometAPICredentials(**{"api_key": SecretStr(KEY)} | fields)


def job_with(credentials: CometAPICredentials) -> PredictionJob:
    return PredictionJob(credentials=credentials, model=MODEL, input=BOAT)


def key_of(credentials: CometAPICredentials) -> str:
    return credentials.api_key.get_secret_value()


def holds_key(data: object) -> bool:
    """True where the key is in bytes or text, also inside of base64 in JSON."""
    text = data.decode("latin-1") if isinstance(data, bytes) else str(data)
    if KEY in text or KEY.encode().hex() in text:
        return True
    try:
        inner = json.loads(text)["result"]
    except (ValueError, TypeError, KeyError):
        return False
    return holds_key(base64.b64decode(inner))
