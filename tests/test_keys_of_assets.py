"""A place has one key as an asset, which Prefect takes and which holds no credential; two places
have two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.assets import Asset
from prefect.filesystems import LocalFileSystem, RemoteFileSystem
from prefect_aws.s3 import S3Bucket

from prefect_cometapi import asset_keys, portal
from prefect_cometapi.errors import InvalidInput
from prefect_cometapi.lineage import check_sources, place_of
from prefect_cometapi.storage import open_storage
from tests.storages import FolderOfObjects

PLAIN = {
    asset_keys.of_model("black-forest-labs/flux-schnell"): (
        "cometapi://model/black-forest-labs/flux-schnell"
    ),
    asset_keys.of_folder("/data/pictures"): "file:///data/pictures",
    asset_keys.of_folder("/data/pictures/", "2026-11-22/x"): "file:///data/pictures/2026-11-22/x",
    asset_keys.of_folder("/"): "file:///",
    asset_keys.of_folder("C:/data", "x"): "file:///C:/data/x",
    asset_keys.of_bucket("s3", "bucket"): "s3://bucket",
    asset_keys.of_bucket("s3", "bucket", "", "day"): "s3://bucket/day",
    asset_keys.of_bucket("gs", "bucket", "folder/", "day"): "gs://bucket/folder/day",
    asset_keys.of_block("ftp", "home", "day"): "block://ftp/home/day",
}
URLS = {
    "s3://bucket/folder": "s3://bucket/folder",
    "s3://bucket/folder/": "s3://bucket/folder",
    "s3://key:secret@bucket/folder": "s3://bucket/folder",
    "s3://token@bucket/folder": "s3://bucket/folder",
    "s3://key:se@cret@bucket/folder": "s3://bucket/folder",
    "https://host:8443/webdav?token=secret#part": "https://host:8443/webdav",
    "abfs://container@account.dfs.core.windows.net/x": (
        "abfs://container@account.dfs.core.windows.net/x"
    ),
    "abfs://user:secret@account/x": "abfs://account/x",
    "memory://Boats": "memory://Boats",
    "file:///data/pictures": "file:///data/pictures",
    "local:///data/pictures": "file:///data/pictures",
    "S3://bucket": "s3://bucket",
    "git+ssh://host/path": None,
    "/data/pictures": None,
    "s3:bucket": None,
    "https://[broken/x": None,
    "s3://key:secret/with+a/slash@bucket/folder": "s3://bucket/folder",
    "s3://key:secret#part@bucket/folder": "s3://bucket/folder",
    "s3://key:secret": None,
    "s3://bucket/folder@2": "s3://bucket/folder@2",
    "": None,
}
#: What Prefect takes in no key.
ODD = (
    *("two words", "a#b", "50%", "what?", "a&b", "[x]", "{x}", "<x>", "x|y", "a\\b", "a^b", "a`b"),
    *("it's", 'a"b', "a\nb", "a\tb", "\x7f", "half \ud800"),
)


@pytest.mark.parametrize(("key", "expected"), PLAIN.items())
def test_what_a_place_is_called(key: str, expected: str) -> None:
    assert key == expected
    assert Asset(key=key).key == key


@pytest.mark.parametrize(("url", "expected"), URLS.items())
def test_a_url_without_what_nobody_may_see(url: str, expected: str | None) -> None:
    key = asset_keys.of_url(url)
    assert key == expected
    if key:
        assert Asset(key=key).key == key
        assert "secret" not in key


@pytest.mark.parametrize("name", ODD)
def test_what_prefect_does_not_take_is_replaced_and_told_apart(name: str) -> None:
    key, other = asset_keys.of_folder(f"/data/{name}"), asset_keys.of_folder("/data/" + "_" * 9)
    assert Asset(key=key).key == key
    assert key.startswith("file:///data/")
    assert key != other
    assert key == asset_keys.of_folder(f"/data/{name}")
    plain = key.rpartition("~")[0]
    assert asset_keys.of_folder(plain.removeprefix("file://")) == plain != key


def test_what_is_too_long_is_cut_and_told_apart() -> None:
    keys = {asset_keys.of_folder(f"/{'x' * 600}/{number}") for number in range(3)}
    assert len(keys) == 3
    assert all(len(Asset(key=key).key) == asset_keys.LONGEST for key in keys)


# --- of storages ------------------------------------------------------------------------------


def place(storage: Any, prefix: str = "") -> str:
    key = place_of(portal.call(open_storage, storage), prefix)
    assert Asset(key=key).key == key
    return key


class Bucket(S3Bucket):
    """A user's own kind of it."""

    _block_type_slug = "bucket-of-mine"


