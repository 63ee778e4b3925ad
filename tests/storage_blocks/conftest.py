"""One storage of each kind, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import pytest
from prefect.filesystems import LocalFileSystem, RemoteFileSystem

from prefect_cometapi import journal
from prefect_cometapi.storage import Storage
from prefect_cometapi.stores import PROBE_NAME
from tests.buckets import S3, s3_service
from tests.servers import configure
from tests.storage_blocks.blocks import (
    AsyncFiles,
    LikeAzure,
    LocalOfMyOwn,
    SyncFiles,
    SyncObjects,
)
from tests.storages import FolderOfObjects, everything_in


@dataclass
class Place:
    """A storage, and what is in it."""

    kind: str
    storage: Storage
    _look: Callable[[], dict[str, bytes]]

    def everything(self) -> dict[str, bytes]:
        """The files by name, without those that only find out whether it can be written to."""
        found = self._look().items()
        return {name: content for name, content in found if not name.endswith(PROBE_NAME)}

    def outputs(self) -> dict[str, bytes]:
        """Those of them that are no records."""
        files = self.everything().items()
        return {name: content for name, content in files if not name.startswith("cometapi-")}

    @property
    def lists(self) -> bool:
        """False where there is no way to ask for all files of a folder."""
        return self.kind != "async files"

    def saved(self) -> str:
        """The block saved, as what it is referred to by."""
        block: Any = self.storage
        if isinstance(block, str | Path):
            block = LocalFileSystem(basepath=str(block))
        name = f"storage-{uuid4().hex[:12]}"
        block.save(name)
        return f"block://{block.get_block_type_slug()}/{name}"


@pytest.fixture(scope="session")
def running_s3() -> Iterator[S3]:
    # Nothing of the machine's own configuration, which boto3 would read.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/dev/null")
        with s3_service() as service:
            yield service


@pytest.fixture
def s3(running_s3: S3) -> Iterator[S3]:
    running_s3.requests.clear()
    yield running_s3
    running_s3.denies = lambda method, path: False


BLOCKS: dict[str, Callable[[str], Any]] = {
    "local file system of my own": lambda root: LocalOfMyOwn(basepath=root),
    "async objects": lambda root: FolderOfObjects(root=root),
    "sync objects": lambda root: SyncObjects(root=root),
    "like Azure": lambda root: LikeAzure(root=root),
    "async files": lambda root: AsyncFiles(root=root),
    "sync files": lambda root: SyncFiles(root=root),
}
KINDS = [
    "path",
    "local file system",
    *BLOCKS,
    "remote file system, local",
    "remote file system, memory",
    "remote file system, s3",
    "bucket",
    "bucket, folder",
    "bucket, folder named as ours begin",
    "bucket of MinIO",
]


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A storage of each kind in turn."""
    monkeypatch.chdir(tmp_path)
    return _place(request.param, s3, tmp_path / "outputs")


def _place(kind: str, s3: S3, root: Path) -> Place:
    def look() -> dict[str, bytes]:
        return everything_in(root)

    def look_below() -> dict[str, bytes]:
        return everything_in(root / "below")

    if kind == "path":
        return Place(kind, root, look)
    if kind == "local file system":
        return Place(kind, LocalFileSystem(basepath=str(root)), look)
    if kind in BLOCKS:
        return Place(kind, BLOCKS[kind](str(root)), look)
    if kind == "remote file system, local":  # takes only folders of the working directory
        return Place(kind, RemoteFileSystem(basepath=f"local://{root.name}/below"), look_below)
    if kind == "remote file system, memory":
        url = f"memory://{uuid4().hex}/below"
        return Place(kind, RemoteFileSystem(basepath=url), lambda: _through_fsspec(url))
    folder = {"bucket, folder": "some/where", "bucket, folder named as ours begin": "cometapi"}
    credentials = {"credentials": s3.min_io()} if kind == "bucket of MinIO" else {}
    block = s3.bucket(folder.get(kind, ""), **credentials)
    start = f"{block.bucket_folder}/" if block.bucket_folder else ""

    def look_in_bucket() -> dict[str, bytes]:
        found = s3.objects(block)
        assert all(key.startswith(start) for key in found)  # nothing beside its folder
        return {key.removeprefix(start): content for key, content in found.items()}

    if kind == "remote file system, s3":
        pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
        options = {"key": "testing", "secret": "testing", "client_kwargs": {"endpoint_url": s3.url}}
        remote = RemoteFileSystem(basepath=f"s3://{block.bucket_name}", settings=options)
        return Place(kind, remote, look_in_bucket)
    return Place(kind, block, look_in_bucket)


def _through_fsspec(url: str) -> dict[str, bytes]:
    files = fsspec.filesystem("memory")
    root = f"/{url.removeprefix('memory://')}/"
    return {name.removeprefix(root): files.cat_file(name) for name in files.find(root)}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, poll_min=0.05, reconnect_timeout=0.3)
    monkeypatch.setattr(journal, "LINGER", 0.02)
