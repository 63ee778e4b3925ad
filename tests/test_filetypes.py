"""A file is what its first bytes say; where they say nothing, nothing is made up."""

import pytest

from prefect_cometapi.filetypes import (
    BINARY,
    HEAD,
    RECOGNISABLE,
    by_declaration,
    recognise,
)

HEADS: dict[str, tuple[bytes, str, str]] = {
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png", "png"),
    "jpeg-jfif": (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg", "jpg"),
    "jpeg-exif": (b"\xff\xd8\xff\xe1..Exif", "image/jpeg", "jpg"),
    "webp": (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp", "webp"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav", "wav"),
    "avi": (b"RIFF\x24\0\0\0AVI LIST", "video/x-msvideo", "avi"),
    "gif87": (b"GIF87a\1\0", "image/gif", "gif"),
    "gif89": (b"GIF89a\1\0", "image/gif", "gif"),
    "avif": (b"\0\0\0\x20ftypavif", "image/avif", "avif"),
    "heic": (b"\0\0\0\x20ftypheic", "image/heic", "heic"),
    "heif": (b"\0\0\0\x20ftypmif1", "image/heif", "heif"),
    "m4a": (b"\0\0\0\x20ftypM4A ", "audio/mp4", "m4a"),
    "mov": (b"\0\0\0\x20ftypqt  ", "video/quicktime", "mov"),
    "mp4-isom": (b"\0\0\0\x20ftypisom", "video/mp4", "mp4"),
    "mp4-mp42": (b"\0\0\0\x18ftypmp42", "video/mp4", "mp4"),
    "webm": (b"\x1a\x45\xdf\xa3\x9fB\x86", "video/webm", "webm"),
    "tiff-little": (b"II*\0\x08\0", "image/tiff", "tiff"),
    "tiff-big": (b"MM\0*\0\0", "image/tiff", "tiff"),
    "mp3-tagged": (b"ID3\x04\0\0", "audio/mpeg", "mp3"),
    "mp3-mpeg1": (b"\xff\xfb\x90\x64", "audio/mpeg", "mp3"),
    "mp3-mpeg1-checksum": (b"\xff\xfa\x90\x64", "audio/mpeg", "mp3"),
    "mp3-mpeg2": (b"\xff\xf3\x84\x64", "audio/mpeg", "mp3"),
    "mp3-mpeg2-checksum": (b"\xff\xf2\x84\x64", "audio/mpeg", "mp3"),
    "ogg": (b"OggS\0\2", "audio/ogg", "ogg"),
    "flac": (b"fLaC\0\0", "audio/flac", "flac"),
    "pdf": (b"%PDF-1.7\n", "application/pdf", "pdf"),
    "glb": (b"glTF\2\0\0\0", "model/gltf-binary", "glb"),
    "psd": (b"8BPS\0\1", "image/vnd.adobe.photoshop", "psd"),
    "zip": (b"PK\3\4\x14\0", "application/zip", "zip"),
    "gzip": (b"\x1f\x8b\x08\0", "application/gzip", "gz"),
    "bmp": (b"BM\x36\0\x0c\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "image/bmp", "bmp"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg">', "image/svg+xml", "svg"),
    "svg-declared": (
        b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- by hand -->\n<!DOCTYPE svg PUBLIC "x">\n<svg>',
        "image/svg+xml",
        "svg",
    ),
    "html": (b"<!doctype html><html>...</html>", "text/html", "html"),
    "html-upper-case": (b'\xef\xbb\xbf \r\n<!DOCTYPE HTML PUBLIC "x">', "text/html", "html"),
    "html-bare": (b"<html lang=en>", "text/html", "html"),
    "html-head": (b"<head><title>502", "text/html", "html"),
    "html-body": (b"<body>Bad gateway", "text/html", "html"),
}


@pytest.mark.parametrize("name", HEADS)
def test_recognised(name: str) -> None:
    head, media_type, extension = HEADS[name]
    assert recognise(head) == (media_type, extension)
    assert recognise(head + bytes(range(256)) * 4) == (media_type, extension)
    assert len(head) <= HEAD


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x89",
        b"\x89PNG",
        b"RIFF",
        b"RIFF\x24\0\0\0",
        b"RIFF\x24\0\0\0XXXX",
        b"LIST\x24\0\0\0WEBP",
        b"12345678WAVE of the hand",
        b"....ftyq",
        b"hello",
        b'{"a": 1}',
        b"<?xml version='1.0'?><rss>",
        b"<p>a < b</p>",
        b"I said <svg>",
        b"BMW is a maker of cars.\n",
        b"\0" * HEAD,
        b"\xff\xfe\0",
        b"\xef\xbb\xbf",
    ],
    ids=lambda head: repr(head[:24]),
)
def test_not_recognised(head: bytes) -> None:
    assert recognise(head) is None


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("", BINARY),
        (";", BINARY),
        ("application/octet-stream", BINARY),
        ("binary/octet-stream", BINARY),
        ("no/such-type", BINARY),
        ("../../etc/passwd", BINARY),
        ("application/json", ("application/json", "json")),
        ("text/plain; charset=utf-8", ("text/plain", "txt")),
        (" TEXT/Plain ", ("text/plain", "txt")),
        ("text/csv", ("text/csv", "csv")),
    ],
)
def test_by_declaration(declared: str, kind: tuple[str, str]) -> None:
    assert by_declaration(declared) == kind


def test_what_can_be_recognised_has_to_be() -> None:
    shown = {media_type for _, media_type, _ in HEADS.values()} - {"image/svg+xml", "text/html"}
    assert shown <= RECOGNISABLE
    assert not {"text/plain", "application/json", "application/octet-stream"} & RECOGNISABLE


@pytest.mark.parametrize("name", HEADS)
def test_extensions_can_be_part_of_a_name(name: str) -> None:
    assert HEADS[name][2].isalnum()
