"""Every kind of output becomes files that are what they claim to be, or an error that says why."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from prefect_cometapi import pacing, portal, simulator
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    InvalidInput,
    OutputDamaged,
    OutputError,
    OutputExpired,
    OutputRefused,
    OutputUnavailable,
)
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.simulator import FAULTS, Simulator
from prefect_cometapi.stores import Folder
from tests.servers import BOAT, ID, MODEL, PNG, Answer, Request, client_for, serve

SETTING = "PREFECT_INTEGRATIONS_COMETAPI_"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "4")


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator.run(run_time=0.001, speed=5, output_ttl=10_000, retry_after=0.1) as running:
        yield running


async def made_by(sim: Simulator, model: str = MODEL, **more: object) -> Prediction:
    """A prediction of the simulator that succeeded."""
    client = client_for(sim.url)
    found = await client.acreate_prediction(model, BOAT | more)
    while not found.finished:
        await asyncio.sleep(0.01)
        found = await client.aget_prediction(found.id)
    assert found.status is PredictionStatus.SUCCEEDED
    return found


def made_of(output: object, api_root: str = "http://127.0.0.1:1", **more: Any) -> Prediction:
    return Prediction(
        id=ID,
        model=MODEL,
        status=PredictionStatus.SUCCEEDED,
        api_root=api_root,
        output=output,
        **more,
    )


async def save(made: Prediction, folder: Path, prefix: str = "") -> list[SavedFile]:
    client: CometAPIClient = client_for(made.api_root)
    client.notify = lambda _: None
    files = await portal.acall(save_outputs, client, made, Folder(folder), prefix)
    for saved in files:  # what is said of a file is true of it
        content = Path(saved.location).read_bytes()
        assert saved.location == str(folder / saved.name)
        assert saved.size == len(content)
        assert saved.sha256 == hashlib.sha256(content).hexdigest()
    return files


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def kinds(files: Sequence[SavedFile]) -> list[tuple[str, str, str]]:
    return [(saved.name.removeprefix(ID), saved.output, saved.media_type) for saved in files]


# --- what models make -------------------------------------------------------------------------


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
    files = await save(made, tmp_path, "day")
    assert [saved.name for saved in files] == [f"day/{made.id}-{n}.{format_}" for n in range(3)]
    assert [saved.output for saved in files] == [f"output[{n}]" for n in range(3)]
    assert {saved.media_type for saved in files} == {media_type}
    assert len({saved.sha256 for saved in files}) == 3
    assert all(Path(saved.location).read_bytes().startswith(magic) for saved in files)
    assert names(tmp_path) == sorted(saved.name for saved in files)


async def test_one_url(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/url")
    (saved,) = await save(made, tmp_path)
    assert (saved.name, saved.output) == (f"{made.id}-0.webp", "output")


async def test_an_object_with_urls_inside(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/object")
    files = await save(made, tmp_path)
    assert [(saved.output, saved.media_type) for saved in files] == [
        ("output.image", "image/webp"),
        ("output.more.mask", "image/webp"),
        ("output", "application/json"),
    ]
    assert json.loads(Path(files[2].location).read_bytes()) == made.output


@pytest.mark.parametrize("model", ["simulator/text", "simulator/text-tokens"])
async def test_text(sim: Simulator, tmp_path: Path, model: str) -> None:
    made = await made_by(sim, model)
    (saved,) = await save(made, tmp_path)
    assert (saved.name, saved.media_type) == (f"{made.id}-0.txt", "text/plain")
    assert Path(saved.location).read_text() == "A simulated answer to: A paper boat"
    assert sim.counts.downloads == 0


async def test_a_number(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/number")
    (saved,) = await save(made, tmp_path)
    assert (saved.name, saved.media_type) == (f"{made.id}-0.json", "application/json")
    assert json.loads(Path(saved.location).read_bytes()) == made.output


async def test_a_picture_in_a_data_uri(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim, "simulator/data-uri")
    (saved,) = await save(made, tmp_path)
    assert (saved.name, saved.media_type) == (f"{made.id}-0.png", "image/png")
    assert Path(saved.location).read_bytes() == base64.b64decode(made.output.partition(",")[2])


async def test_nothing(sim: Simulator, tmp_path: Path) -> None:
    assert await save(await made_by(sim, "simulator/nothing"), tmp_path) == []
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
    files = await save(made_of(uri), tmp_path)
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
        await save(made_of(uri), tmp_path)
    assert names(tmp_path) == []
    assert len(str(caught.value)) < 1000


async def test_a_data_uri_that_is_broken_keeps_no_other_output_from_being_saved(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputDamaged, match="1 of 2 outputs are saved") as caught:
        await save(made_of([PNG_URI, "data:image/png;base64,!"]), tmp_path)
    assert ID in str(caught.value)
    assert names(tmp_path) == [f"{ID}-0.png"]


async def test_a_data_uri_over_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "MAX_FILE_BYTES", str(len(PNG) - 1))
    with pytest.raises(OutputRefused, match="MAX_FILE_BYTES"):
        await save(made_of(PNG_URI), tmp_path)
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
    files = await save(made_of(output), tmp_path)
    assert kinds(files) == [("-0.txt", "output", "text/plain")]
    assert Path(files[0].location).read_text() == text


@pytest.mark.parametrize(
    "value", [0, False, 3.5, {}, {"a": None}, [1, 2], [[1]], {"a": "text"}, [None], {"a": []}]
)
async def test_what_is_neither_text_nor_url_is_json(value: object, tmp_path: Path) -> None:
    files = await save(made_of(value), tmp_path)
    assert kinds(files) == [("-0.json", "output", "application/json")]
    assert json.loads(Path(files[0].location).read_bytes()) == value


@pytest.mark.parametrize("empty", [None, []])
async def test_no_output_is_no_file(empty: object, tmp_path: Path) -> None:
    assert await save(made_of(empty), tmp_path) == []


async def test_names_come_from_the_prediction_and_never_from_a_url(tmp_path: Path) -> None:
    paths = ["/../../etc/passwd", "/a/%2e%2e%2fx.exe", "/x.png?name=../../y", "/" + "n" * 300, "/"]
    picture = Answer(
        200,
        PNG,
        {"content-type": "image/png", "content-disposition": 'attachment; filename="../z"'},
    )
    with serve(lambda _: picture) as server:
        made = made_of([server.url + path for path in paths], server.url)
        first = await save(made, tmp_path, "p")
        again = await save(made, tmp_path, "p")
    assert names(tmp_path) == [f"p/{ID}-{n}.png" for n in range(len(paths))]
    assert first == again


@pytest.mark.parametrize("status", ["starting", "processing", "failed", "canceled", "aborted"])
async def test_what_has_not_succeeded_is_not_saved(status: str, tmp_path: Path) -> None:
    made = made_of("text").model_copy(update={"status": PredictionStatus(status)})
    with pytest.raises(InvalidInput, match=ID):
        await save(made, tmp_path)


# --- how files may misbehave ------------------------------------------------------------------

#: Faults of one request that are got over, and those that are not.
ONE_TIME = sorted(
    fault.short
    for fault in FAULTS.values()
    if fault.operation == "file"
    and not fault.short.startswith(("redirect", "oversized"))
    and fault.short != "hang"  # waits for the silence limit; see below
)


@pytest.mark.parametrize("fault", ONE_TIME)
async def test_a_fault_that_passes_is_got_over(sim: Simulator, tmp_path: Path, fault: str) -> None:
    made = await made_by(sim)
    sim.script("file", [fault])
    (saved,) = await save(made, tmp_path)
    assert sim.counts.downloads == 2
    assert Path(saved.location).read_bytes().startswith(b"RIFF")
    assert names(tmp_path) == [saved.name]


STAYING: dict[str, type[OutputError]] = {
    "truncated": OutputDamaged,
    "empty": OutputDamaged,
    "html": OutputDamaged,
    "wrong-type": OutputDamaged,
    "hang": OutputUnavailable,
    "lost": OutputUnavailable,
    "500": OutputUnavailable,
    "403": OutputUnavailable,
    "404": OutputExpired,
    "oversized": OutputRefused,
    "oversized-chunked": OutputRefused,
    "redirect-away": OutputRefused,
    "redirect-loop": OutputRefused,
}


@pytest.mark.parametrize(("fault", "error"), STAYING.items())
async def test_a_fault_that_stays_is_told_and_leaves_nothing(
    fault: str,
    error: type[OutputError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those that may pass are tried for as long as that.
    patience = "1" if fault in ("hang", "lost", "500") else "4"
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", patience)
    monkeypatch.setenv(SETTING + "MAX_FILE_BYTES", "2000000")
    with simulator.run(run_time=0.001, oversize=3_000_000) as sim:
        made = await made_by(sim)
        sim.set_fault(f"file.{fault}", 1.0)
        started = time.monotonic()
        with pytest.raises(OutputError) as caught:
            await save(made, tmp_path)
        assert caught.type is error
        assert time.monotonic() - started < 8
        assert made.id in str(caught.value)
        assert "0 of 1 outputs are saved" in str(caught.value)
        assert names(tmp_path) == []
        assert sim.counts.accepted == 1
        if error is not OutputExpired:
            assert "fetches them again, for free" in str(caught.value)
            sim.clear_faults()  # and calling again is all it takes
            monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "20")
            assert len(await save(made, tmp_path)) == 1


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second."""
    monkeypatch.setattr(pacing, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(pacing, "RETRY_MAX", 0.02)


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """A handler that gives one answer after another, and the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


PASSING = [Answer(500), Answer(502), Answer(503), Answer(429), Answer(end="drop")]
REFUSED = [Answer(401), Answer(403), Answer(404), Answer(410), Answer(418), Answer(200, b"")]


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("trouble", PASSING, ids=lambda answer: f"{answer.status} {answer.end}")
async def test_trouble_that_passes_is_waited_out_while_the_output_is_there(
    trouble: Answer, tmp_path: Path
) -> None:
    with serve(in_turn(*[trouble] * 30, Answer(200, PNG))) as server:
        assert len(await save(made_of(server.url, server.url), tmp_path)) == 1
        assert len(server.requests) == 31


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("trouble", PASSING, ids=lambda answer: f"{answer.status} {answer.end}")
async def test_trouble_that_stays_is_given_up_when_the_time_is_up(
    trouble: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "0.5")
    with serve(lambda _: trouble) as server:
        started = time.monotonic()
        with pytest.raises(OutputUnavailable, match="could not be fetched"):
            await save(made_of(server.url, server.url), tmp_path)
        assert 0.3 < time.monotonic() - started < 3
        assert len(server.requests) > 8


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize("refusal", REFUSED, ids=lambda answer: str(answer.status))
async def test_a_refusal_is_asked_for_three_times_whatever_trouble_there_was(
    refusal: Answer, tmp_path: Path
) -> None:
    with serve(lambda _: refusal) as server:
        with pytest.raises(OutputError):
            await save(made_of(server.url, server.url), tmp_path)
        assert len(server.requests) == 3
    trouble = [Answer(503)] * 5
    with serve(in_turn(*trouble, refusal, *trouble, refusal, Answer(200, PNG))) as server:
        assert len(await save(made_of(server.url, server.url), tmp_path)) == 1


@pytest.mark.usefixtures("in_a_hurry")
async def test_a_delivery_host_that_asks_to_wait_is_waited_for(tmp_path: Path) -> None:
    busy = Answer(429, b"", {"retry-after": "1"})
    with serve(in_turn(busy, Answer(200, PNG))) as server:
        started = time.monotonic()
        assert len(await save(made_of(server.url, server.url), tmp_path)) == 1
        assert 1 <= time.monotonic() - started < 3


@pytest.mark.usefixtures("in_a_hurry")
@pytest.mark.parametrize(("cap", "requests"), [("0.05", 2), ("60", 1)])
async def test_a_wait_is_capped_and_one_that_is_longer_than_the_time_left_is_not_begun(
    cap: str, requests: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "RETRY_AFTER_CAP", cap)
    busy = Answer(429, b"", {"retry-after": "30"})
    with serve(in_turn(busy, Answer(200, PNG))) as server:
        started = time.monotonic()
        if requests == 2:
            await save(made_of(server.url, server.url), tmp_path)
        else:
            with pytest.raises(OutputUnavailable, match="answered 429"):
                await save(made_of(server.url, server.url), tmp_path)
        assert time.monotonic() - started < 2
        assert len(server.requests) == requests


async def test_an_error_is_not_its_own_cause(tmp_path: Path) -> None:
    # Whoever follows such a chain to its end follows it for ever.
    with serve(lambda _: Answer(200, b"")) as server, pytest.raises(OutputDamaged) as caught:
        await save(made_of(server.url, server.url), tmp_path)
    error: BaseException | None = caught.value
    for _ in range(20):
        error = error and error.__cause__
    assert error is None


async def test_an_oversized_file_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "MAX_FILE_BYTES", "1000000")
    declared = Answer(200, PNG, {"content-type": "image/png"}, end="hang", length=10**15)
    with serve(lambda _: declared) as server:
        started = time.monotonic()
        with pytest.raises(OutputRefused, match="MAX_FILE_BYTES"):
            await save(made_of(server.url, server.url), tmp_path)
        assert time.monotonic() - started < 2  # by its declared length, at once
        assert len(server.requests) == 1


async def test_a_file_of_exactly_the_limit_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "MAX_FILE_BYTES", str(len(PNG)))
    with serve(lambda _: Answer(200, PNG)) as server:
        assert len(await save(made_of(server.url, server.url), tmp_path)) == 1


async def test_a_redirect_within_is_followed(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim)
    sim.script("file", ["redirect"])
    assert len(await save(made, tmp_path)) == 1
    assert sim.counts.downloads == 2


async def test_a_redirect_to_a_foreign_host_over_http_is_refused(tmp_path: Path) -> None:
    away = Answer(302, b"", {"location": "http://example.com/out.png?signature=secret"})
    with serve(lambda _: away) as server:
        with pytest.raises(OutputRefused, match=r"http://example.com/out.png") as caught:
            await save(made_of(f"{server.url}/a", server.url), tmp_path)
        assert len(server.requests) == 1
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/x",
        "https://0x0a000001/x",
        "file:///etc/passwd",
        "ftp://example.com/x",
        "https://user:word@example.com/x",
        "//10.0.0.1/x",
    ],
)
async def test_a_redirect_into_somebodys_network_is_refused(target: str, tmp_path: Path) -> None:
    with serve(lambda _: Answer(302, b"", {"location": target})) as server:
        with pytest.raises(OutputRefused) as caught:
            await save(made_of(f"{server.url}/a", server.url), tmp_path)
        assert len(server.requests) == 1
    assert "word" not in str(caught.value)
    assert names(tmp_path) == []


async def test_an_output_in_somebodys_network_is_not_asked_for(tmp_path: Path) -> None:
    with serve(lambda _: Answer(200, PNG)) as server:
        made = made_of(f"{server.url}/x.png", "https://api.comet.test")
        with pytest.raises(OutputRefused, match="only with the simulator"):
            await save(made, tmp_path)
        assert server.connections == 0


async def test_five_redirects_are_followed_and_no_more(tmp_path: Path) -> None:
    def handler(request: Request) -> Answer:
        left = int(request.target.strip("/"))
        if left == 0:
            return Answer(200, PNG)
        return Answer(307, b"", {"location": f"/{left - 1}"})

    with serve(handler) as server:
        assert len(await save(made_of(f"{server.url}/5", server.url), tmp_path)) == 1
        with pytest.raises(OutputRefused, match="more than 5 times"):
            await save(made_of(f"{server.url}/6", server.url), tmp_path)
        assert len(server.requests) == 12


@pytest.mark.parametrize(
    ("body", "declared", "path", "kind"),
    [
        (PNG, "image/webp", "/x.webp", ("png", "image/png")),  # the bytes decide
        (PNG, "text/html", "/x.html", ("png", "image/png")),
        (PNG, "", "/x", ("png", "image/png")),
        (b"words", "text/plain; charset=utf-8", "/x.png", ("txt", "text/plain")),
        (b"\x00\x01", "", "/x.png", ("bin", "application/octet-stream")),
        (b"\x00\x01", "no such/type", "/x", ("bin", "application/octet-stream")),
        (b"<html>ordered</html>", "text/html", "/page.html", ("html", "text/html")),
        (b"<svg xmlns='x'/>", "text/plain", "/x", ("svg", "image/svg+xml")),
    ],
)
async def test_a_file_is_what_its_first_bytes_say(
    body: bytes, declared: str, path: str, kind: tuple[str, str], tmp_path: Path
) -> None:
    with serve(lambda _: Answer(200, body, {"content-type": declared})) as server:
        (saved,) = await save(made_of(server.url + path, server.url), tmp_path)
    assert (saved.name, saved.media_type) == (f"{ID}-0.{kind[0]}", kind[1])
    assert Path(saved.location).read_bytes() == body


async def test_a_file_that_is_not_the_picture_it_is_declared_as_is_damaged(tmp_path: Path) -> None:
    broken = Answer(200, b"\x00" * 100, {"content-type": "image/png"})
    with serve(lambda _: broken) as server:
        with pytest.raises(OutputDamaged, match="declared as image/png"):
            await save(made_of(server.url, server.url), tmp_path)
        assert len(server.requests) == 3  # a delivery host may lag behind
    assert names(tmp_path) == []


async def test_a_host_that_stands_still_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING + "DOWNLOAD_TIMEOUT", "0.5")
    with serve(lambda _: Answer(200, PNG, end="hang", length=10_000)) as server:
        started = time.monotonic()
        with pytest.raises(OutputUnavailable, match="did not arrive within"):
            await save(made_of(server.url, server.url), tmp_path)
        assert time.monotonic() - started < 5
    assert names(tmp_path) == []


async def test_files_are_asked_for_as_they_are(tmp_path: Path) -> None:
    with serve(lambda _: Answer(200, PNG)) as server:
        await save(made_of(server.url, server.url), tmp_path)
        assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_a_signature_in_a_url_is_in_no_message(tmp_path: Path) -> None:
    with serve(lambda _: Answer(200, b"")) as server, pytest.raises(OutputDamaged) as caught:
        await save(made_of(f"{server.url}/x.png?signature=s3cr3t", server.url), tmp_path)
    assert "s3cr3t" not in str(caught.value)


# --- several, and too late --------------------------------------------------------------------


async def test_one_that_fails_does_not_keep_the_others_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"/0", "/2"}

    def handler(request: Request) -> Answer:
        return Answer(200, PNG if request.target in good else b"")

    with serve(handler) as server:
        made = made_of([f"{server.url}/{n}" for n in range(3)], server.url)
        with pytest.raises(OutputDamaged, match="2 of 3 outputs are saved") as caught:
            await save(made, tmp_path)
        assert ID in str(caught.value)
        assert f"{server.url}/1" in str(caught.value)
        assert names(tmp_path) == [f"{ID}-0.png", f"{ID}-2.png"]
        good.add("/1")
        files = await save(made, tmp_path)
    assert [saved.name for saved in files] == [f"{ID}-{n}.png" for n in range(3)]
    assert names(tmp_path) == [f"{ID}-{n}.png" for n in range(3)]


async def test_outputs_that_are_deleted_are_expired(tmp_path: Path) -> None:
    with simulator.run(run_time=0.001, output_ttl=0.2) as sim:
        made = await made_by(sim)
        await asyncio.sleep(0.4)
        with pytest.raises(OutputExpired, match="at a new price") as caught:
            await save(made, tmp_path)  # known by its URLs, which are dead
        assert "fetches them again" not in str(caught.value)
        gone = await client_for(sim.url).aget_prediction(made.id)
        downloads = sim.counts.downloads
        with pytest.raises(OutputExpired, match="one hour after completion"):
            await save(gone, tmp_path)
        assert sim.counts.downloads == downloads
    assert names(tmp_path) == []


async def test_downloads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING + "DOWNLOADS_IN_FLIGHT", "2")

    async def handler(_: Request) -> Answer:
        await asyncio.sleep(0.05)
        return Answer(200, PNG)

    with serve(handler) as server:
        made = made_of([f"{server.url}/{n}" for n in range(8)], server.url)
        assert len(await save(made, tmp_path)) == 8
        assert server.most_under_way == 2
