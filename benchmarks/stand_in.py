"""A stand-in for the service that costs next to nothing a request, in a process of its own.

python benchmarks/stand_in.py --median 8 --delay 0.15 prints its port and serves until it is ended.

It speaks enough of HTTP/1.1 and of the service for this package and for `replicate`, and no more:
for behaviour there is `prefect_cometapi.simulator`. Run times follow from the seed and the number
of the prediction, so every client meets the same ones. All times are by this process' clock.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx

#: A PNG's first bytes, so that what is saved is taken for a picture.
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
#: Written at once to a file's reader, in bytes.
_PIECE = bytes(256 * 1024)
#: What is told of each prediction; `noticed` is when the first reply that said it was done went.
_TOLD = ("number", "created", "completed", "noticed", "polls")


@dataclass(frozen=True)
class Options:
    """How it behaves.

    Attributes:
        seed: Draws run times, and which polls hang.
        median: Median run time in seconds; a model named `…/median-2.5` has its own.
        sigma: Spread of the run times: they are log-normal.
        delay: Seconds of network that are added to each reply; half of it is the way there.
        hang_share: Share of the polls that hang.
        hang: For how many seconds they do.
        file_bytes: Size of each output.
        file: Path of a picture that every output is, in place of so many bytes.
    """

    seed: int = 1
    median: float = 8.0
    sigma: float = 0.2
    delay: float = 0.0
    hang_share: float = 0.0
    hang: float = 60.0
    file_bytes: int = 1000
    file: str = ""


class Job:
    """One prediction."""

    __slots__ = ("completed", "created", "head", "noticed", "number", "polls")

    def __init__(self, number: int, head: bytes, created: float, completed: float) -> None:
        self.number, self.head, self.created, self.completed = number, head, created, completed
        self.noticed: float | None = None
        self.polls = 0


class Service:
    """What all connections share."""

    def __init__(self, options: Options) -> None:
        self.options, self.port = options, 0
        self.picture = Path(options.file).read_bytes() if options.file else b""
        self.reset()

    def reset(self) -> None:
        """Forget everything, and begin to draw anew."""
        self.jobs: dict[str, Job] = {}
        self.connections = self.files = self.hung = 0
        self._hangs = Random(f"hangs {self.options.seed}")  # noqa: S311
        self._cpu = _cpu()

    def create(self, model: str, body: bytes) -> bytes:
        """Accept a prediction; the reply's body."""
        now, number, seed = time.time(), len(self.jobs), self.options.seed
        # A letter of its own in each id, or `replicate` and others could mix up two runs.
        key = f"{seed:x}s{number:08x}{int(now * 1000):014x}"
        name = model.rpartition("/median-")[2]
        median = float(name) if name != model else self.options.median
        draw = Random(f"run time {seed} {number}")  # noqa: S311
        run = draw.lognormvariate(math.log(median), self.options.sigma)
        urls = {"get": f"{self.root}/replicate/v1/predictions/{key}"}
        urls["cancel"] = f"{urls['get']}/cancel"
        known = {
            "id": key,
            "model": model,
            "version": "hidden",
            "input": json.loads(body)["input"],
            "logs": "",
            "data_removed": False,
            "error": None,
            "source": "api",
            "created_at": _stamp(now),
            "urls": urls,
        }
        head = json.dumps(known, separators=(",", ":")).encode()[:-1]
        self.jobs[key] = job = Job(number, head, now, now + run)
        return self._shown(job, key, now)

    def query(self, key: str, now: float) -> tuple[bytes, bool]:
        """The state of a prediction at a time; whether it is done."""
        job = self.jobs[key]
        return self._shown(job, key, now), now >= job.completed

    def _shown(self, job: Job, key: str, now: float) -> bytes:
        if now < job.completed:
            return job.head + b',"output":null,"status":"processing"}'
        late = (
            f',"output":["{self.root}/files/{key}-0.png"],"status":"succeeded",'
            f'"started_at":"{_stamp(job.created)}","completed_at":"{_stamp(job.completed)}",'
            f'"metrics":{{"image_count":1,"predict_time":{job.completed - job.created:.3f}}}}}'
        )
        return job.head + late.encode()

    def hangs(self) -> bool:
        """Whether the next poll does."""
        return bool(self.options.hang_share) and self._hangs.random() < self.options.hang_share

    @property
    def root(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def stats(self) -> dict[str, Any]:
        """What has happened since the last reset."""
        polls = sum(job.polls for job in self.jobs.values())
        return {
            "predictions": {
                key: {name: getattr(job, name) for name in _TOLD} for key, job in self.jobs.items()
            },
            "connections": self.connections,
            "creates": len(self.jobs),
            "polls": polls,
            "files": self.files,
            "hung": self.hung,
            "cpu": _cpu() - self._cpu,
        }


class Connection(asyncio.Protocol):
    """One connection; a client sends its next request after the reply to the last one."""

    def __init__(self, service: Service) -> None:
        self._service, self._buffer = service, b""
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts connections."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._counted = False
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """What hangs need not be answered any more."""
        self._writable.set()
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """The reader of a file is slower."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Answers each request that has come whole."""
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        if head.startswith(b"POST"):
            at = head.lower().index(b"content-length:") + 15
            length = int(head[at : at + 12].split(b"\r")[0])
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answer(head, rest[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        method, target, _ = head[: head.index(b"\r")].decode().split(" ")
        service = self._service
        delay, now = service.options.delay, time.time()
        key = target.rpartition("/")[2]
        if target.startswith("/replicate/v1/") and not self._counted:
            self._counted = True
            service.connections += 1
        if method == "POST" and target.endswith("/predictions"):
            model = "/".join(target.split("/")[4:6])
            # The way there takes half of the delay, as it does for a poll.
            self._later(delay, _reply(service.create(model, body), b"201 Created"))
        elif target.startswith("/replicate/v1/predictions/") and key in service.jobs:
            service.jobs[key].polls += 1
            if service.hangs():
                service.hung += 1
                delay = service.options.hang
            answer, done = service.query(key, now + delay / 2)
            self._later(delay, _reply(answer), service.jobs[key] if done else None)
        elif target.startswith("/files/"):
            service.files += 1
            self._sending = asyncio.ensure_future(self._file(service.options.file_bytes))
        elif target == "/stats":
            self._transport.write(_reply(json.dumps(service.stats()).encode()))
        elif target == "/reset":
            service.reset()
            self._transport.write(_reply(b"{}"))
        else:
            self._transport.write(_reply(b'{"detail":"no such route"}', b"404 Not Found"))

    def _later(self, delay: float, reply: bytes, done: Job | None = None) -> None:
        if delay:
            self._timer = asyncio.get_running_loop().call_later(delay, self._send, reply, done)
        else:
            self._send(reply, done)

    def _send(self, reply: bytes, done: Job | None) -> None:
        if done is not None and done.noticed is None:
            done.noticed = time.time()
        self._transport.write(reply)

    async def _file(self, size: int) -> None:
        if picture := self._service.picture:
            head = b"content-type: image/webp\r\ncontent-length: %d" % len(picture)
            self._transport.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (head, picture))
            return
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % size
            + _PNG
        )
        for start in range(len(_PNG), size, len(_PIECE)):
            await self._writable.wait()
            if self._transport.is_closing():
                return
            self._transport.write(_PIECE[: size - start])


def _reply(body: bytes, status: bytes = b"200 OK") -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ndate: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (status, _date(int(time.time())), len(body), body)
    )


