"""Outputs become files: streamed, bounded, verified, moved into place whole."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from prefect_cometapi import filetypes
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    InvalidInput,
    OutputDamaged,
    OutputError,
    OutputExpired,
    OutputRefused,
    OutputUnavailable,
    RateLimited,
)
from prefect_cometapi.failures import Reply, asked_wait
from prefect_cometapi.filetypes import FileType
from prefect_cometapi.models import Prediction, PredictionStatus, SavedFile
from prefect_cometapi.storage import check_prefix
from prefect_cometapi.stores import Store
from prefect_cometapi.urls import check_prediction_id, redact

#: How often an output that is not served, or arrives damaged, is fetched: delivery hosts lag
#: behind the prediction for a moment. Trouble that passes has until the end of the time-out.
TRIES = 3

MAKE_AGAIN = "They can only be made again, at a new price: `ledger resubmit`, or another `sample`."

# --- what there is to save (pure) -------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One file's worth of an output: a URL to fetch, a `data:` URI, or text."""

    where: str
    url: str | None = None
    data: str | None = None
    text: str = ""
    kind: FileType = filetypes.TEXT


def find_parts(output: Any) -> list[Part]:
    """Take an output apart into files, in a stable order.

    One URL, a list of them or an object with URLs inside: a file each, and what the object says
    besides as JSON. Text, or a list of text tokens: one text file. A `data:` URI: its content.
    Numbers and everything else: JSON.
    """
    try:
        return _parts(output)
    except RecursionError:
        raise OutputDamaged("The output is nested too deeply to be saved.") from None


def _parts(output: Any) -> list[Part]:
    if output is None or output == []:
        return []
    if isinstance(output, str) and not _is_link(output):
        return [Part("output", text=output)]
    if _is_tokens(output):
        return [Part("output", text="".join(output))]
    leaves = list(_leaves(output, "output"))
    parts = [_link(where, leaf) for where, leaf in leaves if _is_link(leaf)]
    if any(leaf is not None and not _is_link(leaf) for _, leaf in leaves) or not parts:
        text = json.dumps(_without_data(output), ensure_ascii=False, indent=2)
        parts.append(Part("output", text=text, kind=filetypes.JSON))
    return parts


#: RFC 2397, as strict as it takes to tell it from text that happens to begin with "Data:".
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w.+-]+(=[^,;\s]*)?)*,", re.IGNORECASE)


def _is_link(value: object) -> bool:
    if not isinstance(value, str):
        return False
    if _DATA_URI.match(value):
        return True
    return value.lower().startswith(("https://", "http://")) and not any(map(str.isspace, value))


def _is_tokens(output: object) -> bool:
    return isinstance(output, list) and all(
        isinstance(item, str) and not _is_link(item) for item in output
    )


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{index}]")
    else:
        yield where, value


def _link(where: str, link: str) -> Part:
    return Part(where, data=link) if _DATA_URI.match(link) else Part(where, url=link)


def decode_data(uri: str, where: str) -> tuple[bytes, FileType]:
    """The content of a `data:` URI, and what it is.

    Raises:
        OutputDamaged: It can not be decoded, or is not what it claims to be.
    """
    header, _, payload = uri[5:].partition(",")
    content = unquote_to_bytes(payload)
    if header.lower().endswith(";base64"):
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise OutputDamaged(f"The data: URI at {where} is not valid base64.") from error
    declared = header.partition(";")[0] or "text/plain"  # RFC 2397
    html = filetypes.recognise(content[: filetypes.HEAD]) is filetypes.HTML
    if html and declared.lower() == "text/html":
        return content, filetypes.HTML  # here a web page is what was promised
    return content, identify(content[: filetypes.HEAD], declared, where)


