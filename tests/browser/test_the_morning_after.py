"""Somebody who has never seen the project finds, from the UI alone, what went wrong last night.

Which prompts failed and why, what is in doubt, and what it cost; and the pictures of the others,
though the service, and with it all that it delivered, is gone by then.
"""

from __future__ import annotations

from typing import Any

import pytest

from prefect_cometapi import simulator
from tests.browser.screens import Screen
from tests.processes import ran, with_key
from tests.servers import SETTING

pytestmark = pytest.mark.slow

#: A table of which some rows go wrong, and a single picture; what became of each row.
NIGHT = """
import json, sys
from flows.table import MODEL, table
from prefect import flow
from prefect_cometapi import BatchFailed, CometAPICredentials, generate

storage = json.loads(sys.argv[1])
try:
    table.with_options(retries=0)(storage=storage, scope="last night")
except BatchFailed as error:
    for item in error.result.items:
        print(item.model_dump_json())

@flow(flow_run_name="a single boat")
def one():
    generate(CometAPICredentials.from_env(), MODEL, {"prompt": "A paper boat"}, storage)

one()
"""


@pytest.fixture(scope="session")
def bad_night(ui_environment: dict[str, str], bucket: str) -> list[dict[str, Any]]:
    """The items of a batch of which some went wrong, each in a way of its own."""
    prices = {SETTING + "PRICES": '{"black-forest-labs/flux-schnell": 0.003}'}
    with simulator.run() as service:
        service.script("create", ["ok", "ok", "ok", "lost"])
        service.script("prediction", ["ok", "refused", "ok", "ok", "failed"])
        return ran(NIGHT, bucket, env=with_key(ui_environment, service) | prices)


def test_what_went_wrong_why_and_what_it_cost(ui: Screen, bad_night: list[dict[str, Any]]) -> None:
    ui.open("/")
    ui.sees("Runs", exact=True).click()
    ui.open_run("Failed")
    ui.comes("9 saved, 2 failed, 1 in doubt")
    ui.keep("morning-run")
    assert "Traceback" not in ui.text()
    ui.tab("Artifacts")
    ui.open_artifact("cometapi-summary")
    ui.tells("In doubt: decide these first", "What went wrong", "Cost", "0.036", "What to do next")
    ui.keep("morning-summary")
    shown = ui.text()
    wrong = [item for item in bad_night if item["status"] != "saved"]
    assert sorted(item["status"] for item in wrong) == ["failed", "failed", "in doubt"]
    for item in wrong:
        assert item["excerpt"] in shown
        assert item["reason"] in shown


def test_the_pictures_of_the_others(ui: Screen, bad_night: list[dict[str, Any]]) -> None:
    ui.open("/runs")
    ui.open_run("Failed")
    ui.tab("Artifacts")
    ui.open_artifact("cometapi-gallery")
    saved = [item["excerpt"] for item in bad_night if item["status"] == "saved"]
    for prompt in saved:
        ui.sees(prompt)
    assert len(ui.pictures()) == len(saved)
    assert all(ui.pictures())
    ui.keep("morning-gallery")


@pytest.mark.usefixtures("bad_night")
def test_the_picture_of_a_single_prediction(ui: Screen) -> None:
    ui.open("/runs")
    ui.follow("a single boat")
    ui.tab("Artifacts")
    ui.open_artifact("cometapi-prediction")
    ui.page.locator("img[src^='data:']").wait_for()
    ui.keep("single-picture")
    assert len(ui.pictures()) == 1
    assert all(ui.pictures())
