"""Where a bucket fails at once, nothing is paid; where it fails later, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prefect_aws import S3Bucket

from prefect_cometapi import BatchStopped, CometAPICredentials, ItemStatus, StorageError, generate
from prefect_cometapi import journal as journals
from prefect_cometapi.simulator import Simulator
from tests.batches import TEXT, Batches, boats, statuses
from tests.buckets import S3

COUNT = 12
SAVED, NOT_SAVED = ItemStatus.SAVED, ItemStatus.NOT_SAVED


def outputs(s3: S3, block: S3Bucket) -> list[str]:
    return [key for key in s3.objects(block) if key.endswith(".txt")]


def an_output(method: str, path: str) -> bool:
    return method == "PUT" and path.endswith(".txt")


def no_such_bucket(s3: S3) -> S3Bucket:
    return S3Bucket(bucket_name="no-such-bucket", credentials=s3.credentials())


def denied_key(s3: S3) -> S3Bucket:
    block = s3.bucket()
    s3.denies = lambda method, path: True
    return block


FAILURES: dict[str, tuple[Callable[[S3], S3Bucket], str]] = {
    "no such bucket": (no_such_bucket, "NoSuchBucket"),
    "denied": (denied_key, "AccessDenied"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_nothing_is_paid_where_nothing_can_be_saved(
    failure: str, s3: S3, batches: Batches, cometapi_simulator: Simulator
) -> None:
    made, says = FAILURES[failure]
    block = made(s3)
    with pytest.raises(StorageError, match=f"{says}.*Nothing was sent"):
        batches.run(boats(3), storage=block)
    with pytest.raises(StorageError, match=f"{says}.*Nothing was sent"):
        generate.fn(CometAPICredentials.from_env(), TEXT, boats(1)[0], block, scope=batches.scope)
    assert cometapi_simulator.counts.creates == 0


def test_one_that_was_paid_for_is_brought_home_by_the_second_call(
    s3: S3, batches: Batches, cometapi_simulator: Simulator
) -> None:
    credentials, block = CometAPICredentials.from_env(), s3.bucket()
    s3.denies = an_output
    with pytest.raises(StorageError, match=r"AccessDenied.*0 of 1 outputs are saved"):
        generate.fn(credentials, TEXT, boats(1)[0], block, scope=batches.scope)
    s3.denies = lambda method, path: False
    made = generate.fn(credentials, TEXT, boats(1)[0], block, scope=batches.scope)
    assert outputs(s3, block) == [file.name for file in made.files]
    assert cometapi_simulator.counts.creates == 1


def test_what_it_did_not_take_is_brought_home_by_the_second_run(s3: S3, batches: Batches) -> None:
    block, refused = s3.bucket("nightly"), [0]

    def every_third(method: str, path: str) -> bool:
        refused[0] += an_output(method, path)
        return an_output(method, path) and refused[0] % 3 == 0

    s3.denies = every_third
    result = batches.fail(boats(COUNT), storage=block, in_flight=2).result
    assert result.counts == {SAVED: COUNT * 2 // 3, NOT_SAVED: COUNT // 3}
    assert {item.error_type for item in result.failures} == {"StorageError"}
    there = set(outputs(s3, block))
    assert len(there) == COUNT * 2 // 3

    s3.denies = lambda method, path: False
    s3.requests.clear()
    result = batches.run(boats(COUNT), storage=block)
    assert statuses(result) == [SAVED] * COUNT
    assert (result.created, batches.service.counts.charged) == (0, COUNT)
    uploads = [path for method, path in s3.requests if an_output(method, path)]
    assert len(uploads) == COUNT // 3  # exactly what was missing
    assert len(set(outputs(s3, block)) - there) == COUNT // 3


def test_gone_for_outputs_it_stops_the_spending(s3: S3, batches: Batches) -> None:
    block = s3.bucket()
    s3.denies = an_output
    error = batches.fail(boats(60), storage=block, in_flight=2)
    assert isinstance(error, BatchStopped)
    assert "the storage did not take" in str(error)
    paid = batches.service.counts.charged
    assert paid < 60
    assert outputs(s3, block) == []
    s3.denies = lambda method, path: False
    result = batches.run(boats(60), storage=block)
    assert statuses(result) == [SAVED] * 60
    assert result.created == 60 - paid
    assert batches.service.counts.charged == 60
    assert len(outputs(s3, block)) == 60


def test_gone_altogether_and_back_it_goes_on(
    s3: S3, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "PAUSES", (0.01,) * 3)
    block, puts = s3.bucket(), [0]

    def after_some(method: str, path: str) -> bool:
        puts[0] += an_output(method, path)
        return puts[0] > 4

    s3.denies = after_some
    with pytest.raises(Exception, match="could not be written") as raised:
        batches.run(boats(COUNT), storage=block, in_flight=2)
    paid = batches.service.counts.charged
    assert 4 <= paid < COUNT, raised.value

    s3.denies = lambda method, path: False
    result = batches.run(boats(COUNT), storage=block, allow_failures=COUNT)
    in_doubt = result.count(ItemStatus.IN_DOUBT)  # whose id could not be written down
    assert in_doubt <= 2
    assert result.count(SAVED) == COUNT - in_doubt
    assert batches.service.counts.charged == COUNT
    assert len(outputs(s3, block)) == COUNT - in_doubt
