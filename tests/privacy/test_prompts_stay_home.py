"""With the setting `prompts` off, no text of an input reaches Prefect's server: not in logs,
states, artifacts, events, records or assets, not even where the service quotes it. With
`model_logs` off, no line of a model's log does.

Marked prompts go through everything that can go right or wrong, and every byte that was sent to
Prefect's server is searched; with both settings on, the same search finds them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.leaks.everything import process
from tests.leaks.search import PROMPT, finds
from tests.privacy.flows import CASES
from tests.privacy.service import LOG_LINE, Service
from tests.servers import KEY, SETTING, serve

pytestmark = pytest.mark.slow


@dataclass
class Told:
    """What Prefect's server was told."""

    seen: dict[str, str]
    #: Requests and websocket frames, by what they were.
    sent: dict[str, bytes]

    def where(self, mark: str) -> dict[str, dict[str, str]]:
        """Where a mark is, and how it is spelled."""
        found = {place: finds(content, mark) for place, content in self.sent.items()}
        return {place: how for place, how in found.items() if how}

    def holding(self, text: str) -> list[str]:
        return [place for place, content in self.sent.items() if text.encode() in content]


def run(folder: Path, *words: str, **settings: bool) -> Told:
    port = int(str(PREFECT_API_URL.value()).split(":")[2].split("/")[0])
    named = {f"{SETTING}{name.upper()}": str(value) for name, value in settings.items()}
    service = Service()
    with serve(service.answer) as server:
        times = {f"{SETTING}{name}": "0.4" for name in ("RECONNECT_TIMEOUT", "SUBMIT_TIMEOUT")}
        variables = {"COMETAPI_KEY": KEY, "COMETAPI_BASE_URL": server.url, **named, **times}
        variables["RUN_NAME"] = f"a night, {folder.name}"
        module = ["-m", "tests.privacy.flows", *words]
        with process(folder, port, module, **variables) as running:
            assert running.popen.wait(400) == 0, (folder / "stderr").read_text()
    sent = {}
    for number, each in enumerate(running.recorder.sent):
        sent[f"{each.line} ({number})"] = each.head + b"\r\n\r\n" + each.body
    return Told(json.loads((folder / "work/seen.json").read_text()), sent)


def test_what_is_not_to_be_told_is_nowhere(prefect_server: None, tmp_path: Path) -> None:
    told = run(tmp_path / "hidden", prompts=False)
    assert told.where(PROMPT) == {}
    assert not told.holding(LOG_LINE)
    # And it went as wrong as it should.
    assert {name for name, came in told.seen.items() if came in ("COMPLETED", "made")} == {
        *("fine", "flaky", "busy"),
        *("one by one", "a plan", "another prompt", "prompts written"),
    }
    assert {*CASES, "one", "a batch", "again", "step by step", "bad end"} <= {*told.seen}
    # What may be told is.
    for words in ("NSFW content detected", "HTTP 502", "cometapi-summary-", "data:image/webp"):
        assert told.holding(words), words


def test_what_may_be_told_is_found(prefect_server: None, tmp_path: Path) -> None:
    told = run(tmp_path / "shown", "few")
    found = told.where(PROMPT)
    for route in ("artifacts", "logs", "variables", "flow_runs/.+/set_state"):
        assert any(re.match(rf"\w+ /api/{route}", place) for place in found), route
    assert told.holding(LOG_LINE)
    events = [told.sent[place] for place in found if "/events/in" in place]
    assert any(b"cometapi.prediction.created" in event for event in events)


def test_logs_of_models_can_be_left_out_alone(prefect_server: None, tmp_path: Path) -> None:
    told = run(tmp_path / "silent", "few", model_logs=False)
    assert not told.holding(LOG_LINE)
    assert told.where(PROMPT)
