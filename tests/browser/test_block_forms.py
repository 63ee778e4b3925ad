"""The forms of the blocks explain themselves, and what is saved in them is what Python loads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from prefect_cometapi.urls import DEFAULT_API_ROOT
from tests.browser.screens import Screen
from tests.processes import python, ran
from tests.servers import KEY, MODEL

pytestmark = pytest.mark.slow

#: Saves credentials, and a job that uses them, in a process of their own.
SAVE = """
import sys
from prefect_cometapi import CometAPICredentials, PredictionJob

name, key, model = sys.argv[1:]
CometAPICredentials(api_key=key).save(f"of-{name}")
PredictionJob(credentials=CometAPICredentials.load(f"of-{name}"), model=model).save(name)
"""
#: Loads a block in a process of its own: all of it, with its key.
LOAD = """
import json, sys
from prefect_cometapi import CometAPICredentials, PredictionJob

kind, name = map(json.loads, sys.argv[1:])
block = {each.__name__: each for each in (CometAPICredentials, PredictionJob)}[kind].load(name)
credentials = getattr(block, "credentials", block)
fields = {name: value for name, value in block if name not in ("api_key", "credentials")}
print(json.dumps(fields | {"key": credentials.api_key.get_secret_value()}))
"""


@pytest.fixture(scope="session")
def registered(ui_environment: dict[str, str]) -> dict[str, str]:
    """What a person does before they find the blocks in the UI."""
    python("-m", "prefect", "block", "register", "-m", "prefect_cometapi", env=ui_environment)
    return ui_environment


@pytest.fixture
def form(ui: Screen, registered: dict[str, str]) -> BlockForm:
    return BlockForm(ui, registered)


class BlockForm:
    """The form of a block, in either UI."""

    def __init__(self, ui: Screen, environment: dict[str, str]) -> None:
        self.ui, self.environment = ui, environment
        self.name, self.create, self.credentials = {
            "classic": ("Block Name", "Create", "CometAPICredentials"),
            "v2": ("Name", "Save", "Credentials"),
        }[ui.ui]

    def open(self, slug: str) -> None:
        """From the catalogue to the form for a new block."""
        self.ui.open(f"/blocks/catalog/{slug}/create")
        self.ui.field(self.name).wait_for()
        self.ui.page.wait_for_load_state("networkidle")

    def save(self) -> None:
        self.press(self.create)
        self.ui.sees("Paste this snippet")

    def press(self, button: str) -> None:
        """Press it, and once more where a busy server did not take it, as a person does."""
        self.ui.press(button)
        with suppress(Exception):
            self.ui.page.get_by_text("Something went wrong").first.wait_for(timeout=3000)
            self.ui.press(button)

    def edit(self, name: str) -> None:
        """From the list of blocks to a saved one's form."""
        self.ui.open("/blocks")
        self.ui.follow(name)
        self.ui.sees("Paste this snippet")
        self.ui.menu("Edit")
        self.ui.sees("Save")
        self.ui.page.wait_for_load_state("networkidle")  # what it holds may come late

    def save_in_python(self, name: str) -> None:
        """A job, and credentials for it whose name begins with `of-`."""
        python("-c", SAVE, name, KEY, MODEL, env=self.environment)

    def load(self, kind: str, name: str) -> dict[str, Any]:
        """What Python loads."""
        (found,) = ran(LOAD, kind, name, env=self.environment)
        return dict(found)


def test_credentials_are_saved_and_their_key_is_never_shown_again(form: BlockForm) -> None:
    ui, name = form.ui, f"key-{form.ui.ui}"
    form.open("cometapi-credentials")
    assert ui.fields() == [form.name, "API key", "Base URL", "Allow plain http"]
    ui.sees("From the vendor's dashboard. White space around it is removed.")
    assert ui.value("Base URL") == DEFAULT_API_ROOT
    assert ui.value("Allow plain http") is False
    ui.fill(form.name, name)
    ui.keep("credentials-form")
    ui.fill("API key", f" {KEY} ")
    form.save()
    ui.sees("********")
    ui.keep("credentials-saved")
    assert any('"api_key":"********"' in answer for answer in ui.answers)
    assert ui.never_sent(KEY)
    saved = {"base_url": DEFAULT_API_ROOT, "allow_insecure": False, "key": KEY}
    assert form.load("CometAPICredentials", name) == saved
    # Whoever changes something else does not have the key at hand.
    form.edit(name)
    ui.fill("Base URL", "https://gate.example/comet/v1")
    form.press("Save")
    ui.sees("https://gate.example/comet/v1")
    assert ui.never_sent(KEY)
    changed = {"base_url": "https://gate.example/comet"}
    assert form.load("CometAPICredentials", name) == saved | changed


def test_a_job_is_saved_with_credentials_that_were_saved_before(form: BlockForm) -> None:
    ui, name, other = form.ui, f"boat-{form.ui.ui}", f"other-{form.ui.ui}"
    form.save_in_python(other)
    form.open("cometapi-prediction-job")
    assert ui.fields() == [
        form.name,
        form.credentials,
        "Model",
        "Input",
        "Storage",
        "Folder in the storage",
        "Provenance",
        "Time-out in seconds",
    ]
    assert ui.value("Storage") == "pictures"
    assert ui.value("Time-out in seconds") == "600"
    ui.fill(form.name, name)
    ui.choose(form.credentials, f"of-{other}")
    ui.fill("Model", MODEL)
    ui.fill("Input", '{"prompt": "A paper boat", "seed": 7}')
    ui.fill("Folder in the storage", "boats")
    ui.switch("Provenance")
    ui.fill("Time-out in seconds", 90.5)
    ui.keep("job-form")
    form.save()
    ui.keep("job-saved")
    assert ui.never_sent(KEY)
    assert form.load("PredictionJob", name) == {
        "model": MODEL,
        "input": {"prompt": "A paper boat", "seed": 7},
        "storage": "pictures",
        "prefix": "boats",
        "provenance": True,
        "timeout": 90.5,
        "key": KEY,
    }


def test_a_job_that_was_edited_works_or_says_what_is_wrong(form: BlockForm) -> None:
    ui, name = form.ui, f"edited-{form.ui.ui}"
    form.save_in_python(name)
    form.edit(name)
    ui.fill("Time-out in seconds", -1)
    ui.press("Save")
    if ui.ui == "classic":
        ui.sees("Time-out in seconds must be greater than 0")
    else:  # takes anything, and forgets the credentials
        ui.sees("Paste this snippet")
        with pytest.raises(AssertionError, match=r"timeout\n.*greater than 0") as caught:
            form.load("PredictionJob", name)
        assert "In a block that uses saved credentials, choose them again" in str(caught.value)
        form.edit(name)
        ui.choose(form.credentials, f"of-{name}")
    ui.fill("Time-out in seconds", 90.5)
    form.press("Save")
    ui.sees("Paste this snippet")
    loaded = form.load("PredictionJob", name)
    assert (loaded["model"], loaded["timeout"], loaded["key"]) == (MODEL, 90.5, KEY)
