"""Blocks are found in a page, each with what the comments beside it say."""

from __future__ import annotations

from tests.docs.pages import Snippet, snippets_of


def only(text: str) -> Snippet:
    [found] = snippets_of("page.md", text)
    return found


def test_a_block_with_its_line_and_language() -> None:
    found = only("# Title\n\n```python\none\n\ntwo\n```\n")
    assert (found.line, found.language, found.code) == (4, "python", "one\n\ntwo\n")
    assert (found.marks, found.then, found.title) == ({}, "", "")


def test_a_block_in_a_list_is_not_indented() -> None:
    assert only("1. Do this:\n\n    ```bash\n    ls\n      more\n    ```\n").code == "ls\n  more\n"


def test_a_block_may_show_another_one() -> None:
    assert only("````text\n```python\nx\n```\n````\n").code == "```python\nx\n```\n"


def test_what_stands_above_it() -> None:
    found = only("<!-- not run: it is slow -->\n<!-- terminal -->\n```bash\nls\n```\n")
    assert found.marks == {"not run": "it is slow", "terminal": ""}


def test_what_stands_above_something_else_is_not_its_own() -> None:
    assert only("<!-- terminal -->\n\n```bash\nls\n```\n").marks == {}


def test_what_stands_below_it() -> None:
    found = only("```python\nx = 1\n```\n<!-- then: y = x\n\nprint(y)\n-->\n")
    assert found.then == "y = x\n\nprint(y)\n"


def test_a_file_to_be_saved() -> None:
    assert only('```python title="boat.py"\nx\n```\n').title == "boat.py"
