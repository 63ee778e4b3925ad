"""Whatever a model makes becomes files, all of it, in a stable order; and what is not the file that
was promised is not taken for it.
"""

import json
from typing import Any

import pytest

from prefect_cometapi.errors import OutputDamaged
from prefect_cometapi.filetypes import JSON
from prefect_cometapi.outputs import Part, decode_data, find_parts, identify

URL = "https://replicate.delivery/xezq/abc/out-0.webp"
URL2 = "http://127.0.0.1:8123/files/out-1.png?sig=SECRET"
PNG = b"\x89PNG\r\n\x1a\n"
PNG_URI = "data:image/png;base64,iVBORw0KGgo="


def text(content: str) -> Part:
    return Part("output", text=content)


def beside(content: object) -> Part:
    return Part("output", text=json.dumps(content, ensure_ascii=False, indent=2), kind=JSON)


def png(where: str) -> Part:
    return Part(where, data=PNG_URI)


OUTPUTS: dict[str, tuple[Any, list[Part]]] = {
    # nothing
    "null": (None, []),
    "no-outputs": ([], []),
    # links
    "url": (URL, [Part("output", url=URL)]),
    "url-upper-case": ("HTTPS://A.example/b", [Part("output", url="HTTPS://A.example/b")]),
    "urls": ([URL, URL2], [Part("output[0]", url=URL), Part("output[1]", url=URL2)]),
    "same-url-twice": ([URL, URL], [Part("output[0]", url=URL), Part("output[1]", url=URL)]),
    "urls-with-gaps": ([None, URL], [Part("output[1]", url=URL)]),
    "object-of-urls": (
        {"mask": URL2, "image": URL},
        [Part("output.mask", url=URL2), Part("output.image", url=URL)],
    ),
    "deep": (
        {"a": [{"b": URL}], "c": None},
        [Part("output.a[0].b", url=URL)],
    ),
    # links and more
    "object-with-more": (
        {"image": URL, "seed": 7},
        [Part("output.image", url=URL), beside({"image": URL, "seed": 7})],
    ),
    "list-with-more": (
        [URL, "a caption"],
        [Part("output[0]", url=URL), beside([URL, "a caption"])],
    ),
    "false-and-zero-say-something": (
        {"image": URL, "nsfw": False, "n": 0},
        [Part("output.image", url=URL), beside({"image": URL, "nsfw": False, "n": 0})],
    ),
    "signatures-and-bytes-are-not-repeated": (
        {"image": URL2, "mask": PNG_URI, "seed": 7},
        [
            Part("output.image", url=URL2),
            png("output.mask"),
            beside({"image": "http://127.0.0.1:8123/files/out-1.png", "mask": "data:…", "seed": 7}),
        ],
    ),
    # text
    "text": ("A paper boat.", [text("A paper boat.")]),
    "empty-text": ("", [text("")]),
    "tokens": (["A", " paper", "", " boat 🛶"], [text("A paper boat 🛶")]),
    "text-that-begins-with-a-url": (f"{URL} is it", [text(f"{URL} is it")]),
    "text-on-lines": (f"{URL}\n{URL}", [text(f"{URL}\n{URL}")]),
    "text-that-begins-like-a-scheme": ("https: a study", [text("https: a study")]),
    "text-that-begins-with-data": (
        "Data: yes, it works",
        [text("Data: yes, it works")],
    ),
    "tokens-one-of-which-begins-with-data": (
        ["Well, ", "data: a, b"],
        [text("Well, data: a, b")],
    ),
    "text-data-without-comma": ("data:", [text("data:")]),
    "other-schemes-are-text": ("ftp://a.example/b", [text("ftp://a.example/b")]),
    "half-an-emoji": ("a\ud83d", [text("a\ud83d")]),
    # data: URIs
    "data-uri": (PNG_URI, [png("output")]),
    "data-uris": ([PNG_URI, PNG_URI], [png("output[0]"), png("output[1]")]),
    # everything else
    "number": (2.5, [beside(2.5)]),
    "zero": (0, [beside(0)]),
    "false": (False, [beside(False)]),
    "object": ({"a": [1, "ü"]}, [beside({"a": [1, "ü"]})]),
    "empty-object": ({}, [beside({})]),
    "numbers": ([1, 2], [beside([1, 2])]),
    "nested-tokens": ([["a"], ["b"]], [beside([["a"], ["b"]])]),
    "half-an-emoji-in-an-object": ({"a": "x\ud83d"}, [beside({"a": "x\ud83d"})]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_find_parts(name: str) -> None:
    output, parts = OUTPUTS[name]
    before = repr(output)
    assert find_parts(output) == parts
    assert find_parts(output) == parts, "the same each time: names are made of the order"
    assert repr(output) == before


@pytest.mark.parametrize(
    ("uri", "content", "media_type"),
    [
        pytest.param(PNG_URI, PNG, "image/png", id="base64"),
        pytest.param("DATA:image/png;BASE64,iVBORw0KGgo=", PNG, "image/png", id="upper-case"),
        pytest.param("data:image/jpeg;base64,iVBORw0KGgo=", PNG, "image/png", id="bytes-win"),
        pytest.param("data:image/png,%89PNG%0D%0A%1A%0A", PNG, "image/png", id="percent"),
        pytest.param("data:image/png;base64,iVBORw0KGgo%3D", PNG, "image/png", id="both"),
        pytest.param("data:text/plain;charset=utf-8,a%2C,b", b"a,,b", "text/plain", id="text"),
        pytest.param("data:,hello", b"hello", "text/plain", id="undeclared-is-text"),
        pytest.param("data:text/html,<html>", b"<html>", "text/html", id="a-page-on-purpose"),
    ],
)
def test_data_uris_are_decoded(uri: str, content: bytes, media_type: str) -> None:
    assert find_parts(uri) == [Part("output", data=uri)]
    decoded, kind = decode_data(uri, "output")
    assert (decoded, kind.media_type) == (content, media_type)


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,",
        "data:image/png;base64,iVBORw0KGg",
        "data:image/png;base64,iVBORw0KGgo=====x",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,AAAA",
        "data:image/png,<html>",
        "data:image/png,",
    ],
)
def test_a_damaged_data_uri_is_no_file(uri: str) -> None:
    with pytest.raises(OutputDamaged, match="output"):
        decode_data(uri, "output")


