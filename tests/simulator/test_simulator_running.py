"""The simulator as a program, as a thread and as a fixture; what it remembers."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from prefect_cometapi import simulator
from tests.processes import ROOT, python

MODEL = "/replicate/v1/models/black-forest-labs/flux-schnell/predictions"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, "-m", "prefect_cometapi.simulator"]


def test_importing_costs_nearly_nothing() -> None:
    code = """if True:
        import sys
        import prefect_cometapi.simulator
        import prefect_cometapi.simulator.pytest_plugin
        heavy = {"prefect", "fastapi", "starlette", "uvicorn", "PIL", "httpx"} & set(sys.modules)
        assert not heavy, heavy
        from prefect_cometapi.simulator import FAULTS, run
        assert "uvicorn" in sys.modules and callable(run) and FAULTS
        assert not {"prefect", "replicate", "httpx"} & set(sys.modules)
    """
    python("-c", code, env=ENVIRONMENT)
    with pytest.raises(AttributeError, match="nothing"):
        _ = simulator.nothing


def test_without_pillow_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['PIL'] = None; from prefect_cometapi.simulator import run"
    done = python("-c", code, env=ENVIRONMENT, code=None)
    assert 'pip install "prefect-cometapi[images]"' in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program(number: signal.Signals) -> None:
    options = "--port 0 --api-key sim-7 --run-time 0 --fault create.lost@2 --fault query.502=1"
    process = subprocess.Popen(
        [*COMMAND, *options.split()], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"COMETAPI_BASE_URL=(\S+) COMETAPI_KEY=sim-7$", line)
        assert found, line
        headers = {"Authorization": "Bearer sim-7"}
        with httpx.Client(base_url=found[1], headers=headers) as client:
            key = client.post(MODEL, json={"input": {"prompt": "x"}}).json()["id"]
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(MODEL, json={"input": {"prompt": "x"}})
            assert client.get(f"/replicate/v1/predictions/{key}").status_code == 502
            assert client.get("/").json()["charged"] == 2
        process.send_signal(number)
        rest, _ = process.communicate(timeout=5)
    assert rest == "2 creates, 2 charged, 1 polls, 2 connections\n"
    assert process.returncode == 0


def test_the_programs_help() -> None:
    def say(*words: str) -> subprocess.CompletedProcess[str]:
        return python("-m", "prefect_cometapi.simulator", *words, env=ENVIRONMENT, code=None)

    table = say("--list-faults").stdout.splitlines()
    assert len(table) == len(simulator.FAULTS)
    assert any(line.startswith("create.lost ") for line in table)
    wrong = say("--fault", "create.lots=1")
    assert wrong.returncode == 2
    assert "Near it: create.lost" in wrong.stderr


FLOW_TESTS = """
import os
import urllib.request
import pytest

def test_environment(cometapi_simulator):
    assert os.environ["COMETAPI_BASE_URL"] == cometapi_simulator.url
    assert os.environ["COMETAPI_KEY"] == cometapi_simulator.api_key
    urllib.request.urlopen(cometapi_simulator.url).close()
    assert cometapi_simulator.counts.connections == 1

@pytest.mark.cometapi_simulator(faults={"create.lost": 0.5}, api_key="sim-9")
def test_marker(cometapi_simulator):
    assert cometapi_simulator.faults == {"create.lost": 0.5}
    assert cometapi_simulator.counts.connections == 0, "a fresh one"
    assert os.environ["COMETAPI_KEY"] == "sim-9"

def test_afterwards():
    assert "COMETAPI_KEY" not in os.environ