_last_date = (0, b"")


def _date(second: int) -> bytes:
    """The header, made once a second."""
    global _last_date
    if _last_date[0] != second:
        text = datetime.fromtimestamp(second, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        _last_date = second, text.encode()
    return _last_date[1]


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _serve(options: Options) -> None:
    service = Service(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=4096)
    service.port = server.sockets[0].getsockname()[1]
    print(service.port, flush=True)
    await server.serve_forever()


class StandIn:
    """A running stand-in, as a benchmark sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def reset(self) -> None:
        """Forget what has happened."""
        httpx.get(f"{self.url}/reset", trust_env=False).raise_for_status()

    def stats(self) -> dict[str, Any]:
        """What has happened since the last reset; see `Service.stats`."""
        found: dict[str, Any] = httpx.get(f"{self.url}/stats", timeout=60, trust_env=False).json()
        return found


@contextmanager
def stand_in(options: Options | None = None) -> Iterator[StandIn]:
    """Run one in a process of its own until the end of the block."""
    chosen = asdict(options or Options()).items()
    words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen]
    process = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, str(Path(__file__)), *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("The stand-in did not start.")
        yield StandIn(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    for name, value in asdict(Options()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    gc.disable()  # nothing here refers to itself, and a pause would be somebody's delay
    asyncio.run(_serve(Options(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
