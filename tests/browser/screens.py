"""Prefect's two user interfaces in a browser: what a person sees on them, and what they can do."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest

from prefect_cometapi.credentials import LOGO_URL
from tests.processes import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request, Route

#: Prefect 3.8.8 serves both, and remembers in a cookie which one a person has chosen.
UI = Literal["classic", "v2"]
BASES = {"classic": "", "v2": "/v2"}
COOKIES = {"classic": "v1", "v2": "v2"}

#: Where screenshots are kept, if somebody wants them.
KEPT = "SCREENSHOTS"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Seconds that a page may take to show something.
PATIENCE = 60.0


def find_chromium() -> str:
    """The browser's program; the test is skipped where something is missing."""
    why = "the browser tests need Playwright: pip install playwright"
    pytest.importorskip("playwright.sync_api", reason=why)
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := shutil.which(name):
            return program
    pytest.skip("there is no Chromium on this machine: apt-get install chromium")


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A browser that nobody sees."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


def _only_this_machine(route: Route) -> None:
    """Let pages load what is here, and the logo, which they find once the project is published."""
    url = route.request.url
    if urlsplit(url).hostname == "127.0.0.1":
        route.continue_()
    elif url == str(LOGO_URL):
        route.fulfill(path=ROOT / "docs" / "logo.png")
    else:
        route.abort()


