"""Killed in the middle, a batch whose files and records are in a bucket goes on anywhere else."""

from __future__ import annotations

import pytest

from prefect_cometapi import ItemStatus, read_manifest
from tests.batches import SCRIPT, Batches, boats, told
from tests.buckets import S3
from tests.processes import started, wait_until, with_key
from tests.servers import SETTING
from tests.storage_blocks.conftest import Place

COUNT = 30
#: The same program with a saved block in the place of a folder.
IN_A_BLOCK = SCRIPT.replace("Path(storage)", "storage")


@pytest.mark.slow
@pytest.mark.cometapi_simulator(run_time=0.3)
@pytest.mark.parametrize("saved_before", [0, COUNT // 3])
def test_killed_and_run_again(
    saved_before: int, s3: S3, batches: Batches, prefect_environment: dict[str, str]
) -> None:
    block, service = s3.bucket("team/nightly"), batches.service
    storage = Place("bucket", block, dict).saved()
    environment = {**with_key(prefect_environment, service), SETTING + "POLL_MIN": "0.05"}

    def outputs() -> list[str]:
        return [key for key in s3.objects(block) if key.endswith(".txt")]

    with started(IN_A_BLOCK, COUNT, storage, batches.scope, {}, env=environment) as process:
        wait_until(lambda: service.counts.creates >= 5 and len(outputs()) >= saved_before)
        process.kill()
        assert process.wait(10) == -9
    try:
        result = batches.run(boats(COUNT), storage=storage)
    except Exception as error:  # what was being sent at that moment is in doubt
        result = error.result  # type: ignore[attr-defined]
    in_doubt = result.count(ItemStatus.IN_DOUBT)
    assert result.count(ItemStatus.SAVED) == len(outputs()) == COUNT - in_doubt
    assert service.counts.creates <= COUNT
    assert told(list(read_manifest(storage, str(result.manifest)))) == told(result.items)
