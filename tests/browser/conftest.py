"""A Prefect server with its user interfaces, and a browser, for the tests in this folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.screens import Screen, chromium, find_chromium, screen
from tests.buckets import s3_service
from tests.postgresql import free_port, launched
from tests.processes import ROOT, python
from tests.stopping import started

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def program() -> str:
    """The browser's program, without which nothing else is started."""
    return find_chromium()


@pytest.fixture(scope="session")
def ui_environment(
    program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment for processes that are to talk to a Prefect server that has its UIs."""
    home = tmp_path_factory.mktemp("prefect-with-ui")
    root = f"http://127.0.0.1:{(port := free_port())}"
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"{root}/api"}
    own = {
        "PREFECT_SERVER_UI_API_URL": f"{root}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PYTHONPATH": str(Path(__file__).parent.parent / "calm_server"),
    }
    server = launched(
        [sys.executable, "-m", "prefect", "server", "start", "--port", port],
        lambda: _serves(root),
        home / "server.log",
        env={**environment, **own},
    )
    try:
        yield environment
    finally:
        server.terminate()
        server.wait(30)


def _serves(root: str) -> bool:
    try:
        return httpx.get(f"{root}/api/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


# Not longer: while it runs, this thread has an event loop, and async tests could not have theirs.
@pytest.fixture(scope="module")
def browser(program: str) -> Iterator[Browser]:
    with chromium(program) as started:
        yield started


@pytest.fixture(params=["classic", "v2"])
def ui(
    request: pytest.FixtureRequest, browser: Browser, ui_environment: dict[str, str], tmp_path: Path
) -> Iterator[Screen]:
    """Each of Prefect's two user interfaces in turn."""
    url = ui_environment["PREFECT_API_URL"].removesuffix("/api")
    with screen(browser, url, request.param, tmp_path) as shown:
        yield shown
        if request.session.testsfailed:  # by what the page shows a failure is understood
            print(f"--- {shown.page.url} shows:\n{shown.text()}")
            print(f"--- as in {shown.keep(f'failed-{request.node.originalname}')}")


#: Saves a bucket as block.
BUCKET = """
import sys
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

there = AwsClientParameters(endpoint_url=sys.argv[1])
key = AwsCredentials(
    aws_access_key_id="testing", aws_secret_access_key="testing", aws_client_parameters=there
)
S3Bucket(bucket_name="pictures", credentials=key).save("pictures")
"""


@pytest.fixture(scope="session")
def bucket(ui_environment: dict[str, str]) -> Iterator[str]:
    """A bucket, as what a form calls it."""
    with s3_service() as service:
        service.client.create_bucket(Bucket="pictures")
        python("-c", BUCKET, service.url, env=ui_environment)
        yield "block://s3-bucket/pictures"


@pytest.fixture(scope="session")
def deployed(
    ui_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The gallery, deployed as `prefect.yaml` says, with a worker that runs it in this folder."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", folder)
    environment = ui_environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"}

    def prefect(*words: str) -> None:
        python("-m", "prefect", "--no-prompt", *words, env=environment, cwd=folder)

    prefect("work-pool", "create", "cometapi", "--type", "process")
    prefect("deploy", "-n", "nightly-gallery/gallery")
    words = ("-m", "prefect", "worker", "start", "--pool", "cometapi")
    log = folder / "worker.log"
    with started(*words, environment=environment, log=log, cwd=folder):
        yield folder
