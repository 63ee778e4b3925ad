"""Files of which no more is read than one has use for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooLarge(Exception):
    """A file is larger than its reader takes.

    Attributes:
        size: Its size in bytes; None where nobody says before it is read.
    """

    def __init__(self, name: str, size: int | None = None) -> None:
        super().__init__(f"{name} is too large to be read.")
        self.size = size


def check_size(name: str, size: int | None, most: int | None) -> None:
    """Refuse a file of which too much would be read; None is a size, or a bound, that is not known.

    Raises:
        TooLarge: It is.
    """
    if size is not None and most is not None and size > most:
        raise TooLarge(name, size)


class Bounded(io.BytesIO):
    """A file in memory, for those who write to one, which takes only so many bytes."""

    def __init__(self, name: str, most: int | None) -> None:
        super().__init__()
        self._name, self._most, self._full = name, most, False

    def write(self, part: Any, /) -> int:
        """Take a part, where it fits."""
        if self._most is not None and self.tell() + memoryview(part).nbytes > self._most:
            self._full = True
            raise TooLarge(self._name)
        return super().write(part)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell whatever a writer makes of that as what it is."""
        try:
            yield
        except Exception as error:
            if self._full and not isinstance(error, TooLarge):
                raise TooLarge(self._name) from error
            raise
