"""A file becomes an input that the service takes: as it is where it is small enough, as a smaller
picture where it is one, and else an error that says what to do.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image

from prefect_cometapi import (
    CometAPICredentials,
    InvalidInput,
    SavedFile,
    StorageError,
    ainput_file,
    generate,
    input_file,
)
from prefect_cometapi.input_files import DATA_URI_MOST, FILE_MOST
from prefect_cometapi.pictures import PIXELS_MOST
from prefect_cometapi.simulator import Simulator
from tests.servers import BOAT, MODEL
from tests.storages import FolderOfObjects


def read(uri: str) -> tuple[str, bytes]:
    """The type and the content of a `data:` URI."""
    head, content = uri.split(",")
    assert head.startswith("data:")
    assert head.endswith(";base64")
    return head[5:-7], base64.b64decode(content, validate=True)


def opened(uri: str) -> Image.Image:
    picture = Image.open(io.BytesIO(read(uri)[1]))
    picture.load()
    return picture


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """What no codec makes small."""
    size = width * height * len(mode)
    return Image.frombytes(mode, (width, height), os.urandom(1 << 16) * (size // (1 << 16) + 1))


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


SMALL = encoded(Image.new("RGB", (8, 8), "red"), "PNG")


# --- as it is ---------------------------------------------------------------------------------


def test_a_small_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "boat.jpg"  # whatever its name says
    path.write_bytes(SMALL)
    assert read(input_file(path)) == ("image/png", SMALL)
    assert input_file(str(path)) == input_file(SMALL) == input_file(path)


async def test_the_async_twin_does_the_same(tmp_path: Path) -> None:
    assert await ainput_file(SMALL) == await asyncio.to_thread(input_file, SMALL)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"ID3" + bytes(9), "audio/mpeg"),
        (b"%PDF-1.7", "application/pdf"),
        (b"just text", "application/octet-stream"),
    ],
)
def test_other_files_are_taken_too(content: bytes, kind: str) -> None:
    assert read(input_file(content)) == (kind, content)


def test_what_just_fits_is_not_touched() -> None:
    content = SMALL + bytes((DATA_URI_MOST - len("data:image/png;base64,")) // 4 * 3 - len(SMALL))
    assert read(input_file(content))[1] == content
    assert len(input_file(content)) <= DATA_URI_MOST
    assert read(input_file(content + b"123"))[0] == "image/jpeg"


# --- made smaller -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "mode", "kind"),
    [
        ("PNG", "RGB", "image/jpeg"),
        ("PNG", "RGBA", "image/webp"),
        ("PNG", "L", "image/jpeg"),
        ("PNG", "LA", "image/webp"),
        ("JPEG", "RGB", "image/jpeg"),
        ("JPEG", "CMYK", "image/jpeg"),
        ("WEBP", "RGBA", "image/webp"),
        ("BMP", "RGB", "image/jpeg"),
        ("TIFF", "RGB", "image/jpeg"),
        ("GIF", "L", "image/jpeg"),
    ],
)
def test_a_large_picture_is_made_smaller(format: str, mode: str, kind: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    picture = noise(900, 600, mode if mode != "LA" else "RGBA").convert(mode)
    content = encoded(picture, format, **options)
    uri = input_file(content)
    assert len(uri) <= DATA_URI_MOST
    assert read(uri)[0] == kind
    width, height = opened(uri).size
    assert width <= 900
    assert abs(width / height - 1.5) < 0.02
    assert opened(uri).mode == ("RGBA" if kind == "image/webp" else "RGB")


def test_it_keeps_what_it_can() -> None:
    """A picture that compresses well loses no pixels."""
    smooth = Image.linear_gradient("L").resize((1600, 1200))
    content = encoded(smooth, "BMP")
    assert len(content) > DATA_URI_MOST
    assert opened(input_file(content)).size == (1600, 1200)


def test_a_picture_of_a_camera_is_large_at_first() -> None:
    smooth = Image.linear_gradient("L").resize((6000, 3000)).convert("RGB")
    picture = opened(input_file(encoded(smooth, "BMP")))
    assert picture.size == (2048, 1024)


def test_it_is_the_same_each_time(tmp_path: Path) -> None:
    content = encoded(noise(800, 800), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    assert input_file(content) == input_file(tmp_path / "a.png")


def test_it_is_upright() -> None:
    picture = noise(900, 450)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    content = encoded(picture, "JPEG", quality=95, exif=exif)
    made = opened(input_file(content))
    assert made.width < made.height
    assert not made.getexif()


def test_a_limit_of_ones_own() -> None:
    content = encoded(noise(600, 600), "PNG")
    assert len(input_file(content, max_bytes=20_000)) <= 20_000
    assert read(input_file(content, max_bytes=10_000_000)) == ("image/png", content)


def test_a_model_takes_it(
    cometapi_simulator: Simulator, prefect_server: None, tmp_path: Path
) -> None:
    (tmp_path / "boat.png").write_bytes(encoded(noise(900, 600), "PNG"))
    input = {"prompt": "bluer", "input_image": input_file(tmp_path / "boat.png")}
    model = "black-forest-labs/flux-kontext-pro"
    made = generate.fn(CometAPICredentials.from_env(), model, input, tmp_path / "out")
    assert made.files


# --- files in storages ------------------------------------------------------------------------


def test_a_result_is_the_input_of_the_next(
    cometapi_simulator: Simulator, prefect_server: None, tmp_path: Path
) -> None:
    made = generate.fn(CometAPICredentials.from_env(), MODEL, BOAT, tmp_path)
    [file] = made.files
    content = (tmp_path / file.name).read_bytes()
    assert read(input_file(file, storage=tmp_path))[1] == content
    assert read(input_file(file))[1] == content, "its location is a path"
    assert read(input_file(file.name, storage=FolderOfObjects(root=str(tmp_path))))[1] == content


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"There is no file no\.png in the folder"):
        input_file("no.png", storage=tmp_path)
    with pytest.raises(InvalidInput, match="can not be read: No such file"):
        input_file(tmp_path / "no.png")
    with pytest.raises(InvalidInput, match="prefix"):
        input_file("../no.png", storage=tmp_path)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.write(SMALL)
        file.truncate(FILE_MOST + 1)
    with pytest.raises(InvalidInput, match="not even read"):
        input_file(tmp_path / "large.png")
    saved = SavedFile(
        location="s3://x", name="x.png", output="output", media_type="", size=1 << 40, sha256=""
    )
    with pytest.raises(InvalidInput, match="not even read"):
        input_file(saved, storage=tmp_path)


class Endless(FolderOfObjects):
    """An object that is larger than any memory."""

    _block_type_name = "Endless objects for tests"
    _block_type_slug = "endless-objects"

    _parts: int = 0

    async def download_object_to_file_object(
        self, from_path: str, to_file_object: BinaryIO, **_: Any
    ) -> BinaryIO:
        while self._parts < 1_000:
            self._parts += 1
            to_file_object.write(bytes(1 << 20))
        raise AssertionError("all of it was read")


def test_of_a_stored_one_whose_size_nobody_tells_no_more_is_read(tmp_path: Path) -> None:
    endless = Endless(root=str(tmp_path))
    with pytest.raises(InvalidInput, match="has over 67,108,864 bytes, which is too large"):
        input_file("large.png", storage=endless)
    assert endless._parts == FILE_MOST // (1 << 20) + 1


# --- what can not be an input -----------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels, and whose body is small."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000_000), 9)
    padding = chunk(b"puFf", os.urandom(DATA_URI_MOST))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + padding + chunk(b"IDAT", body)


LARGE = DATA_URI_MOST + 1
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nothing": (b"", {}, "is empty"),
    "a large video": (bytes(4) + b"ftypisom" + bytes(LARGE), {}, "it is video/mp4, no picture"),
    "a large text": (b"text " * LARGE, {}, "no picture that could be made smaller"),
    "a bomb": (png(60_000, 60_000), {}, "can not be read as a picture: DecompressionBombError"),
    "a smaller bomb": (png(9_000, 9_000), {}, "at 9000x9000 it is not decoded"),
    "a picture that stops": (
        encoded(noise(900, 600), "PNG")[:LARGE],
        {},
        "can not be read as a picture",
    ),
    "only a head": (b"\x89PNG\r\n\x1a\n" + os.urandom(LARGE), {}, "can not be read as a picture"),
    "a picture for a tiny limit": (
        encoded(noise(900, 600), "PNG"),
        {"max_bytes": 100},
        "64 pixels",
    ),
    "a limit that is none": (SMALL, {"max_bytes": 0}, "max_bytes is 0"),
    "a URL": ("https://x.example/a.png", {}, "is a URI already"),
    "a data: URI": ("data:image/png;base64,AAAA", {}, "is a URI already"),
    "no name": ("", {}, "is no file"),
    "a folder": ("/", {}, "can not be read"),
    "a NUL": ("a\0b", {}, "can not be read"),
    "None": (None, {}, "is no file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_an_input_is_refused(name: str) -> None:
    assert PIXELS_MOST < 9_000 * 9_000
    file, options, reason = WRONG[name]
    with pytest.raises(InvalidInput) as refused:
        input_file(file, **options)
    assert reason in str(refused.value)


def test_without_pillow_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(noise(900, 600), "PNG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InvalidInput) as refused:
        input_file(content)
    assert f"{len(content):,} bytes" in str(refused.value)
    assert f"{DATA_URI_MOST:,}" in str(refused.value)
    assert 'pip install "prefect-cometapi[images]"' in str(refused.value)
    assert read(input_file(SMALL))[1] == SMALL
