"""A worker that does not see the deployer's folder clones the flows, and works in a bucket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from prefect_cometapi import checkout
from prefect_cometapi.errors import ConfigurationError
from tests.deployments.conftest import Project
from tests.processes import python


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of a stand-in for S3 that has the bucket `team`."""
    getLogger("werkzeug").setLevel(WARNING)  # a line a request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client(url).create_bucket(Bucket="team")
    yield url
    server.stop()


def client(url: str) -> Any:
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


def names(url: str, prefix: str) -> list[str]:
    found = client(url).list_objects_v2(Bucket="team", Prefix=prefix).get("Contents", [])
    return [each["Key"] for each in found]


def repository(folder: Path, bare: Path) -> str:
    """A repository with what is in the folder; returns its URL."""
    named = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    for words in (
        ("init", "--quiet", "--initial-branch", "main"),
        ("add", "."),
        (*named, "commit", "--quiet", "-m", "The flows"),
        ("clone", "--quiet", "--bare", ".", str(bare)),
    ):
        subprocess.run(["git", *words], cwd=folder, check=True, timeout=60)  # noqa: S607
    return f"file://{bare}"


SAVE_BLOCKS = """
import sys
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket
keys = AwsCredentials(
    aws_access_key_id="id", aws_secret_access_key="secret", region_name="us-east-1",
    aws_client_parameters=AwsClientParameters(endpoint_url=sys.argv[1]),
)
for name in ("pictures", "records"):
    S3Bucket(bucket_name="team", bucket_folder=name, credentials=keys).save(name, overwrite=True)
"""


@pytest.mark.slow
def test_a_clone_is_enough(project: Project, bucket: str, tmp_path: Path) -> None:
    url = repository(project.folder, tmp_path / "flows.git")
    project.deploy()
    python("-c", SAVE_BLOCKS, bucket, env=project.environment)
    project.folder.rename(tmp_path / "gone")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    machine = {
        "HOME": str(elsewhere),
        "PREFECT_HOME": str(elsewhere / "prefect"),
        "COMETAPI_FLOWS_REPOSITORY": url,
        "COMETAPI_FLOWS_BRANCH": "main",
        "PREFECT_INTEGRATIONS_COMETAPI_LEDGER": "block://s3-bucket/records",
    }
    scope = f"monday-{uuid4().hex}"
    parameters = {"simulate": False, "storage": "block://s3-bucket/pictures", "scope": scope}
    with project.worker(elsewhere, **machine):
        first = project.run("table/weekly", **parameters)
        assert first.end() == "COMPLETED", first.log()
        assert project.service.counts.charged == 12
        # On yet another machine, as far as files go: the clone went with the run.
        second = project.run("table/weekly", **parameters)
        assert second.end() == "COMPLETED", second.log()
    assert project.service.counts.charged == 12
    assert len([name for name in names(bucket, "pictures/") if name.endswith(".webp")]) == 12
    assert any("journal" in name for name in names(bucket, "records/")), names(bucket, "records/")
    assert not any("in a folder of this machine" in line for line in first.log() + second.log())
    left = {path.suffix for path in elsewhere.rglob("*")}
    assert not left & {".webp", ".py", ".csv"}


def test_without_a_repository_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="COMETAPI_FLOWS_REPOSITORY"):
        checkout.flows(str(tmp_path / "not here"))
