"""The world that the pages take for granted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prefect_cometapi import simulator
from prefect_cometapi.simulator import Simulator

#: The buckets that the pages speak of, and the blocks by which they know the first one.
BUCKETS, BLOCKS = ("our-bucket", "our-pictures"), ("gallery", "pictures", "records")


@pytest.fixture(scope="module")
def world(prefect_server: None) -> Iterator[Simulator]:
    """A service, an S3, a saved key, saved blocks, a price."""
    from prefect_aws import AwsCredentials, S3Bucket
    from prefect_aws.credentials import _get_client_cached

    from prefect_cometapi import CometAPICredentials
    from tests.buckets import s3_service

    _forget_what_other_tests_have_paid_for()
    with ExitStack() as stack:
        service = stack.enter_context(simulator.run(run_time=0.05))
        s3 = stack.enter_context(s3_service())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "COMETAPI_KEY": service.api_key,
            "COMETAPI_BASE_URL": service.url,
            "PREFECT_INTEGRATIONS_COMETAPI_PRICES": '{"black-forest-labs/flux-schnell": 0.003}',
            "AWS_ENDPOINT_URL": s3.url,  # found by boto3 itself, as AWS is by a pod's role
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        for name in BUCKETS:
            s3.client.create_bucket(Bucket=name)
        _get_client_cached.cache_clear()  # it knows the S3 of another module, which is gone
        CometAPICredentials.from_env().save("default", overwrite=True)
        credentials = AwsCredentials()
        for name in BLOCKS:
            block = S3Bucket(bucket_name=BUCKETS[0], bucket_folder=name, credentials=credentials)
            block.save(name, overwrite=True)
        yield service


def _forget_what_other_tests_have_paid_for() -> None:
    """Or `ledger collect` finds it, of services that are gone, and something is left to do."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        while names := [
            each["name"]
            for each in client.request(
                "POST",
                "/variables/filter",
                json={"variables": {"name": {"like_": "cometapi-"}}, "limit": 200},
            ).json()
        ]:
            for name in names:
                client.request("DELETE", "/variables/name/{name}", path_params={"name": name})