def _without_data(value: Any) -> Any:
    """The output without the bytes that are saved as files of their own, and without signatures."""
    if isinstance(value, dict):
        return {name: _without_data(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_data(inner) for inner in value]
    if not _is_link(value):
        return value
    return "data:…" if _DATA_URI.match(value) else redact(value)


def identify(head: bytes, declared: str, source: str) -> FileType:
    """The type of a file, by its first bytes before anything that is claimed about it.

    Args:
        head: Its first bytes.
        declared: The media type that came with it, or an empty text.
        source: Where it comes from, for messages; a URL may end in `.html`.

    Raises:
        OutputDamaged: Empty; a web page where a file should be; or declared as a type whose
            signature it lacks.
    """
    shown = redact(source) if "://" in source else source
    if not head:
        raise OutputDamaged(f"{shown} is empty.")
    kind = filetypes.recognise(head)
    declared_type = declared.partition(";")[0].strip().lower()
    if kind is None and declared_type == "text/html":
        kind = filetypes.HTML
    if kind is filetypes.HTML and not _path(source).lower().endswith((".html", ".htm")):
        raise OutputDamaged(f"{shown} is a web page, not the file that was promised.")
    if kind is not None:
        return kind
    if declared_type in filetypes.RECOGNISABLE:
        raise OutputDamaged(f"{shown} is declared as {declared_type}, but its bytes are not that.")
    return filetypes.by_declaration(declared)


def _path(source: str) -> str:
    try:
        return urlsplit(source).path
    except ValueError:
        return ""


# --- bringing it home -------------------------------------------------------------------------


async def save_outputs(
    client: CometAPIClient, prediction: Prediction, store: Store, prefix: str = ""
) -> list[SavedFile]:
    """Save every output of a prediction that succeeded.

    Names are `<prefix>/<prediction id>-<n>.<extension>`: the same each time, never from a URL.
    One output that fails does not keep the others from being saved.

    Raises:
        InvalidInput: The prediction has not succeeded, or the prefix leads out of the storage.
        OutputExpired: The service has deleted the outputs.
        OutputError: An output could not be brought home; says which, and what was saved.
    """
    stem = stem_of(prediction, prefix)
    if prediction.status is not PredictionStatus.SUCCEEDED:
        raise InvalidInput(
            f"Prediction {prediction.id} is {prediction.status}, so it has no outputs to save"
            f"{'.' if prediction.finished else ' yet. Poll it until it is done.'}"
        )
    # Some replies do not say that it was deleted; that it made nothing is less likely by then.
    if prediction.output is None and (prediction.data_removed or prediction.past_lifetime):
        raise OutputExpired(
            f"The outputs of prediction {prediction.id} ({prediction.model}) are deleted, as the "
            f"service does one hour after completion. {MAKE_AGAIN}"
        )
    parts, expires_at = find_parts(prediction.output), prediction.expires_at
    results = await asyncio.gather(
        *(
            _save_part(client, part, store, f"{stem}-{i}", expires_at)
            for i, part in enumerate(parts)
        ),
        return_exceptions=True,
    )
    saved = [result for result in results if isinstance(result, SavedFile)]
    for result in results:
        if isinstance(result, OutputError):
            raise type(result)(_what_now(result, prediction, saved, len(parts))) from result
        if isinstance(result, BaseException):
            raise result
    return saved


def stem_of(prediction: Prediction, prefix: str = "") -> str:
    """What the names of its files begin with, before `-<n>.<extension>`."""
    parts = (check_prefix(prefix), check_prediction_id(prediction.id))
    return "/".join(part for part in parts if part)


async def _save_part(
    client: CometAPIClient, part: Part, store: Store, stem: str, expires_at: datetime | None
) -> SavedFile:
    limit, setting = client.settings.max_file_bytes, "MAX_FILE_BYTES"
    if store.whole_bytes_only and client.settings.max_whole_bytes < limit:
        limit, setting = client.settings.max_whole_bytes, "MAX_WHOLE_BYTES"
    bound = _Bound(limit, f"PREFECT_INTEGRATIONS_COMETAPI_{setting}", store)
    with store.staging(stem) as path:
        if part.url is not None:
            arrived = await _fetch(client, part.url, path, bound, expires_at)
        else:
            content, kind = (
                decode_data(part.data, part.where)
                if part.data is not None
                else (part.text.encode("utf-8", "replace"), part.kind)
            )
            bound.check(len(content), part.where)
            await asyncio.to_thread(path.write_bytes, content)
            arrived = _Arrived(kind, len(content), hashlib.sha256(content).hexdigest())
        name = f"{stem}.{arrived.kind.extension}"
        location = await store.put(path, name)
    return SavedFile(
        location=location,
        name=name,
        output=part.where,
        media_type=arrived.kind.media_type,
        size=arrived.size,
        sha256=arrived.sha256,
    )


@dataclass(frozen=True)
class _Arrived:
    kind: FileType
    size: int
    sha256: str


@dataclass(frozen=True)
class _Bound:
    limit: int
    setting: str
    store: Store

    def check(self, size: int, source: str) -> None:
        if size > self.limit:
            why = (
                " because its interface takes only whole files"
                if self.store.whole_bytes_only
                else ""
            )
            raise OutputRefused(
                f"{source} has {size} bytes or more; the limit for the {self.store} is {self.limit}"
                f"{why}. Raise {self.setting} to fetch it."
            )


async def _fetch(
    client: CometAPIClient, url: str, path: Path, bound: _Bound, expires_at: datetime | None
) -> _Arrived:
    """Fetch one output to `path`, again where that can help, within `download_timeout`."""
    # Waiting for a turn does not count: it says nothing about the file.
    left, failures, refusals = client.settings.download_timeout, 0, 0
    trouble: Exception | None = None
    while True:
        async with client.download_turn(expires_at):
            began = time.monotonic()
            try:
                async with asyncio.timeout(left):
                    return await _fetch_once(client, url, path, bound)
            except (*_LOST, RateLimited, _NotServed, OutputDamaged) as error:
                trouble = error
            except TimeoutError:
                if trouble is not None:  # what went wrong before says more than the clock
                    raise _given_up(url, trouble) from None
                seconds = client.settings.download_timeout
                raise OutputUnavailable(
                    f"{redact(url)} did not arrive within {seconds:g} s."
                ) from None
        failures += 1
        refusals += not _passes(trouble)
        pause = client.pause_after(trouble, failures)
        left -= time.monotonic() - began + pause
        if left <= 0 or refusals >= TRIES:
            given_up = _given_up(url, trouble)
            raise given_up from (None if given_up is trouble else trouble)
        client.notify(f"Fetching {redact(url)} again in {pause:.1f} s: {trouble}")
        await asyncio.sleep(pause)


class _NotServed(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"the delivery host answered {status}")
        self.status = status


_LOST = (httpx.HTTPError, httpx.StreamError)


def _passes(trouble: Exception) -> bool:
    """True where the way or the host is in trouble, rather than the file."""
    if isinstance(trouble, _NotServed):
        return trouble.status >= 500
    # A CA that is not trusted now will not be in a minute.
    return not isinstance(trouble, OutputDamaged) and "CERTIFICATE_VERIFY" not in str(trouble)


def _given_up(url: str, error: Exception) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if isinstance(error, _NotServed) and error.status in (404, 410):
        return OutputExpired(f"{redact(url)} is not there (any more): {error}.")
    lost = isinstance(error, _LOST)
    reason = f"{type(error).__name__}: {error}" if lost else error
    return OutputUnavailable(f"{redact(url)} could not be fetched: {reason}.")


async def _fetch_once(client: CometAPIClient, url: str, path: Path, bound: _Bound) -> _Arrived:
    shown = redact(url)
    async with client.download(url) as response:
        if response.status_code == 429:
            raise RateLimited(
                "the delivery host answered 429",
                retry_after=asked_wait(Reply(429, dict(response.headers))),
            )
        if response.status_code != 200:
            raise _NotServed(response.status_code)
        declared = response.headers.get("content-length", "")
        if declared.isdigit():
            bound.check(int(declared), shown)
        digest, size, head = hashlib.sha256(), 0, b""
        try:
            with path.open("wb") as file:
                async for chunk in response.aiter_bytes(256 * 1024):
                    size += len(chunk)
                    bound.check(size, shown)
                    head = (head + chunk)[: filetypes.HEAD] if len(head) < filetypes.HEAD else head
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        except httpx.RemoteProtocolError:
            raise OutputDamaged(f"{shown} was cut short after {size} bytes.") from None
        arrived = response.num_bytes_downloaded  # as sent: a host may pack it all the same
        if declared.isdigit() and arrived != int(declared):
            raise OutputDamaged(f"{shown} arrived with {arrived} of {declared} bytes.")
    kind = identify(head, response.headers.get("content-type", ""), url)
    return _Arrived(kind, size, digest.hexdigest())


def _what_now(
    error: OutputError, prediction: Prediction, saved: list[SavedFile], total: int
) -> str:
    until = f" until {prediction.expires_at:%H:%M} UTC" if prediction.expires_at else ""
    then = f"The service keeps the outputs{until}: save_outputs() fetches them again, for free."
    if isinstance(error, OutputExpired):
        then = MAKE_AGAIN
    return (
        f"Prediction {prediction.id} ({prediction.model}): {error} "
        f"{len(saved)} of {total} outputs are saved. {then}"
    )
