"""Local and stored files as inputs of predictions: `data:` URIs that the service takes."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

from prefect_cometapi import portal
from prefect_cometapi.bounded_reads import TooLarge
from prefect_cometapi.errors import InvalidInput, StorageError
from prefect_cometapi.filetypes import BINARY, HEAD, recognise
from prefect_cometapi.models import SavedFile
from prefect_cometapi.pictures import DECODABLE, PIXELS_MOST, upright
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.storage import Storage, check_prefix, open_storage

#: Longest `data:` URI, in characters: Replicate's HTTP reference wants small files of up to 256 kB
#: that way, and does not say of what. This is the stricter reading: of the URI, with kB of 1,000.
DATA_URI_MOST = 256_000
#: Largest file that is read to be made smaller, in bytes: a picture of the largest cameras.
FILE_MOST = 64 * 1024 * 1024
#: Longest side that is tried first, in pixels: what models take their inputs down to, or below.
SIDE_MOST = 2_048
#: Below this side, in pixels, a picture is of no use as an input.
SIDE_LEAST = 64
#: Qualities that are tried at each size; below the last one, fewer pixels look better.
QUALITIES = (90, 80, 70)
#: Each next size is so much of the one before.
STEP = 0.8
#: A path, the content itself, or a file that was saved.
InputFile = str | Path | bytes | SavedFile


def input_file(
    file: InputFile, *, storage: Storage | None = None, max_bytes: int = DATA_URI_MOST
) -> str:
    """Turn a file into a value for a prediction's input: a `data:` URI.

    Its type is recognised by its first bytes, whatever its name says. A picture that is too large
    is made smaller where Pillow is there (`pip install "prefect-cometapi[images]"`): turned as its
    camera says, without its other metadata, as JPEG, or as WebP where it is transparent. The same
    file gives the same value with the same version of Pillow; where those differ between runs,
    give the prediction a `key`.

    Args:
        file: A path; the bytes of a file; or, with `storage`, a name in it or a `SavedFile` of
            an earlier result.
        storage: Where `file` is, if that is no path of this machine.
        max_bytes: Longest URI, in bytes. The default is what the service documents.

    Raises:
        InvalidInput: It is empty, too large, or can not be read as a picture.
        StorageError: The storage does not hold it, or can not be read.
    """
    return portal.call(ainput_file, file, storage=storage, max_bytes=max_bytes)


@on_background_loop
async def ainput_file(
    file: InputFile, *, storage: Storage | None = None, max_bytes: int = DATA_URI_MOST
) -> str:
    """Async twin of `input_file`."""
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 100:
        raise InvalidInput(f"max_bytes is {max_bytes!r:.80}; it is a number of bytes, from 100 on.")
    if isinstance(file, bytes | bytearray):
        name, content = "the file", bytes(file)
    elif storage is not None:
        name = file.name if isinstance(file, SavedFile) else str(file)
        if isinstance(file, SavedFile) and file.size > FILE_MOST:
            raise _too_large(name, file.size, max_bytes, _NOT_READ)
        content = await _stored(name, storage, max_bytes)
    else:
        path = file.location if isinstance(file, SavedFile) else file
        name, content = str(path), await asyncio.to_thread(_local, path, max_bytes)
    return await asyncio.to_thread(_as_uri, name, content, max_bytes)


async def _stored(name: str, storage: Storage, most: int) -> bytes:
    store = await open_storage(storage)
    try:
        content = await store.read(check_prefix(name), FILE_MOST)
    except TooLarge as error:
        raise _too_large(name, error.size, most, _NOT_READ) from None
    if content is None:
        raise StorageError(f"There is no file {name} in the {store}. Nothing was sent.")
    return content


#: Why a file is not even looked at.
_NOT_READ = f"and files over {FILE_MOST:,} bytes are not even read to be made smaller"


def _local(file: object, most: int) -> bytes:
    if not isinstance(file, str | Path) or not str(file).strip():
        raise InvalidInput(
            f"A {type(file).__name__} is no file: give a path, bytes, or a SavedFile. Nothing was "
            "sent."
        )
    if str(file).startswith("data:") or "://" in str(file):
        raise InvalidInput(
            f"{file!s:.80} is a URI already: give it to the model as it is. What is in a storage "
            "is named with storage=…. Nothing was sent."
        )
    try:
        path = Path(file).expanduser()
        size = path.stat().st_size
        if size > FILE_MOST:
            raise _too_large(str(file), size, most, _NOT_READ)
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character, ~nobody
        if isinstance(error, InvalidInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(
            f"{file} can not be read: {reason}. What is in a storage is named with storage=…. "
            "Nothing was sent."
        ) from None


def _as_uri(name: str, content: bytes, most: int) -> str:
    if not content:
        raise InvalidInput(f"{name} is empty. Nothing was sent.")
    kind = (recognise(content[:HEAD]) or BINARY).media_type
    uri = _uri(kind, content) if len(content) <= most else ""
    if uri and len(uri) <= most:
        return uri
    if kind not in DECODABLE:
        raise _too_large(
            name, len(content), most, f"and it is {kind}, no picture that could be made smaller"
        )
    return _smaller(name, content, kind, most)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _too_large(name: str, size: int | None, most: int, why: str) -> InvalidInput:
    much = f"over {FILE_MOST:,} bytes" if size is None else f"{size:,} bytes"
    return InvalidInput(
        f"{name} has {much}, which is too large: an input may have {most:,} as a data: URI "
        f"(four characters for three bytes), {why}. Put it where the service can fetch it, and "
        "give its URL. Nothing was sent."
    )


# --- pictures ---------------------------------------------------------------------------------


def _smaller(name: str, content: bytes, kind: str, most: int) -> str:
    """A picture as a URI of at most so many characters."""
    if len(content) > FILE_MOST:
        raise _too_large(name, len(content), most, _NOT_READ)
    try:
        from PIL import Image
    except ImportError:
        raise InvalidInput(
            f"{name} has {len(content):,} bytes; an input may have {most:,} as a data: URI (four "
            "characters for three bytes). Pillow, which would make the picture smaller, is not "
            'there: pip install "prefect-cometapi[images]". Nothing was sent.'
        ) from None
    try:
        with Image.open(io.BytesIO(content), formats=[DECODABLE[kind]]) as opened:
            width, height = opened.size
            if width * height > PIXELS_MOST:
                raise _too_large(
                    name, len(content), most, f"and at {width}x{height} it is not decoded"
                )
            picture = upright(opened, SIDE_MOST)
    except InvalidInput:
        raise
    except Exception as error:  # Pillow's decoders raise whatever comes up, from SyntaxError on
        raise InvalidInput(
            f"{name} is {kind} by its first bytes, but can not be read as a picture: "
            f"{type(error).__name__}: {error!s:.200}. Nothing was sent."
        ) from None
    while True:
        for quality in QUALITIES:
            uri = _encoded(picture, quality)
            if len(uri) <= most:
                return uri
        if max(picture.size) * STEP < SIDE_LEAST:
            raise _too_large(
                name, len(content), most, f"and below {SIDE_LEAST} pixels it is of no use"
            )
        picture = picture.resize([max(1, round(side * STEP)) for side in picture.size])


def _encoded(picture: Any, quality: int) -> str:
    buffer, transparent = io.BytesIO(), picture.mode == "RGBA"
    picture.save(buffer, "WEBP" if transparent else "JPEG", quality=quality)
    return _uri("image/webp" if transparent else "image/jpeg", buffer.getvalue())
