"""Pictures of every kind, as bytes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def plain(width: int = 96, height: int = 64, colour: Any = (200, 30, 30)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def noise(width: int, height: int) -> Image.Image:
    """What no codec makes small."""
    return Image.frombytes("RGB", (width, height), os.urandom(width * height * 3))


def grey_16() -> Image.Image:
    """From black on the left to white on the right, in 16 bits."""
    picture = Image.new("I;16", (64, 64))
    for x in range(64):
        for y in range(64):
            picture.putpixel((x, y), x * 1_040)
    return picture


def bomb(side: int) -> bytes:
    """A PNG that says it has that many pixels a side, and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