@contextmanager
def screen(browser: Browser, url: str, ui: UI, folder: Path) -> Iterator[Screen]:
    """One of the user interfaces of the server at `url`, as somebody new to it finds it."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, timezone_id="Europe/Berlin", locale="en-GB"
    )
    context.add_cookies([{"name": "prefect_ui_version", "value": COOKIES[ui], "url": url}])
    context.set_default_timeout(PATIENCE * 1000)
    context.route("**/*", _only_this_machine)
    page = context.new_page()
    shown = Screen(page, ui, url + BASES[ui], folder)
    page.on("requestfinished", shown._keep_answer)
    yield shown
    context.close()


@dataclass
class Screen:
    """What a person has before them.

    Attributes:
        ui: Which of the two it is.
        answers: Everything that Prefect's API has sent to the page.
    """

    page: Page
    ui: UI
    base: str
    folder: Path
    answers: list[str] = field(default_factory=list)

    # --- looking ------------------------------------------------------------------------------

    def open(self, path: str = "/") -> None:
        self.page.goto(self.base + path)

    def sees(self, text: str, *, exact: bool = False) -> Locator:
        """Wait until the text is on the page."""
        found = self.page.get_by_text(text, exact=exact).filter(visible=True).first
        found.wait_for()
        return found

    def text(self) -> str:
        """All that can be read on the page, what is typed into its fields included."""
        typed = "[...document.querySelectorAll('input, textarea')].map(each => each.value)"
        return "\n".join([self.page.inner_text("body"), *self.page.evaluate(typed)])

    def comes(self, text: str) -> None:
        """Load the page again until the text is on it: V2 does so only while a run goes on."""
        for _ in range(int(PATIENCE / 3)):
            found = self.page.get_by_text(text).filter(visible=True)
            self.page.wait_for_load_state("networkidle")
            if found.count():
                return
            self.page.reload()
        self.sees(text)

    def tells(self, *parts: str) -> None:
        """Wait until all of it is on the page, and see that it comes in this order."""
        for part in parts:
            self.sees(part)
        text = self.page.inner_text("body")
        places = [text.find(part) for part in parts]
        assert places == sorted(places), text

    def pictures(self) -> list[int]:
        """The widths of the pictures in an artifact; 0 where one is broken."""
        shown = "[...document.images].filter(each => each.src.startsWith('data:'))"
        self.page.wait_for_function(f"{shown}.every(each => each.complete)")
        return list(self.page.evaluate(f"{shown}.map(each => each.naturalWidth)"))

    def never_sent(self, secret: str) -> bool:
        """True where the secret has been neither shown nor sent to the browser."""
        return not any(secret in each for each in [self.text(), self.page.content(), *self.answers])

    def _keep_answer(self, request: Request) -> None:
        if "/api/" in request.url and (response := request.response()):
            with suppress(Exception):  # it has none, or the page is gone
                self.answers.append(response.text())

    def keep(self, name: str) -> Path:
        """Take a picture of the whole page, when all of it is there."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function("!document.querySelector('.animate-pulse, [class*=skeleton]')")
        self.page.evaluate("document.activeElement.blur()")
        height = self.page.evaluate(
            "Math.max(...[...document.querySelectorAll('*')].map(each => each.scrollHeight))"
        )
        self.page.set_viewport_size({"width": 1280, "height": min(max(900, height), 2400)})
        self.page.mouse.move(0, 0)
        folder = Path(os.environ.get(KEPT) or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{self.ui}.png"
        self.page.screenshot(path=path, animations="disabled")
        self.page.set_viewport_size({"width": 1280, "height": 900})
        return path

    # --- doing --------------------------------------------------------------------------------

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).filter(visible=True).first.click()

    def follow(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).filter(visible=True).first.click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tablist").get_by_text(name, exact=True).first.click()

    def open_run(self, state: str) -> None:
        """Open the first run of a list that is in this state."""
        run = "a[contains(@href, '/runs/flow-run/')]"
        card = f"//*[normalize-space(text())='{state}']/ancestor::*[.//{run}][1]"
        self.page.locator(f"xpath={card}//{run}").first.click()

    def open_artifact(self, key: str) -> None:
        """Open one of those that are listed, by the beginning of its key."""
        self.page.set_viewport_size({"width": 1280, "height": 2400})  # far below, none is there
        named = self.page.get_by_text(re.compile(rf"^\s*{key}"))
        self.page.locator("a[href*='/artifacts/']").filter(has=named).first.click()
        if self.ui == "v2":  # leads to all versions of it, the newest first
            self.page.locator("a[href*='/artifacts/artifact/']").first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")
        self.page.set_viewport_size({"width": 1280, "height": 900})

    def menu(self, name: str) -> None:
        """Open the menu with the three dots at the top of the page, and take this of it."""
        dots = {"classic": ".p-icon-button-menu button", "v2": "button[aria-haspopup=menu]"}
        self.page.locator(dots[self.ui]).filter(visible=True).first.click()
        self.page.get_by_text(name, exact=True).filter(visible=True).first.click()

    # --- forms --------------------------------------------------------------------------------

    def fields(self) -> list[str]:
        """The titles of a form's fields, from top to bottom, without the "(Optional)" of some."""
        self.page.locator("label").first.wait_for()
        labels = (text.strip() for text in self.page.locator("label").all_inner_texts())
        return [text.removesuffix(" (Optional)") for text in labels if text]

    def field(self, title: str) -> Locator:
        """A field with all that belongs to it."""
        label = f"//label[normalize-space()='{title}' or normalize-space()='{title} (Optional)']"
        around = {
            "classic": "ancestor::div[contains(concat(' ', @class, ' '), ' p-label ')][1]",
            "v2": "ancestor::div[./fieldset or .//input][1]",
        }
        return self.page.locator(f"xpath={label}/{around[self.ui]}").first

    def _control(self, title: str) -> Locator:
        typed = "input:not([type=checkbox]), textarea, [contenteditable=true]"
        return self.field(title).locator(typed).first

    def fill(self, title: str, value: object) -> None:
        """Type into a field."""
        self._control(title).fill(str(value))

    def value(self, title: str) -> Any:
        """What a field holds: a text, or whether it is switched on."""
        switch = self._switch(title)
        if switch.count():
            return switch.get_attribute("aria-checked") == "true"
        if self._control(title).count():
            return self._control(title).input_value()
        return self._opener(title).inner_text().strip()

    def complaint(self, title: str) -> str:
        """What the browser itself says against what a field holds."""
        return str(self._control(title).evaluate("each => each.validationMessage"))

    def switch(self, title: str) -> None:
        self._switch(title).click()

    def _switch(self, title: str) -> Locator:
        return self.field(title).get_by_role("switch")

    def choices(self, title: str) -> list[str]:
        """What a drop-down offers; it stays open."""
        for _ in range(int(PATIENCE / 5)):
            opener = self._opener(title)
            if self.ui == "classic":  # opens and closes at once when it is clicked without a hand
                opener.focus()
                self.page.keyboard.press("ArrowDown")
            else:
                opener.click()
            with suppress(Exception):  # it has closed again, or is drawn anew
                self._options.first.wait_for(timeout=5000)
                break
        return [text.strip() for text in self._options.all_inner_texts()]

    def choose(self, title: str, choice: str) -> None:
        """Open a drop-down, and take this of it, when it is there: some ask the server first."""
        option = self._options.filter(has_text=re.compile(rf"^\s*{re.escape(choice)}\s*$")).first
        seen: list[str] = []
        for _ in range(int(PATIENCE / 5)):
            seen = self.choices(title)
            with suppress(Exception):
                option.click(timeout=5000)
                return
            self.page.keyboard.press("Escape")
        raise AssertionError(f"{title} offers {seen}, not {choice}")

    def _opener(self, title: str) -> Locator:
        opener = {"classic": "button.p-select-button__control", "v2": "fieldset button"}
        return self.field(title).locator(opener[self.ui]).first

    @property
    def _options(self) -> Locator:
        kind = {"classic": ".p-select-option", "v2": "[role=option]"}
        return self.page.locator(kind[self.ui]).filter(visible=True)
