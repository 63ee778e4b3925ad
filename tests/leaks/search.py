"""Finds a marked text in bytes, however it is spelled, whole or in part."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

#: What every marked key ends with, so that one search finds them all.
MARK = "mArKeD7fQ2xLw9Zr4TbVn8Kc3HsYp6Jd"
#: The same for a key that is refused together with something else, before it is used.
REFUSED = "rEfUsE6gM1zEy8Xq3SaUp5Li9DtWo2Kb"
#: The same for the key that a process gives away on purpose, to see that it would be found.
CANARY = "cAnArY5gT8yNb1Xe0PdWk4Mj7UvRs2Lh"
#: What the URLs of outputs are signed with.
SIGNATURE = "sIgNeD3kV9pQz6Wf1HcXt0Lm8RyBj5Gu"

#: What a prompt holds that is not to be repeated.
PROMPT = "pRoMpT8kQz3Lw6Xr9TbVn2Yc4HsUf7Jd"

#: A part of this length is a find. Any 16 characters in a row hold one of those looked for.
PART, STEP = 12, 5


def _in_base64(text: bytes, offset: int) -> bytes:
    """The part of a base64 text that only depends on `text`, which begins at `offset` modulo 3."""
    bits = (offset + len(text)) * 8
    return base64.b64encode(bytes(offset) + text)[-(-offset * 8 // 6) : bits // 6]


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda text: text,
    "lower case": bytes.lower,
    "upper case": bytes.upper,
    "reversed": lambda text: text[::-1],
    "base64": lambda text: _in_base64(text, 0),
    "base64, one byte on": lambda text: _in_base64(text, 1),
    "base64, two bytes on": lambda text: _in_base64(text, 2),
    "hex": lambda text: text.hex().encode(),
    "HEX": lambda text: text.hex().upper().encode(),
    "a dump's hex": lambda text: text.hex(" ").encode(),
    "UTF-16": lambda text: text.decode().encode("utf-16-le"),
    "URL": lambda text: b"".join(b"%%%02x" % char for char in text),
    "JSON": lambda text: b"".join(b"\\u%04x" % char for char in text),
}


def _patterns(mark: str) -> dict[bytes, str]:
    parts = [mark[start : start + PART].encode() for start in range(0, len(mark) - PART + 1, STEP)]
    found = dict.fromkeys(parts, "as it is")
    # In another spelling, it is there whole.
    return found | {
        spell(part): name for name, spell in SPELLINGS.items() for part in (parts[0], parts[-1])
    }


_PATTERNS = {mark: _patterns(mark) for mark in (MARK, REFUSED, CANARY, SIGNATURE, PROMPT)}
#: Line breaks as they are and inside of JSON, once and twice: Prefect breaks base64 into lines.
_BREAKS = re.compile(rb"\r|\n|(?:\\)+[rn]")
#: How base64 of compressed data begins: xz, gzip, bzip2, zlib.
_PACKED = re.compile(rb"(?:/Td6WFoA|H4sI|Qlpo|eJ[w-z])[A-Za-z0-9+/]{16,}={0,2}")
_UNPACK: tuple[Callable[[bytes], bytes], ...] = (
    lzma.decompress,
    gzip.decompress,
    bz2.decompress,
    zlib.decompress,
)


def _forms(data: bytes, depth: int = 0) -> Iterator[bytes]:
    yield data
    joined = _BREAKS.sub(b"", data)
    if joined != data:
        yield joined
    for packed in _PACKED.findall(joined) if depth < 3 else ():
        for unpack in _UNPACK:
            try:
                unpacked = unpack(base64.b64decode(packed + b"=="))
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
                continue
            yield from _forms(unpacked, depth + 1)


def search(data: bytes) -> dict[str, dict[str, str]]:
    """What is in `data`, by mark: each spelling of it, and what stands around it."""
    found: dict[str, dict[str, str]] = {mark: {} for mark in _PATTERNS}
    for form in _forms(data):
        for mark, patterns in _PATTERNS.items():
            for pattern, spelling in patterns.items():
                if spelling not in found[mark] and (at := form.find(pattern)) >= 0:
                    around = form[max(at - 160, 0) : at + 80].decode("latin-1")
                    found[mark][spelling] = f"at {at} of {len(form)}: {around!r}"
    return found


def finds(data: bytes | str, mark: str = MARK) -> dict[str, str]:
    """How one mark is in `data`."""
    return search(data.encode() if isinstance(data, str) else data)[mark]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path, and the paths themselves, which may tell as much."""
    content = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    content["names of files"] = "\n".join(map(str, folder.rglob("*"))).encode()
    return content


def rows_of(database: Path) -> dict[str, bytes]:
    """Every value of every table: in the file, a long one is torn into pages."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: b"\n".join(
                value if isinstance(value, bytes) else str(value).encode()
                for row in connection.execute(f'SELECT * FROM "{name}"')  # noqa: S608
                for value in row
                if value is not None
            )
            for (name,) in names
        }
