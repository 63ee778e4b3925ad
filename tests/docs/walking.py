"""A page that is walked through, block by block, as a reader does it: real servers and commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.docs.commands import commands
from tests.docs.pages import Snippet
from tests.processes import python, wait_until
from tests.servers import closed_port
from tests.stopping import Process, started

#: The ports that pages name, and what listens there.
SERVER, SIMULATOR = "4200", "8400"
SECONDS = 240.0


class Walk:
    """A reader in a folder, with a shell whose variables stay and terminals whose programs go on.

    Attributes:
        said: What the last command has printed.
        environment: What its shell has set.
    """

    def __init__(self, folder: Path, environment: dict[str, str], stack: ExitStack) -> None:
        self.folder, self.environment, self.said = folder, environment, ""
        self._ports = {SERVER: str(closed_port()), SIMULATOR: str(closed_port())}
        self.environment["PREFECT_SERVER_API_PORT"] = self._ports[SERVER]
        self._stack = stack
        self._terminals: dict[str, ExitStack] = {}

    def step(self, snippet: Snippet) -> None:
        """Do what a block says, and see that it comes out as the page says."""
        code = re.sub(r"\b(4200|8400)\b", lambda port: self._ports[port[0]], snippet.code)
        if "not run" in snippet.marks:
            return
        if snippet.language == "text":
            self._sees(code)
        elif snippet.title:
            (self.folder / snippet.title).write_text(code, "utf-8")
        elif snippet.language == "python":
            self._python("-c", code, fails=snippet.marks.get("fails"))
        elif "terminal" in snippet.marks:
            [words] = commands(code)
            self._go_on(words)
        else:
            for line in code.splitlines():
                if line.startswith("export "):
                    self.environment |= dict(word.split("=", 1) for word in line.split()[1:])
                    continue
                [words] = commands(line)
                self._python(*_as_python(words))

    def _python(self, *words: str, fails: str | None = None) -> None:
        done = python(
            *words, cwd=self.folder, env=self.environment, seconds=SECONDS, code=1 if fails else 0
        )
        self.said = done.stdout + done.stderr
        assert not fails or fails in self.said

    def _go_on(self, words: list[str]) -> None:
        """Start a program that goes on; a second one of its kind takes the first one's terminal."""
        words = _as_python(words)
        kind = words[1] if words[1] != "prefect" else words[2]
        if kind in self._terminals:
            self._terminals[kind].close()
        terminal = self._terminals[kind] = self._stack.enter_context(ExitStack())
        if kind == "prefect_cometapi.simulator":
            words += ["--port", self._ports[SIMULATOR]]
        log = self.folder.parent / f"{kind}-{len(list(self.folder.parent.iterdir()))}.log"
        program = terminal.enter_context(
            started(*words, environment=self.environment, log=log, cwd=self.folder)
        )
        ready: dict[str, Callable[[], object]] = {
            "server": lambda: self.api("GET", "health"),
            "prefect_cometapi.simulator": lambda: "CometAPI simulator at" in program.said,
            "worker": lambda: "started!" in program.said,
        }
        wait_until(lambda: _alive(program) and ready[kind](), f"{kind} is ready", SECONDS)

    def api(self, method: str, path: str, body: object = None) -> object:
        """What Prefect's server answers; None where it does not."""
        url = f"http://127.0.0.1:{self._ports[SERVER]}/api/{path}"
        try:
            return httpx.request(method, url, json=body, timeout=30).raise_for_status().json()
        except httpx.HTTPError:
            return None

    def _sees(self, text: str) -> None:
        """What the page shows is what was printed, whatever the ids, numbers and folders are."""
        printed = " ".join(self.said.split())
        for line in text.splitlines():
            pattern = re.escape(" ".join(line.split())).replace("…", ".*")
            pattern = re.sub(r"[0-9a-z]{26}", r"\\w+", pattern)
            pattern = re.sub(r"\d+", r"\\d+", pattern)
            assert re.search(pattern, printed), f"{line!r} was not printed:\n{self.said}"


def _as_python(words: list[str]) -> list[str]:
    program, *rest = words
    return {"python": rest, "prefect": ["-m", "prefect", *rest]}[program]


def _alive(program: Process) -> bool:
    assert program.running(), program.said
    return True