SOURCE = "https://u:SECRET@replicate.delivery/out.png?sig=SECRET"
HTML = b"<!doctype html><html>...</html>"


@pytest.mark.parametrize(
    ("head", "declared", "source", "media_type"),
    [
        pytest.param(PNG, "image/png", SOURCE, "image/png", id="as-declared"),
        pytest.param(PNG, "image/jpeg", SOURCE, "image/png", id="bytes-win"),
        pytest.param(PNG, "text/html", SOURCE, "image/png", id="bytes-win-over-html"),
        pytest.param(PNG, "", SOURCE, "image/png", id="undeclared"),
        pytest.param(b"a,b\n", "text/csv; x=y", SOURCE, "text/csv", id="declared-alone"),
        pytest.param(b"\0\1", "", SOURCE, "application/octet-stream", id="nothing-known"),
        pytest.param(b"\0\1", "x/y", SOURCE, "application/octet-stream", id="unknown-type"),
        pytest.param(HTML, "", "https://a.example/page.HTML?x", "text/html", id="page-promised"),
        pytest.param(HTML, "", "https://a.example/page.htm", "text/html", id="page-promised-htm"),
        pytest.param(b"<svg/>", "text/html", SOURCE, "image/svg+xml", id="svg"),
    ],
)
def test_identified(head: bytes, declared: str, source: str, media_type: str) -> None:
    assert identify(head, declared, source).media_type == media_type


@pytest.mark.parametrize(
    ("head", "declared", "source", "says"),
    [
        pytest.param(b"", "image/png", SOURCE, "is empty", id="empty"),
        pytest.param(HTML, "text/html", SOURCE, "web page", id="page"),
        pytest.param(HTML, "image/png", SOURCE, "web page", id="page-declared-as-picture"),
        pytest.param(HTML, "", "https://a.example/x?n=a.html", "web page", id="name-in-the-query"),
        pytest.param(
            b"<!-- error --><html>", "text/html", SOURCE, "web page", id="page-after-a-comment"
        ),
        pytest.param(b"Bad gateway", "image/png", SOURCE, "not that", id="words"),
        pytest.param(b"\x89PN", "image/png", SOURCE, "not that", id="cut-in-its-signature"),
        pytest.param(b"\0\1", "IMAGE/WEBP; q=1", SOURCE, "not that", id="declared-any-case"),
        pytest.param(b"\0\1", "video/mp4", "output.video", "not that", id="here-already"),
    ],
)
def test_not_what_was_promised(head: bytes, declared: str, source: str, says: str) -> None:
    with pytest.raises(OutputDamaged, match=says) as caught:
        identify(head, declared, source)
    assert "SECRET" not in str(caught.value)
