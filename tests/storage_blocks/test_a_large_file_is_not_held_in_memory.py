"""A file of 300 MB passes through a process that grows by less than 40 MB, where a block streams.

Measured: 0 MB to a folder, 30 MB to S3Bucket.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.processes import ran, started
from tests.servers import PNG

MB = 1_000_000
SIZE = 300 * MB
MOST = 40 * MB

#: Runs an S3 with one bucket until it is killed; prints where.
SERVICE = """
import json, threading
from tests.buckets import s3_service

with s3_service() as service:
    print(json.dumps([service.url, service.bucket().bucket_name]), flush=True)
    threading.Event().wait()
"""

#: Saves a small file, then the large one; prints how many bytes it grew by, and what it has.
SAVES = """
import asyncio, json, sys
from pathlib import Path
from prefect_cometapi import portal
from prefect_cometapi.outputs import save_outputs
from prefect_cometapi.storage import open_storage
from tests.servers import client_for, made_of

url, folder, service, bucket = map(json.loads, sys.argv[1:])

def most():
    found = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(found[0].split()[1]) * 1024

def storage():
    if folder:
        return folder
    from tests.buckets import S3
    from prefect_aws import S3Bucket
    known = S3()
    known.url = service
    return S3Bucket(bucket_name=bucket, credentials=known.credentials())

async def save(name):
    store = await open_storage(storage())
    return await save_outputs(client_for(url), made_of(f"{url}/{name}"), store, name)

portal.call(save, "small")
Path("/proc/self/clear_refs").write_text("5")  # from here on, what is the most
before = most()
[file] = portal.call(save, "large")
print(json.dumps([most() - before, file.size, file.sha256]))
"""


class Film(BaseHTTPRequestHandler):
    """Sends files that are nowhere: a head, and nothing but zeros."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = SIZE if self.path == "/large" else len(PNG)
        self.send_response(200)
        self.send_header("content-type", "image/png")
        self.send_header("content-length", str(size))
        self.end_headers()
        self.wfile.write(PNG)
        left, zeros = size - len(PNG), bytes(MB)
        while left:
            left -= self.wfile.write(zeros[:left])

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def films() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Film)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_film(kind: str, films: str, tmp_path: Path) -> None:
    root = str(Path(__file__).parent.parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "TMPDIR": str(tmp_path),
    }
    folder = str(tmp_path / "films") if kind == "folder" else ""
    if folder:
        [(grown, size, _)] = ran(SAVES, films, folder, "", "", env=environment)
    else:
        with started(SERVICE, env=environment) as service:
            assert service.stdout is not None
            url, bucket = json.loads(service.stdout.readline())
            [(grown, size, _)] = ran(SAVES, films, "", url, bucket, env=environment)
    assert size == SIZE
    print(f"{kind}: grown by {grown / MB:.0f} MB")
    assert grown < MOST
    left = [path for path in tmp_path.rglob("*") if path.name.startswith("prefect-cometapi-")]
    assert left == []  # what was on its way in the temporary folder
