"""A file is what it claims to be, no larger than it may be, and from where it may come."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from prefect_cometapi.errors import OutputDamaged, OutputRefused
from prefect_cometapi.simulator import Simulator
from tests.servers import ID, PNG, Answer, Request, configure, made_of, serve
from tests.storages import made_by, names, save_in


async def test_an_oversized_file_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, max_file_bytes=1000000)
    declared = Answer(200, PNG, {"content-type": "image/png"}, end="hang", length=10**15)
    with serve(lambda _: declared) as server:
        started = time.monotonic()
        with pytest.raises(OutputRefused, match="MAX_FILE_BYTES"):
            await save_in(made_of(server.url, server.url), tmp_path)
        assert time.monotonic() - started < 2  # by its declared length, at once
        assert len(server.requests) == 1


async def test_a_file_of_exactly_the_limit_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, max_file_bytes=len(PNG))
    with serve(lambda _: Answer(200, PNG)) as server:
        assert len(await save_in(made_of(server.url, server.url), tmp_path)) == 1


async def test_a_redirect_within_is_followed(sim: Simulator, tmp_path: Path) -> None:
    made = await made_by(sim)
    sim.script("file", ["redirect"])
    assert len(await save_in(made, tmp_path)) == 1
    assert sim.counts.downloads == 2


async def test_a_redirect_to_a_foreign_host_over_http_is_refused(tmp_path: Path) -> None:
    away = Answer(302, b"", {"location": "http://example.com/out.png?signature=secret"})
    with serve(lambda _: away) as server:
        with pytest.raises(OutputRefused, match=r"http://example.com/out.png") as caught:
            await save_in(made_of(f"{server.url}/a", server.url), tmp_path)
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
            await save_in(made_of(f"{server.url}/a", server.url), tmp_path)
        assert len(server.requests) == 1
    assert "word" not in str(caught.value)
    assert names(tmp_path) == []


async def test_an_output_in_somebodys_network_is_not_asked_for(tmp_path: Path) -> None:
    with serve(lambda _: Answer(200, PNG)) as server:
        made = made_of(f"{server.url}/x.png", "https://api.comet.test")
        with pytest.raises(OutputRefused, match="only with the simulator"):
            await save_in(made, tmp_path)
        assert server.connections == 0


async def test_five_redirects_are_followed_and_no_more(tmp_path: Path) -> None:
    def handler(request: Request) -> Answer:
        left = int(request.target.strip("/"))
        if left == 0:
            return Answer(200, PNG)
        return Answer(307, b"", {"location": f"/{left - 1}"})

    with serve(handler) as server:
        assert len(await save_in(made_of(f"{server.url}/5", server.url), tmp_path)) == 1
        with pytest.raises(OutputRefused, match="more than 5 times"):
            await save_in(made_of(f"{server.url}/6", server.url), tmp_path)
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
        (saved,) = await save_in(made_of(server.url + path, server.url), tmp_path)
    assert (saved.name, saved.media_type) == (f"{ID}-0.{kind[0]}", kind[1])
    assert Path(saved.location).read_bytes() == body


async def test_a_file_that_is_not_the_picture_it_is_declared_as_is_damaged(tmp_path: Path) -> None:
    broken = Answer(200, b"\x00" * 100, {"content-type": "image/png"})
    with serve(lambda _: broken) as server:
        with pytest.raises(OutputDamaged, match="declared as image/png"):
            await save_in(made_of(server.url, server.url), tmp_path)
        assert len(server.requests) == 3  # a delivery host may lag behind
    assert names(tmp_path) == []


async def test_files_are_asked_for_as_they_are(tmp_path: Path) -> None:
    with serve(lambda _: Answer(200, PNG)) as server:
        await save_in(made_of(server.url, server.url), tmp_path)
        assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_a_signature_in_a_url_is_in_no_message(tmp_path: Path) -> None:
    with serve(lambda _: Answer(200, b"")) as server, pytest.raises(OutputDamaged) as caught:
        await save_in(made_of(f"{server.url}/x.png?signature=s3cr3t", server.url), tmp_path)
    assert "s3cr3t" not in str(caught.value)
