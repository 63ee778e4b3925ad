"""A custom run is started in the form of a deployment, and its page tells the story of the run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser.screens import Screen

pytestmark = pytest.mark.slow


@pytest.fixture
def form(ui: Screen, deployed: Path) -> Screen:
    """From the list of deployments to the form for a custom run."""
    ui.open("/deployments")
    ui.follow("gallery")
    ui.press("Run")
    ui.sees("Custom run").click()
    ui.field("simulate").wait_for()
    return ui


def test_the_form_explains_itself_and_refuses_what_can_not_work(form: Screen) -> None:
    assert [title for title in form.fields() if title == title.lower()] == [
        "theme",
        "pictures",
        "aspect_ratio",
        "model",
        "language_model",
        "storage",
        "edition",
        "time_zone",
        "allow_failures",
        "limit",
        "retry_failed",
        "simulate",
    ]
    form.sees("How many of them. Each costs what the model costs.")
    assert form.value("theme") == "Harbours at dawn"
    assert form.value("pictures") == "12"
    assert form.value("simulate") is True
    form.fill("pictures", 201)
    form.press("Submit")
    if form.ui == "classic":
        form.sees("201 is greater than the maximum of 200")
    else:  # the browser says it, not the page
        assert "200" in form.complaint("pictures")
    assert form.value("aspect_ratio") == "3:2"
    assert form.choices("aspect_ratio") == ["1:1", "3:2", "16:9", "2:3", "9:16"]


def test_a_run_tells_its_story(form: Screen, bucket: str) -> None:
    theme = {"classic": "Harbours at dusk", "v2": "Lighthouses in fog"}[form.ui]
    form.fill("theme", theme)
    form.fill("pictures", 2)
    form.choose("aspect_ratio", "16:9")
    form.fill("storage", bucket)
    form.keep("run-form")
    name = form.value("Run Name")
    form.press("Submit")
    named = re.compile(f"{re.escape(name)}|{re.escape(theme)}, ")  # its name, from when it runs
    link = form.page.locator("a[href*='/runs/flow-run/']").filter(has_text=named, visible=True)
    link.first.click()
    form.sees(f"{theme}, ")
    form.sees("Completed", exact=True)
    form.comes("2 of 2 pictures")
    form.keep("run")
    form.tells(
        "Beginning flow run",
        "gpt-5-mini wrote 2 prompts",
        "A batch of 2 items of black-forest-labs/flux-schnell",
        "2 saved, of 2 items",
        "2 of 2 pictures",
    )
    assert not re.search("WARNING|ERROR|Traceback", form.text())
    form.tab("Task Runs")
    form.sees("prompts gpt-5-mini")
    form.sees("run black-forest-labs/flux-schnell")
    form.tab("Parameters")
    form.sees('"16:9"')
    form.tab("Artifacts")
    form.open_artifact("nightly-gallery")
    form.sees(f"2 of 2 pictures on {theme}")
    form.keep("run-artifact")
