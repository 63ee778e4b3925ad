"""Prompts for tests: how they are asked for, and what is left of them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefect_cometapi import (
    CometAPICredentials,
    PredictionRequest,
    agenerate_prompts,
    generate_prompts,
)
from prefect_cometapi.simulator import Simulator
from tests.servers import configure

BRIEF = "Paper boats in odd places"


@dataclass
class Writing:
    """Asks for prompts in one scope, of the simulator."""

    service: Simulator
    credentials: CometAPICredentials
    folder: Path
    scope: str

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        known = {"brief": BRIEF, "n": 6, "scope": self.scope, "storage": self.folder}
        return {**known, **options}

    def write(self, **options: Any) -> list[PredictionRequest]:
        """Have prompts written."""
        made: list[PredictionRequest] = generate_prompts.fn(
            self.credentials, **self._options(options)
        )
        return made

    async def awrite(self, **options: Any) -> list[PredictionRequest]:
        """The same by the async twin."""
        made: list[PredictionRequest] = await agenerate_prompts.fn(
            self.credentials, **self._options(options)
        )
        return made

    @property
    def asked(self) -> int:
        """How many questions the service got."""
        return self.service.counts.chats

    def questions(self) -> list[dict[str, Any]]:
        """What they were."""
        return [each.json for each in self.service.requests if each.operation == "chat"]

    def files(self) -> list[Path]:
        """What is kept."""
        return sorted(self.folder.glob("prompts/*/*"))

    def kept(self) -> dict[str, Any]:
        """The content of the only file."""
        [file] = self.files()
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return content


def prompts_of(requests: list[PredictionRequest]) -> list[str]:
    """The prompts alone."""
    return [each.input["prompt"] for each in requests]


@pytest.fixture
def writing(
    request: pytest.FixtureRequest,
    prefect_server: None,
    cometapi_simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Writing:
    configure(monkeypatch, reconnect_timeout=2, submit_timeout=5, poll_min=0.05, chat_timeout=20)
    scope = f"{request.node.name}-{cometapi_simulator.url}"[-150:]
    credentials = CometAPICredentials.from_env()
    return Writing(cometapi_simulator, credentials, tmp_path / "outputs", scope)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package says to Prefect's own log, outside of runs."""
    caplog.set_level(logging.INFO)
    return caplog


def said(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Its lines."""
    records = [each for each in log.records if "cometapi" in each.name]
    return [each.getMessage() for each in records if each.levelno >= level]