class Container(FolderOfObjects):
    """By its fields and its name what prefect-azure has."""

    _block_type_slug = "azure-blob-storage-container"
    container_name: str = "pictures"
    base_folder: str | None = None


class NotQuiteLocal(LocalFileSystem):
    """A user's own kind of it."""

    _block_type_slug = "local-of-mine"


def test_storages_say_where_they_are(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    assert place(tmp_path) == place(str(tmp_path)) == folder
    assert place(tmp_path, "day") == f"{folder}/day"
    assert place(LocalFileSystem(basepath=str(tmp_path))) == folder
    assert place(NotQuiteLocal(basepath=str(tmp_path))) == folder
    secret = RemoteFileSystem(basepath="s3://key:secret@bucket/x", settings={"secret": "secret"})
    assert place(secret, "day") == "s3://bucket/x/day"
    bucket = {"bucket_name": "pictures", "bucket_folder": "nightly/"}
    assert place(S3Bucket(**bucket), "day") == "s3://pictures/nightly/day"
    assert place(Bucket(**bucket)) == "s3://pictures/nightly"
    assert place(Container(root="x"), "day") == "az://pictures/day"


def test_a_block_that_does_not_say_is_called_by_its_name() -> None:
    block = FolderOfObjects(root="/somewhere")
    other = FolderOfObjects(root="/elsewhere")
    assert place(block, "day").startswith("block://folder-of-objects/")
    assert place(block, "day").endswith("/day")
    assert place(block) == place(FolderOfObjects(root="/somewhere")) != place(other)
    block._block_document_name = "home"
    assert place(block) == "block://folder-of-objects/home"


# --- what a user names ------------------------------------------------------------------------

TABLE = "postgresql://host/shop/products"


def test_tables_are_named_by_their_keys_or_as_assets() -> None:
    assert check_sources([TABLE, Asset(key="s3://bucket/prompts.csv")]) == (
        Asset(key=TABLE),
        Asset(key="s3://bucket/prompts.csv"),
    )
    assert check_sources(()) == ()


REFUSED: dict[str, tuple[Any, str]] = {
    "a word": (["products"], "Key must be a valid URI"),
    "a question": (["postgresql://host/shop?sslmode=off"], "Asset key cannot contain '?'"),
    "too long": ([f"s3://{'x' * 600}"], "512 characters"),
    "a number": ([4711], "A source is a int"),
    "one text": (TABLE, "sources are a list"),
    "one asset": (Asset(key=TABLE), "sources are a list"),
    "nothing": (None, "sources are a list"),
    "too many": ([f"{TABLE}-{number}" for number in range(21)], "21 sources"),
    "a password": (["postgresql://me:hunter2@host/shop"], "a user name or a password"),
    "a password with a slash": (["s3://me:hunter2/x@bucket"], "a user name or a password"),
    "a password asked for": (["https://host/x?password=hunter2"], "cannot contain '?'"),
    "a token": (["https://hunter2@host/shop"], "a user name or a password"),
    "an asset's": ([Asset(key="postgresql://me:hunter2@host/shop")], "a user name or a password"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_source_is_refused_with_prefects_own_reason(what: str) -> None:
    sources, why = REFUSED[what]
    with pytest.raises(InvalidInput, match="Nothing was sent") as raised:
        check_sources(sources)
    assert why in str(raised.value)
    assert "hunter2" not in str(raised.value)
