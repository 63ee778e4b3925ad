"""Pictures as Pillow opens them, within bounds: upright, in eight bits, however they came. Pure.

Pillow is the extra `images`, and is imported where a picture is opened.
"""

from __future__ import annotations

from typing import Any

#: What Pillow may decode, and what it calls it: formats that it reads by itself, without a program
#: or a script in between.
DECODABLE = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}
#: Largest picture that is decoded, in pixels: fewer than Pillow itself takes for a decompression
#: bomb (89 million), and 320 MB of memory at most.
PIXELS_MOST = 80_000_000


def upright(opened: Any, side: int) -> Any:
    """A picture, or the first of several, with sides of at most so many pixels.

    Args:
        opened: What `Image.open` gave.
        side: The longest side.

    Returns:
        It as RGB, or as RGBA where it is transparent, turned as its camera says.
    """
    from PIL import Image, ImageOps

    opened.draft("RGB", (side, side))  # JPEGs are decoded at a fraction of their size
    turned = ImageOps.exif_transpose(opened)
    transparent = turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info
    picture = _eight_bits(turned).convert("RGBA" if transparent else "RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _eight_bits(picture: Any) -> Any:
    """Grey values of 16 bits and more, which Pillow would cut off at 255, as those of eight."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = picture.convert("F")
    # 16 bits have their white at 65,535; larger numbers and fractions have none of their own.
    low, high = (0, 65_535) if picture.mode.startswith("I;16") else values.getextrema()
    if picture.mode == "I" and low >= 0 and high <= 65_535:
        low, high = 0, 65_535  # how older versions of Pillow open a PNG of 16 bits
    scale = 255 / (high - low) if high > low else 0.0
    return values.point(lambda value: value * scale - low * scale).convert("L")
