"""The automations of `automations/` are created by the commands of the docs, and fire on a real
server as often as they should, with messages that can be acted upon.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from prefect_cometapi import (
    CometAPICredentials,
    CometAPIError,
    create_prediction,
    generate,
    poll_prediction,
    run_predictions,
)
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT, boats
from tests.processes import ROOT, python, wait_until
from tests.servers import BOAT, Answer, Request, serve
from tests.told import events_of, in_a_flow, mark

DOCS = (ROOT / "docs/events.md").read_text("utf-8")
#: The line that names the run: by its address, where the server has a UI.
RUN = r"Run: +[a-z]+-[a-z]+ (https?://\S+/)?[0-9a-f-]{36}"
FILES = sorted((ROOT / "automations").glob("*.yaml"))


def command(name: str) -> str:
    """A command of the docs, as it stands there."""
    found = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)```", DOCS, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def line_of(body: str, begins: str) -> str:
    """A line of a message."""
    return next(line for line in body.splitlines() if line.startswith(begins))


@dataclass
class OnCall:
    """Who is told."""

    messages: list[dict[str, str]] = field(default_factory=list)

    def take(self, request: Request) -> Answer:
        self.messages.append(json.loads(request.body))
        return Answer(200)

    def of(self, scope: str) -> list[tuple[str, str]]:
        """The messages about a scope, each as its subject and its text."""
        return [
            (each["subject"], each["body"]) for each in self.messages if scope in each["subject"]
        ]

    def told(self, scope: str, count: int = 1) -> list[tuple[str, str]]:
        """The same, when so many have come."""
        wait_until(lambda: len(self.of(scope)) >= count, f"{count} messages about {scope}", 60)
        return self.of(scope)


@pytest.fixture(scope="module")
def on_call(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCall]:
    """Somebody who is told by all of the automations, created as the docs say."""
    from prefect.settings import PREFECT_API_URL

    folder, person = tmp_path_factory.mktemp("automations"), OnCall()
    with serve(person.take) as server, get_client(sync_client=True) as client:
        words = {"subject": "{{subject}}", "body": "{{body}}"}
        block: Any = CustomWebhookNotificationBlock(name="on-call", url=server.url, json_data=words)
        block.save("on-call", overwrite=True)
        (folder / "automations").symlink_to(ROOT / "automations")
        script = command("automations").replace("slack-webhook/", "custom-webhook/")
        # What it is otherwise, nobody waits for here; much less, and a busy server is too late.
        script = script.replace("sed ", "sed -e 's/within: 2400/within: 20/' -e ", 1)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", script + command("pause")],
            cwd=folder,
            env={**os.environ, "PATH": path, "PREFECT_API_URL": PREFECT_API_URL.value() or ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield person
        for file in FILES:
            for automation in yaml.safe_load(file.read_text("utf-8"))["automations"]:
                for each in client.read_automations_by_name(automation["name"]):
                    client.delete_automation(each.id)


@pytest.fixture
def scope(cometapi_simulator: Simulator, request: pytest.FixtureRequest) -> str:
    return f"{request.node.name} of {cometapi_simulator.url.rpartition(':')[2]}"


def batch_of(credentials: CometAPICredentials, folder: Path, scope: str, items: int) -> None:
    with suppress(CometAPIError):
        run_predictions(credentials, TEXT, boats(items), folder, scope=scope)


# --- what is told -----------------------------------------------------------------------------


def test_each_file_is_ready_but_for_the_block() -> None:
    assert len(FILES) == 5
    for file in FILES:
        assert f"`{file.name}`" in DOCS
        assert "ID-OF-YOUR-BLOCK" in file.read_text("utf-8") or "pause" in file.name


@pytest.mark.slow
def test_a_file_without_its_block_is_refused(prefect_environment: dict[str, str]) -> None:
    words = ("-m", "prefect", "automation", "create", "--from-file")
    done = python(*words, ROOT / "automations/in-doubt.yaml", env=prefect_environment, code=1)
    assert "block_document_id" in done.stdout
    assert "valid UUID" in done.stdout


@pytest.mark.slow
def test_several_in_doubt_are_one_message(
    on_call: OnCall,
    scope: str,
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("create", ["lost"] * 3)
    run = in_a_flow(lambda: batch_of(credentials, tmp_path, scope, 40))
    in_a_flow(lambda: batch_of(credentials, tmp_path, scope, 40))  # they still are
    [(subject, body)] = on_call.told(scope)
    assert subject == f"CometAPI: in doubt, scope {scope}"
    assert f"{TEXT}: boat " in body
    assert re.fullmatch(RUN, line_of(body, "Run:"))
    assert re.search(r"^python -m prefect_cometapi ledger show cometapi-\w+$", body, re.MULTILINE)
    assert f"python -m prefect_cometapi ledger list --in-doubt --scope '{scope}'\n" in body + "\n"
    assert len(events_of(run)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("failures", "told"), [(4, 0), (5, 1)])
def test_a_tenth_of_a_batch(
    failures: int,
    told: int,
    on_call: OnCall,
    scope: str,
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", ["failed"] * failures)
    in_a_flow(lambda: batch_of(credentials, tmp_path, scope, 40))
    # What comes after it has been told, so it would have been.
    cometapi_simulator.set_fault("prediction.failed", 1.0)
    in_a_flow(lambda: batch_of(credentials, tmp_path / "later", f"after {scope}", 2))
    on_call.told(f"after {scope}")
    messages = [each for each in on_call.of(scope) if "after" not in each[0]]
    assert len(messages) == told
    for subject, body in messages:
        assert subject == f"CometAPI: 5 of 40 went wrong, scope {scope}"
        assert body.startswith("35 saved, 5 failed.")
        assert re.fullmatch(RUN, line_of(body, "Run:"))
        assert f"python -m prefect_cometapi ledger list --scope '{scope}'" in body


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fate", "words"),
    [("endless", "are not in storage"), ("removed", "has deleted the outputs")],
)
def test_paid_and_not_saved(
    fate: str,
    words: str,
    on_call: OnCall,
    scope: str,
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", [fate] * 2)

    def work() -> None:
        for sample in range(2):
            with pytest.raises(CometAPIError):
                generate(credentials, TEXT, BOAT, tmp_path, scope=scope, sample=sample, timeout=0.5)

    run = in_a_flow(work)
    events_of(run)
    [(subject, body)] = on_call.told(scope)
    assert subject == f"CometAPI: paid, not saved, scope {scope}"
    assert words in body
    assert f"{TEXT}: A paper boat" in body
    ledger = "collect cometapi-.* --storage STORAGE" if fate == "endless" else "resubmit cometapi-"
    assert re.search(f"^python -m prefect_cometapi ledger {ledger}", body, re.MULTILINE)


@pytest.mark.slow
def test_succeeded_and_never_saved(
    on_call: OnCall, scope: str, credentials: CometAPICredentials, tmp_path: Path
) -> None:
    def work() -> None:
        generate(credentials, TEXT, BOAT, tmp_path, scope=scope)
        made = create_prediction(credentials, TEXT, BOAT, scope=scope, sample=1)
        poll_prediction(credentials, made)

    in_a_flow(work)
    [(subject, body)] = on_call.told(scope)
    assert subject == f"CometAPI: succeeded, never saved, scope {scope}"
    assert re.search(r"ledger collect cometapi-\w+ --storage STORAGE", body)


# --- what is done -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("failures", "paused"), [(2, False), (3, True)])
def test_a_deployment_is_paused(
    failures: int,
    paused: bool,
    on_call: OnCall,
    scope: str,
    credentials: CometAPICredentials,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    cometapi_simulator.script("prediction", ["failed"] * failures)

    @flow(name=f"fails {failures} times")
    def nightly() -> None:
        batch_of(credentials, tmp_path, scope, 4)
        mark()

    served: Any = nightly.to_deployment(name="nightly")
    deployment = served.apply()
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run_from_deployment(deployment)
        run_flow(nightly, flow_run=flow_run)
        on_call.told(scope)  # of the share of failures
        if paused:
            wait_until(lambda: client.read_deployment(deployment).paused, "a pause", 60)
        assert client.read_deployment(deployment).paused is paused
