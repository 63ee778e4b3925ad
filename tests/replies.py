"""Replies of the service as they are recorded and as they could be, and what they are read as."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect_cometapi.errors import RequestError
from prefect_cometapi.failures import Call, Reply, raise_for_error
from prefect_cometapi.models import Prediction
from prefect_cometapi.wire import parse_create, parse_query
from tests.servers import MODEL

WIRE = Path(__file__).parent / "data" / "wire"
ROOT, ID = "https://api.example", "q4chw5rey9rmt0cww76t4h3ma4"
SENT = datetime(2026, 3, 12, 11, 27, 17, tzinfo=UTC)
NOW = datetime(2026, 3, 12, 11, 27, 18, tzinfo=UTC)
HTML = b"<!doctype html><html>...</html>"


def reply(status: int, body: object = b"", **headers: str) -> Reply:
    """`_` in a header's name stands for `-`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw, NOW)


def sample(name: str) -> Reply:
    """A recorded reply; see `_provenance` in the file."""
    (path,) = WIRE.glob(f"{name}.*json")
    recorded = json.loads(path.read_text())
    body = recorded["body"]
    raw = body.encode() if isinstance(body, str) else body
    kind = recorded.get("content_type", "application/json")
    return reply(recorded.get("status", 200), raw, Content_Type=kind)


def body_of(name: str) -> Any:
    return sample(name).json


def comet(code: str, message: str = "no") -> dict[str, Any]:
    """An error in the gateway's own words."""
    return {"error": {"code": code, "message": message, "type": "comet_api_error", "param": ""}}


def envelope(inner: object = None, **outer: Any) -> dict[str, Any]:
    return {"code": "success", "message": "", "data": {"task_id": ID, "data": inner, **outer}}


def failure(of: Reply, call: Call) -> RequestError | None:
    try:
        raise_for_error(of, call, "model owner/name")
    except RequestError as error:
        return error
    return None


def create(body: object, status: int = 201, **headers: str) -> Prediction:
    return parse_create(
        reply(status, body, **headers),
        api_root=ROOT,
        model=MODEL,
        input={"prompt": "mine"},
        submitted_at=SENT,
    )


def query(body: object, status: int = 200) -> Prediction | None:
    return parse_query(reply(status, body), api_root=ROOT, prediction_id=ID, model="asked/for")


def read(body: object) -> Prediction:
    prediction = query(body)
    assert prediction is not None
    return prediction
