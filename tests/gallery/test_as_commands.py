"""The two flows as a user starts them: `python flows/….py`, and one clear line where it fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows import nightly_gallery
from prefect_cometapi.simulator import Simulator
from tests.gallery.galleries import Page, galleries, manifest, own
from tests.processes import ROOT, python, with_key


def command(
    name: str, *words: str, env: dict[str, str], cwd: Path, code: int = 0
) -> subprocess.CompletedProcess[str]:
    return python(ROOT / "flows" / name, *words, env=env, cwd=cwd, code=code, seconds=300)


@pytest.mark.slow
def test_a_gallery_without_a_key(prefect_environment: dict[str, str], tmp_path: Path) -> None:
    done = command("nightly_gallery.py", "--pictures", "4", env=prefect_environment, cwd=tmp_path)
    assert done.stdout.startswith("No COMETAPI_KEY is set: the simulator")
    (gallery,) = galleries(tmp_path / "pictures")
    assert f"Your gallery: {gallery / 'index.html'}" in done.stdout
    assert all(path.stat().st_size for path in Page(gallery / "index.html").pictures)
    assert len(manifest(gallery)) == 4


@pytest.mark.slow
def test_variations_without_a_key(prefect_environment: dict[str, str], tmp_path: Path) -> None:
    words = ("A red chair", "--seeds", "3", "--aspect-ratios", "1:1", "--scope", "chair")
    quick = ("--models", "black-forest-labs/flux-schnell")
    done = command("variations.py", *words, *quick, env=prefect_environment, cwd=tmp_path)
    (edited,) = tmp_path.glob("pictures/variations/*/edited/*.png")
    assert f"The best one, edited: {edited}" in done.stdout


@pytest.mark.long
def test_a_second_run_of_the_command_pays_nothing(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    environment = with_key(prefect_environment, cometapi_simulator)
    words = ("Boats", "--pictures", "3", "--edition", own("tonight", tmp_path))
    for _ in range(2):
        command("nightly_gallery.py", *words, env=environment, cwd=tmp_path)
    assert cometapi_simulator.counts.charged == 3
    assert cometapi_simulator.counts.chats == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pictures", "0"), "pictures: Input should be greater than or equal to 1"),
        (("--storage", "a-file/below"), "can not be written to"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(
    words: tuple[str, ...],
    said: str,
    cometapi_simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("")
    monkeypatch.setattr("sys.argv", ["nightly_gallery.py", *words])
    assert nightly_gallery.main() == 1
    assert said in capsys.readouterr().err
    assert not cometapi_simulator.requests
