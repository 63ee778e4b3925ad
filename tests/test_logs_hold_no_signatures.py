"""What httpx and httpcore log of this package's requests, at DEBUG, holds no query and no header
value of a response; what other code of the process logs with them is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prefect_cometapi import portal
from prefect_cometapi.errors import CometAPIError
from prefect_cometapi.log_hygiene import BACKGROUND_THREAD
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.stores import Folder
from tests.servers import (
    ID,
    KEY,
    PNG,
    Answer,
    Request,
    Server,
    client_for,
    configure,
    made_of,
    prediction,
    reply,
    serve,
)

SECRET = "s1gn4ture"
LOGGERS = ("httpx", "httpcore", "httpcore.connection", "httpcore.http11", "httpcore.proxy")


class Lines(logging.Handler):
    """Every record, formatted and as it is."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.records.append(repr(record.__dict__))

    def all(self) -> str:
        return "\n".join([*self.lines, *self.records])


@pytest.fixture
def log() -> Iterator[Lines]:
    lines = Lines()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(each, each.level, each.disabled, each.propagate) for each in loggers]
    for each in loggers:
        each.addHandler(lines)
        each.setLevel(logging.DEBUG)
        each.disabled, each.propagate = False, False
    yield lines
    for each, level, disabled, propagate in before:
        each.removeHandler(lines)
        each.setLevel(level)
        each.disabled, each.propagate = disabled, propagate


def save(server: Server, path: str, folder: Path) -> None:
    client = client_for(server.url)
    client.notify = lambda _: None
    made = made_of(server.url + path, server.url)
    portal.call(save_outputs, client, made, Folder(folder))


def files(request: Request) -> Answer:
    if request.target.startswith("/redirect"):
        location = f"/file.png?X-Amz-Signature={SECRET}"
        return Answer(302, b"", {"location": location, "set-cookie": f"a={SECRET}"})
    return Answer(200, PNG, {"content-type": "image/png", "x-echo": SECRET})


def test_signed_urls_and_redirects_leave_no_signature(log: Lines, tmp_path: Path) -> None:
    with serve(files) as server:
        save(server, f"/redirect?sig={SECRET}#{SECRET}", tmp_path)
        assert [SECRET in request.target for request in server.requests] == [True, True]
        assert SECRET not in log.all()
        # What is left is worth reading.
        assert f'HTTP Request: GET {server.url}/redirect "HTTP/1.1 302 Found"' in log.lines
        assert f'HTTP Request: GET {server.url}/file.png "HTTP/1.1 200 OK"' in log.lines
    head = "receive_response_headers"
    assert f"{head}.started request=<Request [b'GET']>" in log.lines
    assert f"{head}.complete return_value=(b'HTTP/1.1', 200 …" in log.lines
    assert any(line.startswith("connect_tcp.started host='127.0.0.1'") for line in log.lines)


@pytest.mark.parametrize(
    "answer",
    [
        reply({"error": "no"}, 403, x_echo=f"Bearer {KEY}"),
        Answer(500, b"", {f"x-{KEY}": "1"}),
        Answer(raw=f"HTTP/1.1 403 {KEY}\r\ncontent-length: 0\r\n\r\n".encode()),
        Answer(raw=f"{KEY} is not HTTP\r\n\r\n".encode()),
        Answer(raw=f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode()),
        Answer(raw=f"HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n".encode()),
        Answer(
            raw=f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{KEY}\r\n\r\n".encode(),
            end="close",
        ),
        Answer(raw=f"HTTP/1.1 302 Found\r\nlocation: http://a:{KEY}/\r\n\r\n".encode()),
    ],
)
def test_a_gateway_that_repeats_the_key_does_not_get_it_into_the_log(
    answer: Answer, log: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, reconnect_timeout=0.1)
    with serve(lambda _: answer) as api:
        client = client_for(api.url)
        client.notify = lambda _: None
        with pytest.raises(CometAPIError):
            client.get_prediction(ID)
    assert any(line.startswith("receive_response_headers") for line in log.lines)
    assert KEY not in log.all()


def test_what_other_code_logs_is_left_as_it_is(log: Lines, tmp_path: Path) -> None:
    with serve(files) as server:
        save(server, f"/file.png?sig={SECRET}", tmp_path)  # by now it is installed
        log.lines.clear()
        httpx.get(f"{server.url}/redirect?mine={SECRET}", trust_env=False)
        request = f'HTTP Request: GET {server.url}/redirect?mine={SECRET} "HTTP/1.1 302 Whatever"'
        assert request in log.lines
        assert any(f"b'location', b'/file.png?X-Amz-Signature={SECRET}'" in x for x in log.lines)


def test_it_is_installed_once(tmp_path: Path) -> None:
    with serve(files) as server:
        for number in range(3):
            save(server, "/file.png", tmp_path / str(number))
    for name in LOGGERS:
        filters = logging.getLogger(name).filters
        assert len([each for each in filters if "cometapi" in type(each).__module__]) == 1


def test_the_background_thread_has_the_name_that_the_filter_goes_by() -> None:
    async def name() -> str:
        import threading

        return threading.current_thread().name

    assert portal.call(name) == BACKGROUND_THREAD


def test_other_lines_of_the_background_thread_pass(log: Lines) -> None:
    # Prefect's own client runs there too, and logs whatever it likes.
    client_for("http://127.0.0.1:1")

    async def say() -> None:
        logger = logging.getLogger("httpx")
        logger.debug("load_ssl_context verify=%r", True)
        logger.info("no arguments")
        logger.info("%(a)s", {"a": 1})
        logging.getLogger("httpcore.http11").debug("receive_response_body.started")
        logging.getLogger("httpcore.http11").debug("%s %d", "receive", 5)

    with serve(lambda _: reply(prediction())) as api:
        client_for(api.url).get_prediction(ID)
    log.lines.clear()
    portal.call(say)
    assert log.lines == [
        "load_ssl_context verify=True",
        "no arguments",
        "1",
        "receive_response_body.started",
        "receive 5",
    ]
