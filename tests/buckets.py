"""Buckets of S3 on this machine, which can be taken away and denied, and real blocks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr
from werkzeug.serving import WSGIRequestHandler, make_server

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class S3:
    """A running S3, and what it was asked for."""

    def __init__(self) -> None:
        self.url = ""
        #: Each request: method and path, `/bucket/key`.
        self.requests: list[tuple[str, str]] = []
        #: True where a request is to be denied.
        self.denies: Callable[[str, str], bool] = lambda method, path: False
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock, self._under_way = threading.Lock(), 0
        #: Requests that were under way at once, at most.
        self.most_at_once = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if not self.denies(method, path):
            return self._answered(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [DENIED]

    def _answered(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer
        finally:
            with self._lock:
                self._under_way -= 1

    def credentials(self, **more: Any) -> AwsCredentials:
        """What blocks know of it."""
        return AwsCredentials(
            aws_access_key_id="testing",
            aws_secret_access_key=SecretStr("testing"),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=self.url),
            **more,
        )

    def min_io(self) -> MinIOCredentials:
        """The same as credentials of another kind."""
        return MinIOCredentials(
            minio_root_user="testing",
            minio_root_password=SecretStr("testing"),
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=self.url),
        )

    @property
    def client(self) -> Any:
        """boto3's client, as S3Bucket uses it."""
        return self.credentials().get_client("s3")

    def bucket(self, folder: str = "", **options: Any) -> S3Bucket:
        """A block of a new bucket."""
        name = f"bucket-{uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        options.setdefault("credentials", self.credentials())
        return S3Bucket(bucket_name=name, bucket_folder=folder, **options)

    def objects(self, block: S3Bucket) -> dict[str, bytes]:
        """All that is in a bucket, by key."""
        name, found = block.bucket_name, {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for each in page.get("Contents", []):
                answer = self.client.get_object(Bucket=name, Key=each["Key"])
                found[each["Key"]] = answer["Body"].read()
        return found


class _Silent(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None: ...


@contextmanager
def s3_service() -> Iterator[S3]:
    """An S3 of one's own, on a free port. What is in it is the process's, so name buckets anew."""
    service = S3()
    server = make_server("127.0.0.1", 0, service, threaded=True, request_handler=_Silent)
    service.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
