"""A storage is the same whatever its keys are, and another where its files are elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.filesystems import RemoteFileSystem
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from prefect_cometapi import portal
from prefect_cometapi.storage import open_storage
from tests.batches import Batches, boats
from tests.buckets import S3


def identity(block: Any) -> str:
    return portal.call(open_storage, block).identity


def bucket(endpoint: str = "", key: str = "one", **fields: Any) -> S3Bucket:
    return S3Bucket(
        **{"bucket_name": "pictures", **fields},
        credentials=AwsCredentials(
            aws_access_key_id=key,
            aws_secret_access_key=SecretStr(f"secret {key}"),
            aws_session_token=f"token {key}",
            aws_client_parameters=AwsClientParameters(endpoint_url=endpoint or None),
        ),
    )


def remote(path: str, **settings: Any) -> RemoteFileSystem:
    return RemoteFileSystem(basepath=path, settings=settings)


def test_keys_come_and_go() -> None:
    assert identity(bucket(key="one")) == identity(bucket(key="two"))
    here = remote("s3://a/b", key="one", secret="two", token="three")
    assert identity(here) == identity(remote("s3://a/b", key="four"))


@pytest.mark.parametrize(
    "other",
    [
        bucket(bucket_name="other"),
        bucket(bucket_folder="below"),
        bucket(endpoint="http://127.0.0.1:9000"),
        remote("s3://pictures"),
    ],
)
def test_another_place_is_another_storage(other: Any) -> None:
    assert identity(other) != identity(bucket())


def test_another_endpoint_is_another_storage() -> None:
    one, two = ({"client_kwargs": {"endpoint_url": f"http://127.0.0.1:{n}"}} for n in (1, 2))
    assert identity(remote("s3://a/b", **one)) != identity(remote("s3://a/b", **two))


def test_a_second_run_with_another_key_finds_what_is_there(s3: S3, batches: Batches) -> None:
    block = s3.bucket()
    batches.run(boats(3), storage=block)
    s3.requests.clear()
    rotated = s3.credentials(aws_session_token="of this hour")
    again = S3Bucket(bucket_name=block.bucket_name, credentials=rotated)
    result = batches.run(boats(3), storage=again)
    assert (result.created, result.found) == (0, 3)
    assert not [path for method, path in s3.requests if method == "PUT" and path.endswith(".txt")]
