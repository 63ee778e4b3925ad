"""Of any picture there is a small one, upright and right in its colours; of anything else none, and
no error. Many share one budget.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any

import pytest
from PIL import Image

from prefect_cometapi import thumbnails
from prefect_cometapi.pictures import PIXELS_MOST, upright
from prefect_cometapi.thumbnails import BEHIND, DECODED_MOST, HEADER, shrunk, within
from tests.artifacts.pictures import bomb, encoded, grey_16, noise, plain

RED = (200, 30, 30)
#: The camera was held so that the picture has to be turned by a quarter.
TURNED = 6


def of_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def halves() -> Image.Image:
    """Red on the left, green on the right."""
    picture = plain(96, 64)
    picture.paste((20, 160, 20), (48, 0, 96, 64))
    return picture


def animation() -> bytes:
    rest = [plain(colour=(0, 0, value)) for value in (50, 200)]
    return encoded(plain(), "GIF", save_all=True, append_images=rest)


def transparent(format: str) -> bytes:
    return encoded(Image.new("RGBA", (96, 64), (10, 10, 10, 0)), format)


def near(colour: tuple[int, ...], other: tuple[int, ...], by: int = 14) -> bool:
    return all(abs(a - b) <= by for a, b in zip(colour, other, strict=True))


def pixel(picture: Any, x: float, y: float) -> tuple[int, ...]:
    return tuple(picture.getpixel((int(x * (picture.width - 1)), int(y * (picture.height - 1)))))


@pytest.mark.parametrize(
    ("content", "size", "left"),
    [
        (encoded(plain(), "PNG"), (48, 32), RED),
        (encoded(plain(), "JPEG"), (48, 32), RED),
        (encoded(plain(), "WEBP"), (48, 32), RED),
        (encoded(plain(), "BMP"), (48, 32), RED),
        (encoded(plain(), "TIFF"), (48, 32), RED),
        (encoded(plain(), "GIF"), (48, 32), RED),
        (encoded(plain(10, 20), "PNG"), (10, 20), RED),
        (encoded(plain(1, 900), "PNG"), (1, 48), RED),
        (encoded(plain().convert("CMYK"), "JPEG"), (48, 32), RED),
        (encoded(plain().convert("CMYK"), "TIFF"), (48, 32), RED),
        (encoded(plain(colour=(204, 51, 51)).convert("P"), "PNG"), (48, 32), (204, 51, 51)),
        (encoded(Image.new("1", (96, 64), 1), "PNG"), (48, 32), (255, 255, 255)),
        (encoded(Image.new("F", (96, 64), 0.5), "TIFF"), (48, 32), (0, 0, 0)),
        (encoded(halves(), "JPEG", exif=of_exif(3)), (48, 32), (20, 160, 20)),
        (animation(), (48, 32), RED),
        (transparent("PNG"), (48, 32), BEHIND),
        (transparent("WEBP"), (48, 32), BEHIND),
        (encoded(Image.new("LA", (96, 64), (10, 0)), "PNG"), (48, 32), BEHIND),
    ],
)
def test_any_picture_becomes_a_small_one(
    content: bytes, size: tuple[int, int], left: tuple[int, ...]
) -> None:
    small = shrunk(content, 48)
    assert (small.mode, small.size) == ("RGB", size)
    assert near(pixel(small, 0.1, 0.5), left)


def test_one_that_was_taken_sideways_is_upright() -> None:
    small = shrunk(encoded(halves(), "JPEG", exif=of_exif(TURNED)), 48)
    assert small.size == (32, 48)
    assert near(pixel(small, 0.5, 0.1), RED)
    assert near(pixel(small, 0.5, 0.9), (20, 160, 20))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_not_all_white(format: str) -> None:
    small = shrunk(encoded(grey_16(), format), 64)
    shades = [pixel(small, share, 0.5)[0] for share in (0, 0.25, 0.5, 0.75, 1)]
    assert shades == sorted(shades)
    assert near(tuple(shades), (0, 64, 127, 191, 254), by=6)


def test_nor_in_an_input_that_is_made_smaller() -> None:
    with Image.open(io.BytesIO(encoded(grey_16(), "PNG"))) as opened:
        assert near(pixel(upright(opened, 64), 0.5, 0.5), (127, 127, 127), by=6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some text",
        b'{"json": true}',
        b"%PDF-1.7 ...",
        b"\0\0\0\x20ftypisom" + bytes(200),
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<html><body>not a picture</body></html>",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
        encoded(noise(64, 64), "PNG")[:3_000],
        encoded(noise(64, 64), "JPEG")[:900],
        encoded(noise(64, 64), "WEBP")[:900],
        encoded(noise(64, 64), "PNG")[:8] + encoded(noise(64, 64), "JPEG"),
        bomb(60_000),
        bomb(int(PIXELS_MOST**0.5) + 10),
        bomb(int(DECODED_MOST**0.5) + 10),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_of_anything_else_there_is_none(content: bytes) -> None:
    assert shrunk(content, 48) is None


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    side = int(DECODED_MOST**0.5) + 200
    assert shrunk(encoded(Image.new("L", (side, side), 9), "JPEG"), 48).size == (48, 48)


def test_none_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(plain(), "PNG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert shrunk(content, 48) is None


# --- a budget for many ------------------------------------------------------------------------


def opened(thumbnail: thumbnails.Thumbnail | None) -> Image.Image:
    assert thumbnail is not None
    assert thumbnail.uri.startswith(HEADER)
    content = base64.b64decode(thumbnail.uri.removeprefix(HEADER), validate=True)
    picture = Image.open(io.BytesIO(content), formats=["WEBP"])
    picture.load()
    assert picture.size == (thumbnail.width, thumbnail.height)
    return picture


@pytest.mark.parametrize(
    ("number", "side", "most"),
    [(24, 256, 200_000), (24, 256, 60_000), (1, 640, 48_000), (3, 300, 20_000), (24, 200, 30_000)],
)
def test_pictures_that_no_codec_makes_small_share_a_budget(
    number: int, side: int, most: int
) -> None:
    made = within([noise(side, side)] * number, most)
    assert sum(len(each.uri) for each in made if each) <= most
    assert all(made), "each has its share"
    assert {opened(each).width for each in made} <= {
        side,
        *(round(side * s) for s, _, _ in thumbnails.STEPS),
    }


def test_what_one_does_not_need_is_left_to_those_after_it() -> None:
    alone = within([noise(256, 256)], 10_000)[0]
    with_small_ones = within([*[plain(256, 256)] * 9, noise(256, 256)], 100_000)
    assert alone is not None
    assert opened(with_small_ones[-1]).width > alone.width


def test_there_may_be_none_in_between() -> None:
    made = within([None, plain(), None], 5_000)
    assert [each is None for each in made] == [True, False, True]
    assert opened(made[1]).getpixel((0, 0)) is not None


def test_without_room_there_are_none() -> None:
    assert within([plain(), plain()], 20) == [None, None]
    assert within([plain()], -5) == [None]
    assert within([], 100) == []
