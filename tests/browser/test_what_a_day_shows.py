"""Every other artifact that there is: a plan, progress, a gallery of one's own, those of flows."""

from __future__ import annotations

import pytest

from prefect_cometapi import simulator
from tests.browser.screens import Screen
from tests.processes import ROOT, python, ran, with_key

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("day")]

#: A dry run, a batch that takes long enough for a bar, and three single ones shown together.
DAY = """
import json, sys
from prefect import flow
from prefect_cometapi import (
    CometAPICredentials, create_gallery_artifact, generate, run_predictions
)

storage = json.loads(sys.argv[1])
model = "black-forest-labs/flux-schnell"
kettles = [{"prompt": f"Kettle {number}"} for number in range(4)]

@flow(flow_run_name="a day's work")
def day():
    credentials = CometAPICredentials.from_env()
    run_predictions(credentials, model, kettles, storage, dry_run=True)
    run_predictions(credentials, model, kettles, storage)
    made = [generate.submit(credentials, "simulator/url", {"prompt": "A boat"}, storage, sample=n)
            for n in range(3)]
    made = [each.result() for each in made]
    create_gallery_artifact(made, storage, key="boats", title="Three <b>paper</b> boats")

day()
"""


@pytest.fixture(scope="module")
def day(ui_environment: dict[str, str], bucket: str) -> None:
    """What such a day has left; the service is gone by then."""
    with simulator.run(run_time=6.0) as slow:
        ran(DAY, bucket, env=with_key(ui_environment, slow))
    one_model = ("--models", "black-forest-labs/flux-schnell", "--aspect-ratios", "1:1")
    words = ("A lighthouse", *one_model, "--storage", bucket)
    with simulator.run() as service:
        script = str(ROOT / "flows" / "variations.py")
        python(script, *words, env=with_key(ui_environment, service))


def open_artifact(ui: Screen, run: str, key: str) -> None:
    ui.open("/runs")
    ui.follow(run)
    ui.tab("Artifacts")
    ui.open_artifact(key)


def test_a_plan(ui: Screen) -> None:
    open_artifact(ui, "a day's work", "cometapi-plan")
    ui.tells("A dry run", "4 would be sent", "Cost")
    ui.keep("plan")


def test_how_far_a_batch_is(ui: Screen) -> None:
    open_artifact(ui, "a day's work", "cometapi-progress")
    ui.sees("4 of 4 items have ended")
    ui.sees("100%")
    ui.keep("progress")


def test_a_gallery_of_ones_own(ui: Screen) -> None:
    open_artifact(ui, "a day's work", "boats")
    ui.sees("Three <b>paper</b> boats")
    ui.page.locator("img[src^='data:']").first.wait_for()
    assert len(ui.pictures()) == 3
    assert all(ui.pictures())
    ui.keep("own-gallery")


def test_the_table_of_variations(ui: Screen) -> None:
    ui.open("/artifacts")
    ui.page.get_by_text("variations", exact=True).first.click()
    ui.page.locator("a[href*='/artifacts/artifact/']").first.click()
    ui.sees("aspect_ratio")
    ui.sees("1:1")
    ui.keep("variations")
