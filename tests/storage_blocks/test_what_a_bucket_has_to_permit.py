"""A batch needs s3:PutObject and s3:GetObject below its folder; only lists need s3:ListBucket."""

from __future__ import annotations

import pytest

from prefect_cometapi import ItemStatus, LedgerError, list_records
from tests.batches import Batches, boats
from tests.buckets import S3
from tests.homes import LEDGER, create
from tests.storage_blocks.conftest import Place


def put_and_get_only(s3: S3, folder: str) -> None:
    """Deny as S3 does without s3:ListBucket, where what is absent is denied, too."""
    there: set[str] = set()

    def denies(method: str, path: str) -> bool:
        bucket, _, key = path.lstrip("/").partition("/")
        if not bucket or not key.startswith(f"{folder}/"):
            return True
        if method == "PUT":
            there.add(path)
        return method not in ("PUT", "GET", "HEAD") or path not in there

    s3.denies = denies


def test_a_batch_neither_lists_nor_deletes(s3: S3, batches: Batches) -> None:
    block = s3.bucket("team/nightly")
    put_and_get_only(s3, "team/nightly")
    first = batches.run(boats(5), storage=block)
    assert first.summary == "5 saved"
    second = batches.run(boats(6), storage=block)
    assert (second.created, second.found) == (1, 5)
    assert second.count(ItemStatus.SAVED) == 6
    assert {method for method, _ in s3.requests} == {"PUT", "GET", "HEAD"}


@pytest.mark.slow
def test_records_of_single_predictions_are_listed_only_with_permission(
    s3: S3, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = s3.bucket("team")
    reference = Place("bucket", block, dict).saved()
    monkeypatch.setenv(LEDGER, reference)
    put_and_get_only(s3, "team")
    created = create(batches.scope)
    assert create(batches.scope).id == created.id
    with pytest.raises(LedgerError, match="AccessDenied"):
        list_records(batches.scope)
    s3.denies = lambda method, path: method == "DELETE"
    assert [entry.key for entry in list_records(batches.scope)] == [created.record_key]
