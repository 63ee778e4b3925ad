"""Text of other people in Prefect's artifacts: shown as it is, whatever is in it. Pure.

Artifacts are Markdown, which Prefect's two user interfaces read differently: the classic one does
not decode entities in it, the V2 one makes links of whatever looks like one. Both leave blocks of
HTML alone, and sanitise them. So what is not this package's own words is in HTML, one line a block.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from prefect_cometapi.urls import redact

#: Turns the direction of what follows, also of what is not in the text itself.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
#: Longest location that is shown whole, in characters.
PLACE_MOST = 500


def text(value: object) -> str:
    """Text in one line, as HTML shows it."""
    return _escaped(" ".join(str(value).split()))


def _escaped(value: str) -> str:
    line = _BIDI.sub("", re.sub(r"\s+", " ", value.encode("utf-8", "replace").decode()))
    seen = "".join(each if unicodedata.category(each) != "Cc" else "\ufffd" for each in line)
    return html.escape(seen)


def code(value: object) -> str:
    """A name, a path or a command, to be copied."""
    return f"<code>{text(value)}</code>"


def opens(location: str) -> bool:
    """Whether a browser can open a location, and may be shown all of it."""
    if not location.startswith(("https://", "http://")) or len(location) > PLACE_MOST:
        return False
    return redact(location) == location and not any(map(str.isspace, location))


def place(location: str) -> str:
    """Where a file is: a link where a browser can open it, else its name to be copied."""
    if opens(location):
        return f'<a href="{text(location)}">{text(location.rpartition("/")[2] or location)}</a>'
    shown = shown_place(location)
    return code(shown if len(shown) <= PLACE_MOST else f"…{shown[-PLACE_MOST:]}")


def shown_place(location: str) -> str:
    """A location without what a URL may hold besides: a password, a signature."""
    return redact(location) if "://" in location else location


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: str = "") -> str:
    """A table in one line.

    Args:
        head: The words above the columns; without any, none are shown.
        rows: The cells, as HTML.
        width: Of each column, such as `25%`.
    """
    top = "".join(f'<th align="left">{text(each)}</th>' for each in head)
    cell = f'<td valign="top" width="{width}">' if width else '<td valign="top">'
    body = "".join("<tr>" + "".join(f"{cell}{each}</td>" for each in row) + "</tr>" for row in rows)
    heading = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<table cellpadding="6">{heading}<tbody>{body}</tbody></table>'


def paragraph(*parts: str) -> str:
    """A paragraph of HTML, in one line."""
    return f"<p>{' '.join(parts)}</p>"


def commands(lines: Iterable[str]) -> str:
    """Commands, one a line."""
    return f"<pre><code>{'&#10;'.join(map(text, lines))}</code></pre>"


def prose(words: str) -> str:
    """Text in which `backticks` mark what is to be copied, as in this package's messages."""
    return "".join(
        code(part) if number % 2 else _escaped(part) for number, part in enumerate(words.split("`"))
    )


def bullets(items: Iterable[str]) -> str:
    """A list, of HTML."""
    return f"<ul>{''.join(f'<li>{each}</li>' for each in items)}</ul>"


def page(*blocks: str) -> str:
    """Blocks of Markdown or HTML, those that are empty left out."""
    return "\n\n".join(block for block in blocks if block) + "\n"


#: Keeps a number and its unit on one line.
_NBSP = "\u00a0"


def seconds(value: float | None) -> str:
    """A time as people read it; empty where it is not known."""
    if value is None:
        return ""
    if value < 120:
        return f"{value:.1f}{_NBSP}s"
    return f"{value / 60:.0f}{_NBSP}min" if value < 7200 else f"{value / 3600:.1f}{_NBSP}h"


def size(value: int) -> str:
    """A number of bytes as people read it."""
    if value < 1000:
        return f"{value}{_NBSP}bytes"
    return f"{value / 1000:.0f}{_NBSP}kB" if value < 1e6 else f"{value / 1e6:.1f}{_NBSP}MB"
