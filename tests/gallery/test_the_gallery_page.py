"""The gallery's page shows each picture and says how it was made; what is missing, too."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest

from prefect_cometapi.simulator import Simulator
from tests.gallery.galleries import THEME, Page, artifacts_of, galleries, manifest, night
from tests.servers import configure


async def test_every_picture_is_there_with_its_prompt_model_time_and_prediction(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    state = await night(tmp_path, aspect_ratio="16:9")
    (gallery,) = galleries(tmp_path)
    assert await state.aresult() == str(gallery / "index.html")
    moved = gallery.rename(tmp_path / "a gallery of mine")  # links are relative
    page, rows = Page(moved / "index.html"), manifest(moved)
    assert {path.name for path in page.pictures} == {row["file"] for row in rows}
    assert len(page.pictures) == 3
    for path in page.pictures:
        assert path.stat().st_size
    for row in rows:
        shown = (row["input"]["prompt"], row["prediction_id"], f"{row['run_time']:.1f} s")
        assert all(text in page.words for text in (row["model"], *shown))
        assert row["input"]["aspect_ratio"] == "16:9"
        assert row["origin"]["kind"] == "language model"


async def test_nothing_in_a_prompt_or_theme_is_markup(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    theme = """<script>alert("1")</script> & <img src='x'> boats"""
    assert (await night(tmp_path, theme=theme)).is_completed()
    (gallery,) = galleries(tmp_path)
    page = Page(gallery / "index.html")
    assert page.words.count(theme) >= 4  # the title, the heading and the prompts
    assert "script" not in page.tags
    assert len(page.pictures) == 3


async def test_the_artifact_says_where_it_is_and_shows_the_theme_as_text(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    theme = "<img src='x'>\n\n# *boats* `1`"
    state = await night(tmp_path, theme=theme)
    (artifact,) = await artifacts_of(state, "nightly-gallery")
    text = str(artifact.data)
    assert text.startswith("<p>3 of 3 pictures on &lt;img")
    assert "\n" not in text  # a line that is empty would end the block of HTML
    assert "# *boats* `1`" in text
    assert f"<code>{await state.aresult()}</code></p>" in unescape(text)


async def test_the_artifact_can_be_turned_off_and_the_theme_be_left_out(
    cometapi_simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, prompts=False)
    state = await night(tmp_path)
    (artifact,) = await artifacts_of(state, "nightly-gallery")
    assert str(artifact.data).startswith("<p>3 of 3 pictures, tonight")
    assert THEME not in str(artifact.data)
    configure(monkeypatch, artifacts=False)
    state = await night(tmp_path)
    assert state.is_completed()
    assert not await artifacts_of(state, "nightly-gallery")


async def test_one_that_is_refused_is_told_beside_the_rest(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["refused"])
    assert (await night(tmp_path, pictures=4)).is_completed()
    (gallery,) = galleries(tmp_path)
    page = Page(gallery / "index.html")
    assert len(page.pictures) == 3
    assert "3 of 4 pictures" in page.words
    (missing,) = [row for row in manifest(gallery) if row["file"] is None]
    assert missing["input"]["prompt"] in page.words.partition("Not made")[2]
    assert missing["error"] in page.words


async def test_a_run_that_fails_shows_what_there_is(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["ok", "failed", "failed"])
    state = await night(tmp_path)
    assert state.is_failed()
    assert ": 1 saved, 2 failed" in str(state.message)
    (gallery,) = galleries(tmp_path)
    assert len(Page(gallery / "index.html").pictures) == 1


async def test_the_latest_page_leads_to_the_last_gallery(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    for theme in ("Ein Ährenfeld 🌾", "50 % off? #1"):
        assert (await night(tmp_path, theme=theme, pictures=1)).is_completed()
        latest = Page(tmp_path / "gallery" / "latest.html")
        (link,) = latest.links
        assert theme in Page(latest.folder / link).words


async def test_the_manifest_is_plain_json_lines(
    cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    assert (await night(tmp_path)).is_completed()
    (gallery,) = galleries(tmp_path)
    lines = (gallery / "manifest.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line)["number"] for line in lines[:-1]] == [0, 1, 2]
