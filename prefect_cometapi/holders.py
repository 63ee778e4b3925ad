"""Who holds a batch: a process, known again on its machine, and known to be gone."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict


class Holder(BaseModel):
    """A process."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str
    host: str = ""
    machine: str = ""
    pid: int = 0
    started: str = ""

    @classmethod
    def this_process(cls) -> Holder:
        """This one, with a token of its own."""
        return cls(
            token=uuid4().hex,
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
        )

    @property
    def is_dead(self) -> bool:
        """True where it was a process of this machine, and is there no more."""
        return bool(self.machine) and self.machine == _machine() and self._is_gone()

    def _is_gone(self) -> bool:
        return _started(self.pid) != self.started


def _machine() -> str:
    """What tells one machine, and one container's processes, from others; empty if not known."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""


def _started(pid: int) -> str:
    """When a process of this machine was started, in the system's own count; empty if gone."""
    with suppress(OSError, IndexError):
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
