"""What a page of Markdown holds, as both of Prefect's UIs read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

#: What a page may be made of. Everything else is somebody's prompt.
TAGS = {
    "h2",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "p",
    "b",
    "br",
    "code",
    "pre",
    "ul",
    "li",
}
ATTRIBUTES = {"cellpadding", "align", "valign", "width"}

#: Prompts that want to be something else.
NASTY = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><h1>hello</h1>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "| a | pipe | and `code` and **bold** |",
    "[a link](http://evil.example) ![a picture](http://evil.example/x.png)",
    "https://evil.example/path www.evil.example me@evil.example <https://evil.example>",
    "one line\n\n# a heading\n\n- a list\n\n```\ncode\n```",
    "\r\n\r\n<div>after a blank line\u2028\u2029\x0b\x0c\x85end",
    "&lt;b&gt; &amp; &#60;script&#62; &nbsp;",
    "{{ jinja }} ${shell} $$math$$ \\(tex\\)",
    "\u202egnp.exe \u2066hidden\u2069 \u200fright",
    "nul \x00 bell \x07 escape \x1b[31m",
    "half a \ud83d pair",
    "javascript:alert(1)",
    "<!-- comment --> <![CDATA[ x ]]> <?php ?>",
    "a" * 5_000,
    "日本語のプロンプト, café, 👩‍🚀",
    "",
]


@dataclass
class Page(HTMLParser):
    """A page, taken apart."""

    markdown: str
    #: Every tag that the package has not written on purpose.
    strange: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    said: str = ""
    _in_cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        blocks = self.markdown.rstrip("\n").split("\n\n")
        # A block of HTML ends with a blank line, and whatever comes then is Markdown.
        assert all("\n" not in block for block in blocks)
        own = [block for block in blocks if not block.startswith("<")]
        assert all(re.fullmatch(r"##+ [\w ,.:;-]+", each) for each in own), own
        self.headings = [each.lstrip("# ") for each in own]
        for block in blocks:
            if block.startswith("<"):
                self.feed(block)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given.pop("href"))
        elif tag == "img":
            self.images.append(given)
            given = {}
        elif tag not in TAGS:
            self.strange.append(tag)
        self.strange += [name for name in given if name not in ATTRIBUTES]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        elif tag == "br":
            self._say("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self._say(data.replace("\u00a0", " "))

    def handle_comment(self, data: str) -> None:
        self.strange.append(data)

    def handle_decl(self, decl: str) -> None:
        self.strange.append(decl)

    def handle_pi(self, data: str) -> None:
        self.strange.append(data)

    def unknown_decl(self, data: str) -> None:
        self.strange.append(data)

    def _say(self, text: str) -> None:
        self.said += text
        if self._in_cell:
            self.rows[-1][-1] += text


def one_line(text: str) -> str:
    """A text as a page shows it: in one line, what can not be shown as such replaced."""
    line = " ".join(text.split())
    line = re.sub("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]", "", line)
    line = re.sub(r"[\ud800-\udfff]", "?", line)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", line)
