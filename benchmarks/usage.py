"""What a process uses: CPU, wall time and memory. Uses nothing but the standard library."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any, Self

_STATUS = Path("/proc/self/status")


def cpu() -> float:
    """Seconds of CPU that this process has used, its own and the kernel's for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory(name: str) -> int:
    """A figure of Linux's about this process' memory, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


class Usage:
    """Measures a block; the figures are there afterwards.

    The peak of the memory is that of the block alone: not of the process, which has imported a lot
    before, and not of its parent, which `ru_maxrss` would count.
    """

    def __enter__(self) -> Self:
        Path("/proc/self/clear_refs").write_text("5")
        self._began, self._cpu, self._memory = time.monotonic(), cpu(), _memory("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.figures: dict[str, Any] = {
            "wall": time.monotonic() - self._began,
            "cpu": cpu() - self._cpu,
            "memory": _memory("VmHWM") - self._memory,
        }