"""


def test_the_fixture(tmp_path: Path) -> None:
    plugin = "prefect_cometapi.simulator.pytest_plugin"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert plugin in project["entry-points"]["pytest11"].values()
    (tmp_path / "test_flows.py").write_text(FLOW_TESTS)
    # By name, and not by the entry point, so that it is this one even if another is installed.
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("COMETAPI_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    words = ("-m", "pytest", "-q", "-p", plugin, "--strict-markers")
    done = python(*words, env=environment, cwd=tmp_path)
    assert "3 passed" in done.stdout


def test_it_stops_at_once_even_while_requests_hang() -> None:
    with simulator.run() as service:
        service.script("create", ["hang"] * 5)
        pool = ThreadPoolExecutor(5)
        body, headers = {"input": {"prompt": "x"}}, {"Authorization": "Bearer key"}
        url = f"{service.url}{MODEL}"
        waiting = [pool.submit(httpx.post, url, json=body, headers=headers) for _ in range(5)]
        deadline = time.monotonic() + 5
        while service.counts.accepted < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    for each in waiting:
        assert isinstance(each.exception(5), httpx.TransportError)
    pool.shutdown()
    assert "cometapi-simulator" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", httpx.URL(service.url).port or 0))


def test_what_it_remembers() -> None:
    with simulator.run(run_time=0.0) as service:
        headers = {"Authorization": "Bearer key", "X-Mine": "Yes"}
        with httpx.Client(base_url=service.url, headers=headers) as client:
            key = client.post(MODEL, json={"input": {"prompt": "x"}}).json()["id"]
            client.post(MODEL, json={"input": {}})
            time.sleep(0.01)
            client.get(f"/replicate/v1/predictions/{key}")
            client.get("/wrong")
        httpx.get(f"{service.url}/files/{key}/out-0.webp")
        counts = service.counts
        assert (counts.creates, counts.accepted, counts.charged) == (2, 1, 1)
        assert (counts.polls, counts.downloads, counts.connections) == (1, 1, 2)
        assert counts.by_status == {201: 1, 422: 1, 200: 3}
        first, *_, last = service.requests
        assert (first.operation, first.method, first.path) == ("create", "POST", MODEL)
        assert (first.json, first.status, first.fault) == ({"input": {"prompt": "x"}}, 201, None)
        assert first.headers["x-mine"] == "Yes"
        assert last.time > first.time
        assert [each.operation for each in service.requests][-2:] == ["lost", "file"]
        assert "authorization" not in service.headers_of("file")[0]
        seen = service.predictions[key]
        assert seen.model == "black-forest-labs/flux-schnell"
        assert (seen.input, seen.status) == ({"prompt": "x"}, "succeeded")


def test_replies_come_at_once() -> None:
    """Without TCP_NODELAY even the quickest of them would take 40 ms."""
    with simulator.run() as service, httpx.Client(base_url=service.url) as client:
        took = [client.get("/").elapsed.total_seconds() for _ in range(20)]
    assert min(took[1:]) < 0.03


def test_speed_scales_time() -> None:
    with simulator.run(speed=1e5, output_ttl=3600) as service:
        reply = httpx.post(
            f"{service.url}{MODEL}",
            json={"input": {"prompt": "x"}},
            headers={"Authorization": "Bearer key"},
        )
        time.sleep(0.1)
        value = httpx.get(
            f"{service.url}/replicate/v1/predictions/{reply.json()['id']}",
            headers={"Authorization": "Bearer key"},
        ).json()
        assert (value["status"], value["data_removed"]) == ("succeeded", True)


def test_many_threads_at_once() -> None:
    """Counts are exact, and each prediction is made once, however many ask."""
    with (
        simulator.run(run_time=0.0, faults={"query.502": 0.1}) as service,
        ThreadPoolExecutor(8) as pool,
    ):
        headers = {"Authorization": "Bearer key"}
        with httpx.Client(base_url=service.url, headers=headers) as client:
            body = {"input": {"prompt": "x"}}
            replies = list(pool.map(lambda _: client.post(MODEL, json=body), range(100)))
            keys = {reply.json()["id"] for reply in replies}
            paths = [f"/replicate/v1/predictions/{key}" for key in keys]
            statuses = [reply.status_code for reply in pool.map(client.get, paths * 3)]
        assert len(keys) == service.counts.charged == 100
        assert service.counts.polls == len(service.requests) - 100 == 300
        assert statuses.count(502) == service.counts.by_status[502]
        assert 10 < statuses.count(502) < 60
