"""Small pictures of pictures, as `data:` URIs that outlive whatever they were made from. Pure.

Made in two steps, because many share a budget: each picture is read and made small by itself, and
then all of them are encoded together. Nothing here raises: what can not be shown is None.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from prefect_cometapi.filetypes import HEAD, recognise
from prefect_cometapi.pictures import DECODABLE, PIXELS_MOST, upright

#: Largest picture that is decoded for this, in pixels, and for a JPEG, of which a fraction is
#: decoded, what that leaves: 100 MB of memory, which a small pod can spare.
DECODED_MOST = 25_000_000
#: What is tried for each, until it fits: the longest side as a share of the first, the quality, and
#: about how large that makes it, as a share of the first; what is certainly too large is left out.
STEPS = (
    *((1.0, 80, 1.0), (1.0, 65, 0.62), (1.0, 50, 0.45), (0.75, 55, 0.28), (0.75, 40, 0.2)),
    *((0.5, 50, 0.11), (0.5, 30, 0.07), (0.35, 20, 0.025)),
)
_CERTAINLY = 1.5
#: What stands before the base64 of each.
HEADER = "data:image/webp;base64,"
#: Behind what is transparent: neither black nor white lines are lost on it, on a page of any theme.
BEHIND = (221, 221, 221)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        uri: The picture itself.
        width: In pixels.
        height: In pixels.
    """

    uri: str
    width: int
    height: int


def can_be_made() -> bool:
    """Whether Pillow, the extra `images`, is there."""
    return find_spec("PIL") is not None


def shrunk(content: bytes, side: int) -> Any:
    """A picture made small enough to be kept, or None.

    Args:
        content: A file, of whatever kind.
        side: Its longest side, in pixels.
    """
    kind = recognise(content[:HEAD])
    if kind is None or kind.media_type not in DECODABLE:
        return None
    try:
        from PIL import Image

        name = DECODABLE[kind.media_type]
        with Image.open(io.BytesIO(content), formats=[name]) as opened:
            if opened.width * opened.height > PIXELS_MOST:
                return None
            opened.draft("RGB", (side, side))
            if opened.width * opened.height > DECODED_MOST:
                return None
            picture = upright(opened, side)
        if picture.mode == "RGBA":
            ground = Image.new("RGB", picture.size, BEHIND)
            ground.paste(picture, mask=picture.getchannel("A"))
            picture = ground
    except Exception:  # Pillow's decoders raise whatever comes up, from SyntaxError on
        return None
    return picture


def within(pictures: Sequence[Any], most: int) -> list[Thumbnail | None]:
    """Encode pictures that were `shrunk`; all URIs together have at most so many characters.

    What one does not need of its share is left to those after it.
    """
    made: list[Thumbnail | None] = []
    left, waiting = most, sum(picture is not None for picture in pictures)
    for picture in pictures:
        thumbnail = None
        if picture is not None:
            thumbnail = _within(picture, left // waiting)
            waiting -= 1
        left -= len(thumbnail.uri) if thumbnail else 0
        made.append(thumbnail)
    return made


def _within(picture: Any, most: int) -> Thumbnail | None:
    whole = 0.0  # about how large the first step would make it
    for share, quality, about in STEPS:
        if whole * about > _CERTAINLY * most and about != STEPS[-1][2]:
            continue
        size = tuple(max(1, round(side * share)) for side in picture.size)
        try:
            smaller = picture if size == picture.size else picture.resize(size)
            buffer = io.BytesIO()
            smaller.save(buffer, "WEBP", quality=quality, method=1)  # as small, in a quarter of it
        except Exception:  # without WebP, or without memory
            return None
        uri = HEADER + base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(uri) <= most:
            return Thumbnail(uri, *size)
        whole = len(uri) / about
    return None
