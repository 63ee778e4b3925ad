"""Every kind of output becomes files: pictures, text, numbers, objects and data URIs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from prefect_cometapi.errors import InvalidInput, OutputDamaged, OutputRefused
from prefect_cometapi.models import PredictionStatus, SavedFile
from prefect_cometapi.simulator import Simulator
from tests.servers import ID, PNG, Answer, configure, made_of, serve
from tests.storages import made_by, names, save_in


def kinds(files: Sequence[SavedFile]) -> list[tuple[str, str, str]]:
    return [(saved.name.removeprefix(ID), saved.output, saved.media_type) for saved in files]


@pytest.mark.parametrize(
    ("format_", "media_type", "magic"),
    [
        ("webp", "image/webp", b"RIFF"),
        ("png", "image/png", b"\x89PNG"),
        ("jpg", "image/jpeg", b"\xff\xd8"),
    ],
)
async def test_a_list_of_urls(
    sim: Simulator, tmp_path: Path, format_: str, media_type: str, magic: bytes
) -> None:
    made = await made_by(sim, num_outputs=3, output_format=format_)
    files = await save_in(made, tmp_path, "day")
    assert [saved.name for saved in files] == [f"day/{made.id}-{n}.{format_}" for n in range(3)]
    assert [saved.output for saved in files] == [f"output[{n}]" for n in range(3)]
    assert {saved.media_type for saved in files} == {media_type}
    assert len({saved.sha256 for saved in files}) == 3
    assert all(Path(saved.location).read_bytes().startswith(magic) for saved in files)
    assert names(tmp_path) == sorted(saved.name for saved in files)


async def test_one_url(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/url")
    (saved,) = await save_in(made, tmp_path)
    assert (saved.name, saved.output) == (f"{made.id}-0.webp", "output")


async def test_an_object_with_urls_inside(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/object")
    files = await save_in(made, tmp_path)
    assert [(saved.output, saved.media_type) for saved in files] == [
        ("output.image", "image/webp"),
        ("output.more.mask", "image/webp"),
        ("output", "application/json"),
    ]
    assert json.loads(Path(files[2].location).read_bytes()) == made.output


@pytest.mark.parametrize("model", ["simulator/text", "simulator/text-tokens"])
async def test_text(sim: Simulator, tmp_path: Path, model: str) -> None:
    made = await made_by(sim, model)
    (saved,) = await save_in(made, tmp_path)
    assert (saved.name, saved.media_type) == (f"{made.id}-0.txt", "text/plain")
    assert Path(saved.location).read_text() == "A simulated answer to: A paper boat"
    assert sim.counts.downloads == 0


async def test_a_number(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/number")
    (saved,) = await save_in(made, tmp_path)
    assert (saved.name, saved.media_type) == (f"{made.id}-0.json", "application/json")
    assert json.loads(Path(saved.location).read_bytes()) == made.output


async def test_a_picture_in_a_data_uri(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/data-uri")
    (saved,) = await save_in(made, tmp_path)
    assert (saved.name, saved.media_type) == (f"{made.id}-0.png", "image/png")
    assert Path(saved.location).read_bytes() == base64.b64decode(made.output.partition(",")[2])


async def test_nothing(sim: Simulator, tmp_path: Path) -> None:
    assert await save_in(await made_by(sim, "simulator/nothing"), tmp_path) == []
    assert names(tmp_path) == []


PNG_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("uri", "name", "media_type", "content"),
    [
        (PNG_URI, "-0.png", "image/png", PNG),
        (PNG_URI.replace("data:image/png", "DATA:Image/PNG"), "-0.png", "image/png", PNG),
        (PNG_URI[:22] + quote(PNG_URI[22:], safe=""), "-0.png", "image/png", PNG),
        ("data:text/plain,A%20boat,%20small", "-0.txt", "text/plain", b"A boat, small"),
        ("data:,boat", "-0.txt", "text/plain", b"boat"),  # RFC 2397
        ("data:text/plain;charset=utf-8;base64,Ym9hdA==", "-0.txt", "text/plain", b"boat"),
        ("data:application/json,%7B%7D", "-0.json", "application/json", b"{}"),
        # Its first bytes are believed before what is said of them.
        (PNG_URI.replace("image/png", "image/webp"), "-0.png", "image/png", PNG),
        (PNG_URI.replace("image/png", ""), "-0.png", "image/png", PNG),
    ],
)
async def test_data_uris(
    uri: str, name: str, media_type: str, content: bytes, tmp_path: Path
) -> None:
    files = await save_in(made_of(uri), tmp_path)
    assert kinds(files) == [(name, "output", media_type)]
    assert Path(files[0].location).read_bytes() == content


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,not base64!",
        "data:image/png;base64,abc",
        "data:image/png;base64,",
        "data:image/png,no picture",
        "data:image/png;base64," + base64.b64encode(b"<html>sorry</html>").decode(),
    ],
)
async def test_a_data_uri_that_is_broken_is_damaged(uri: str, tmp_path: Path) -> None:
    with pytest.raises(OutputDamaged) as caught:
        await save_in(made_of(uri), tmp_path)
    assert names(tmp_path) == []
    assert len(str(caught.value)) < 1000


async def test_a_data_uri_that_is_broken_keeps_no_other_output_from_being_saved(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputDamaged, match="1 of 2 outputs are saved") as caught:
        await save_in(made_of([PNG_URI, "data:image/png;base64,!"]), tmp_path)
    assert ID in str(caught.value)
    assert names(tmp_path) == [f"{ID}-0.png"]


async def test_a_data_uri_over_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, max_file_bytes=len(PNG) - 1)
    with pytest.raises(OutputRefused, match="MAX_FILE_BYTES"):
        await save_in(made_of(PNG_URI), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "A boat.",
        "See https://example.com for more",
        "Data: apples, pears and plums",
        "data: the first line, and the second\n",
        "Übergröße \N{SAILBOAT}",
        "C:\\boat",
        "{}",
    ],
)
@pytest.mark.parametrize("tokens", [False, True])
async def test_text_is_saved_as_it_is(text: str, tokens: bool, tmp_path: Path) -> None:
    output: object = [text[:3], text[3:]] if tokens else text
    files = await save_in(made_of(output), tmp_path)
    assert kinds(files) == [("-0.txt", "output", "text/plain")]
    assert Path(files[0].location).read_text() == text


@pytest.mark.parametrize(
    "value", [0, False, 3.5, {}, {"a": None}, [1, 2], [[1]], {"a": "text"}, [None], {"a": []}]
)
async def test_what_is_neither_text_nor_url_is_json(value: object, tmp_path: Path) -> None:
    files = await save_in(made_of(value), tmp_path)
    assert kinds(files) == [("-0.json", "output", "application/json")]
    assert json.loads(Path(files[0].location).read_bytes()) == value


@pytest.mark.parametrize("empty", [None, []])
async def test_no_output_is_no_file(empty: object, tmp_path: Path) -> None:
    assert await save_in(made_of(empty), tmp_path) == []


async def test_names_come_from_the_prediction_and_never_from_a_url(tmp_path: Path) -> None:
    paths = ["/../../etc/passwd", "/a/%2e%2e%2fx.exe", "/x.png?name=../../y", "/" + "n" * 300, "/"]
    picture = Answer(
        200,
        PNG,
        {"content-type": "image/png", "content-disposition": 'attachment; filename="../z"'},
    )
    with serve(lambda _: picture) as server:
        made = made_of([server.url + path for path in paths], server.url)
        first = await save_in(made, tmp_path, "p")
        again = await save_in(made, tmp_path, "p")
    assert names(tmp_path) == [f"p/{ID}-{n}.png" for n in range(len(paths))]
    assert first == again


@pytest.mark.parametrize("status", ["starting", "processing", "failed", "canceled", "aborted"])
async def test_what_has_not_succeeded_is_not_saved(status: str, tmp_path: Path) -> None:
    made = made_of("text").model_copy(update={"status": PredictionStatus(status)})
    with pytest.raises(InvalidInput, match=ID):
        await save_in(made, tmp_path)
