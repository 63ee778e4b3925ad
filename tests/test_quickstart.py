"""The main job: one command from a file of prompts to pictures, or to one clear line of error."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from flows import quickstart as module
from prefect_cometapi.simulator import Simulator
from tests.processes import ROOT, python, wait_until, with_key

SCRIPT = ROOT / "flows" / "quickstart.py"


@dataclass
class Ended:
    """How the command has ended, and what it has said."""

    returncode: int
    stdout: str
    stderr: str


#: The command in this process: with its arguments, and what else the environment has.
Quickstart = Callable[..., Ended]


@pytest.fixture
def quickstart(
    prefect_server: None,
    cometapi_simulator: Simulator,  # which sets the key and the address
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Quickstart:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # What Prefect logs goes to the stream that there was when it was set up.
        code = module.main(list(arguments))
        return Ended(code, *capsys.readouterr())

    return run


def manifest(folder: Path) -> list[dict[str, object]]:
    (path,) = folder.glob("*/*/manifest.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_without_a_key_it_says_so_and_draws_two_of_each_prompt(
    prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    done = python(SCRIPT, env=prefect_environment, cwd=tmp_path, seconds=300)
    first = done.stdout.splitlines()[0]
    assert first == (
        "No COMETAPI_KEY is set: the simulator draws stand-ins for the pictures, for free."
    )
    assert "/runs/flow-run/" in done.stdout
    rows = manifest(tmp_path / "pictures")
    assert len(rows) == 16
    assert len({row["prompt"] for row in rows}) == 8
    assert len({row["sha256"] for row in rows}) == 16
    for row in rows:
        content = Path(str(row["file"])).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert len(content) == row["bytes"]
        assert Image.open(str(row["file"])).get_format_mimetype() == row["type"]
        assert row["model"] == "black-forest-labs/flux-schnell"
        assert row["run_time"]
        assert str(row["created"]) < str(row["completed"])
    # Nobody is left behind: no half files, and everything in the manifest.
    folder = Path(str(rows[0]["file"])).parent
    assert len(list(folder.iterdir())) == 17


def test_with_a_key_it_uses_the_service(
    quickstart: Quickstart, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    prompts = tmp_path / "mine.txt"
    prompts.write_text('# mine\n\n  Ein Ährenfeld 🌾\n{"prompt": "B", "output_format": "png"}\n')
    done = quickstart("--prompts", str(prompts), "--samples", "1", "--storage", "out")
    assert done.returncode == 0, done.stderr
    assert "simulator" not in done.stdout
    rows = manifest(tmp_path / "out")
    assert {(row["prompt"], row["type"]) for row in rows} == {
        ("Ein Ährenfeld 🌾", "image/webp"),
        ("B", "image/png"),
    }
    assert cometapi_simulator.counts.charged == 2


def test_what_fails_does_not_stop_the_rest_and_is_told(
    quickstart: Quickstart, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("prediction", ["failed"])
    prompts = tmp_path / "mine.txt"
    prompts.write_text("A\nB\nC\n")
    done = quickstart("--prompts", str(prompts), "--samples", "1")
    assert done.returncode == 1
    assert "1 of 3 pictures were not made." in done.stderr
    assert len(manifest(tmp_path / "pictures")) == 2


def test_a_picture_that_is_tried_again_is_not_paid_for_again(
    quickstart: Quickstart,
    cometapi_simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "picture", module.picture.with_options(retry_delay_seconds=0))
    prompts = tmp_path / "mine.txt"
    prompts.write_text("A\nB\n")
    cometapi_simulator.script("prediction", ["ok", "failed"])
    cometapi_simulator.script("file", ["500"] * 4)
    arguments = ("--prompts", str(prompts), "--samples", "1")
    done = quickstart(*arguments, PREFECT_INTEGRATIONS_COMETAPI_DOWNLOAD_TIMEOUT="0.5")
    assert "1 of 2 pictures were not made." in done.stderr
    assert len(manifest(tmp_path / "pictures")) == 1
    assert cometapi_simulator.counts.charged == 2  # nor is the one that has failed


def test_it_goes_on_with_an_earlier_run_of_the_same_scope(
    quickstart: Quickstart, cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    prompts = tmp_path / "mine.txt"
    prompts.write_text("A\nA\n")  # equal lines are pictures of their own
    for run in ("first", "second"):
        done = quickstart("--prompts", str(prompts), "--storage", run, "--scope", "tonight")
        assert done.returncode == 0, done.stderr
        assert f"Making 4 pictures at {cometapi_simulator.url}: this costs money." in done.stdout
    first, second = (
        {str(row["prediction_id"]) for row in manifest(tmp_path / run)}
        for run in ("first", "second")
    )
    assert len(first) == 4
    assert first == second
    assert cometapi_simulator.counts.charged == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "server", ["Prefect's temporary server", pytest.param("a server", marks=pytest.mark.long)]
)
@pytest.mark.cometapi_simulator(run_time=3.0)
def test_ctrl_c_says_how_to_go_on_without_paying_again(
    server: str, prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    prompts = tmp_path / "mine.txt"
    prompts.write_text("A\nB\n")
    options = ("--prompts", str(prompts), "--samples", "1")
    environment = with_key(prefect_environment, cometapi_simulator)
    if server != "a server":
        del environment["PREFECT_API_URL"]
        environment["PREFECT_HOME"] = str(tmp_path / "home")
    cometapi_simulator.script("prediction", ["ok", "endless"])
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "flows" / "quickstart.py"), *options],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        # Also where whoever runs the tests ignores Ctrl-C, as background jobs of a shell do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        start_new_session=True,
    )
    wait_until(lambda: list((tmp_path / "pictures").rglob("*.webp")), "saving")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, which tells all processes
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    statuses = [each.status for each in cometapi_simulator.predictions.values()]
    assert sorted(statuses) == ["canceled", "succeeded"]
    command = shlex.split(said.rpartition("To go on without paying twice")[2].partition(":")[2])
    assert command[0] == sys.executable
    done = python(*command[1:], env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(manifest(tmp_path / "pictures")) == 2
    # The one that was done is not paid for again; the one that was canceled is made again.
    assert cometapi_simulator.counts.charged == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scope", ""], "scope is ''"),
        (["--model", "flux"], "'flux' is not a model id"),
        (["--model", "../x/y"], "is not a model id"),
        (["--prompts", "nowhere.txt"], "nowhere.txt can not be read: No such file"),
        (["--prompts", "empty.txt"], "There is no prompt in empty.txt"),
        (["--prompts", "binary.txt"], "not UTF-8"),
        (["--prompts", "broken.txt"], "broken.txt, line 3: it is not valid JSON"),
        (["--prompts", "nan.txt"], "nan.txt, line 2:"),
        (["--prompts", "bare.txt"], 'bare.txt, line 1: a JSON line needs a "prompt"'),
        (["--storage", "empty.txt/below"], "can not be written to"),
        (["--storage", "s3://bucket/x"], "is a URL"),
        (["--samples", "0"], "from 1 to 20"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_sent(
    arguments: list[str],
    words: str,
    quickstart: Quickstart,
    cometapi_simulator: Simulator,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "broken.txt").write_text('A\n\n{"prompt": "B"\n')
    (tmp_path / "nan.txt").write_text('A\n{"prompt": "B", "seed": NaN}\n')
    (tmp_path / "bare.txt").write_text('{"seed": 1}\n')
    done = quickstart(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert not cometapi_simulator.requests


@pytest.mark.parametrize(
    ("key", "base_url", "words"),
    [
        ("sk-\nsplit", None, "line break"),
        ("sk-x", "http://api.cometapi.com", "unencrypted"),
        ("sk-x", "ftp://api.cometapi.com", "not an http(s) URL"),
    ],
)
def test_a_bad_key_or_base_url_is_one_line_too(
    key: str, base_url: str | None, words: str, quickstart: Quickstart
) -> None:
    done = quickstart(COMETAPI_KEY=key, COMETAPI_BASE_URL=base_url or "")
    assert done.returncode == 2
    assert words in done.stderr
    assert key not in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_wrong_key_is_found_out_for_free(
    prefect_environment: dict[str, str], cometapi_simulator: Simulator, tmp_path: Path
) -> None:
    cometapi_simulator.script("query", ["401"])
    environment = with_key(prefect_environment, cometapi_simulator)
    done = python(SCRIPT, env=environment, cwd=tmp_path, code=1)
    assert "The API key is missing or wrong" in done.stderr
    assert "Traceback" not in done.stderr
    assert cometapi_simulator.counts.creates == 0


def test_help_says_what_it_costs(tmp_path: Path) -> None:
    assert "costs money" in python(SCRIPT, "--help", cwd=tmp_path).stdout
