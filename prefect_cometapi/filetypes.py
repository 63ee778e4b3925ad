"""What a file is, by its first bytes. Pure; the standard library has no such table (any more)."""

from __future__ import annotations

import mimetypes
import re
from typing import NamedTuple


class FileType(NamedTuple):
    """A media type and the extension that files of it get."""

    media_type: str
    extension: str


#: How many first bytes `recognise` wants to see.
HEAD = 512

#: (offset, first bytes, type), the more telling first.
_SIGNATURES: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", FileType("image/png", "png")),
    (0, b"\xff\xd8\xff", FileType("image/jpeg", "jpg")),
    (8, b"WEBP", FileType("image/webp", "webp")),
    (8, b"WAVE", FileType("audio/wav", "wav")),
    (8, b"AVI ", FileType("video/x-msvideo", "avi")),
    (0, b"GIF87a", FileType("image/gif", "gif")),
    (0, b"GIF89a", FileType("image/gif", "gif")),
    (4, b"ftypavif", FileType("image/avif", "avif")),
    (4, b"ftypavis", FileType("image/avif", "avif")),
    (4, b"ftypheic", FileType("image/heic", "heic")),
    (4, b"ftypheix", FileType("image/heic", "heic")),
    (4, b"ftyphevc", FileType("image/heic", "heic")),
    (4, b"ftypmif1", FileType("image/heif", "heif")),
    (4, b"ftypM4A ", FileType("audio/mp4", "m4a")),
    (4, b"ftypqt  ", FileType("video/quicktime", "mov")),
    (4, b"ftyp", FileType("video/mp4", "mp4")),
    (0, b"\x1a\x45\xdf\xa3", FileType("video/webm", "webm")),
    (0, b"II*\x00", FileType("image/tiff", "tiff")),
    (0, b"MM\x00*", FileType("image/tiff", "tiff")),
    (0, b"ID3", FileType("audio/mpeg", "mp3")),
    (0, b"\xff\xfb", FileType("audio/mpeg", "mp3")),
    (0, b"\xff\xfa", FileType("audio/mpeg", "mp3")),
    (0, b"\xff\xf3", FileType("audio/mpeg", "mp3")),
    (0, b"\xff\xf2", FileType("audio/mpeg", "mp3")),
    (0, b"OggS", FileType("audio/ogg", "ogg")),
    (0, b"fLaC", FileType("audio/flac", "flac")),
    (0, b"%PDF-", FileType("application/pdf", "pdf")),
    (0, b"glTF", FileType("model/gltf-binary", "glb")),
    (0, b"8BPS", FileType("image/vnd.adobe.photoshop", "psd")),
    (0, b"PK\x03\x04", FileType("application/zip", "zip")),
    (0, b"\x1f\x8b", FileType("application/gzip", "gz")),
    (6, b"\0\0\0\0", FileType("image/bmp", "bmp")),
)
_SVG = re.compile(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg\b", re.DOTALL)
#: Types whose telling bytes stand further in, after a beginning of their own.
_BEGINNINGS = {"webp": b"RIFF", "wav": b"RIFF", "avi": b"RIFF", "bmp": b"BM"}

HTML = FileType("text/html", "html")
SVG = FileType("image/svg+xml", "svg")
JSON = FileType("application/json", "json")
TEXT = FileType("text/plain", "txt")
BINARY = FileType("application/octet-stream", "bin")

#: Declared types that their first bytes must bear out.
RECOGNISABLE = {kind.media_type for _, _, kind in _SIGNATURES} | {"image/jpg", "audio/x-wav"}


def recognise(head: bytes) -> FileType | None:
    """The type that the first bytes of a file show, or None where they show none."""
    for offset, signature, kind in _SIGNATURES:
        beginning = _BEGINNINGS.get(kind.extension, b"")
        if head.startswith(signature, offset) and head.startswith(beginning):
            return kind
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"(<!doctype html|<html|<head|<body)", start):
        return HTML
    return SVG if _SVG.match(start) else None


def by_declaration(media_type: str) -> FileType:
    """The type for a declared media type; for files whose bytes show none."""
    declared = media_type.partition(";")[0].strip().lower()
    extension = mimetypes.guess_extension(declared) if declared else None
    return FileType(declared, extension[1:]) if extension else BINARY
