"""A rate that several processes share: a global concurrency limit of Prefect whose slots decay.

Prefect counts slots of a limit as taken, up to the limit, and frees so many of them a second. They
are taken in blocks of about a second's worth, each with one call to the server. Two things cost
throughput, never more than that: what has decayed in fractions of a slot is forgotten with each
block, and a slot that nobody uses (its caller was canceled) is free again only after it decayed.
"""

from __future__ import annotations

import asyncio
import math
import time
from logging import getLogger

import httpx
from prefect.exceptions import ObjectNotFound

from prefect_cometapi.errors import ConfigurationError, InvalidInput
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.prefect_api import ask, which_server

#: A block is what decays in so many seconds: a call a second is cheap, and a process that dies
#: takes only that with it.
BLOCK = 1.0
#: Seconds for which the slots of a block are good: used later, they would come on top of what the
#: limit allows by then.
GOOD_FOR = 2.0
#: Asked again after this share of the pause that the server names: it names the time of the whole
#: block, of which some is over, and every process that waits has another moment.
SOONER = 0.5
#: Longest time without asking, in seconds: the limit may have been raised.
LONGEST = 10.0
#: First and longest pause while the server does not answer, in seconds.
AWAY_FIRST, AWAY_MAX = 0.5, 10.0
#: How often a word is said about that, in seconds.
AWAY_WORD = 60.0


class Limit:
    """A global concurrency limit of Prefect, used as a rate. Of the background loop.

    Attributes:
        name: Its name.
        slots: The most that can be taken at once.
        decay: How many are free again each second.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots, self.decay = 1, 1.0
        self._line = asyncio.Lock()
        self._waiting = 0
        self._left, self._good_until = 0, -math.inf
        #: When the last block came, and whether it had to be waited for.
        self._came, self._scarce = -math.inf, False

    async def read(self) -> None:
        """Read the limit.

        Raises:
            ConfigurationError: There is none, or it can not serve as a rate.
            Exception: Prefect's server can not be asked.
        """
        name = self.name
        rate = f"{name} --limit 60 --slot-decay-per-second 1"
        try:
            # Reads do not get into each other's way.
            found = await ask(
                lambda client: client.read_global_concurrency_limit_by_name(name), queue=False
            )
        except ObjectNotFound:
            raise ConfigurationError(
                f"Prefect's server has no global concurrency limit {name!r}. Create it, here for "
                f"60 creates a minute: prefect gcl create {rate}. Nothing was sent."
            ) from None
        if not found.active:
            raise ConfigurationError(
                f"The global concurrency limit {name!r} is switched off, so it limits nothing. "
                f"Switch it on: prefect gcl enable {name}. Nothing was sent."
            )
        decay = found.slot_decay_per_second or 0.0
        if found.limit < 1 or decay <= 0:
            raise ConfigurationError(
                f"The global concurrency limit {name!r} is no rate: it has {found.limit} slots, "
                f"of which {decay:g} a second become free again. Change it, here to 60 creates a "
                f"minute: prefect gcl update {rate}. Nothing was sent."
            )
        self.slots, self.decay, self._scarce = found.limit, decay, False

    async def take(self) -> None:
        """Wait for a slot, in line, for as long as it takes. A caller who is canceled takes none.

        While the server is away it is asked again and again, with a word in the log.

        Raises:
            ConfigurationError: The limit has been deleted, or changed so that it is no rate.
        """
        self._waiting += 1
        try:
            async with self._line:  # one block at a time; the others wait here for theirs
                if not self._left or time.monotonic() > self._good_until:
                    self._left = await self._block()
                    self._good_until = time.monotonic() + GOOD_FOR
                self._left -= 1
        finally:
            self._waiting -= 1

    async def _block(self) -> int:
        """Take a block; returns how many slots it has."""
        misses, silent_until = 0, -math.inf
        await asyncio.sleep(0)  # those who come at the same moment want some as well
        while True:
            size = max(1, min(self.slots, self._waiting, int(self.decay * BLOCK)))
            worth = size / self.decay
            # After two blocks' time there may be more than the one.
            self._scarce = self._scarce and time.monotonic() < self._came + 2 * worth
            if self._scarce:
                due = self._came + worth - time.monotonic()
                await asyncio.sleep(min(due, LONGEST))
            try:
                pause = await self._ask_for(size)
            except ConfigurationError:
                raise
            except Exception as error:
                pause = min(AWAY_MAX, AWAY_FIRST * 2.0 ** min(misses, 10))
                misses += 1
                if time.monotonic() >= silent_until:
                    silent_until = time.monotonic() + AWAY_WORD
                    getLogger("prefect_cometapi").warning(
                        "Creates wait for slots of the global concurrency limit %r, because "
                        "Prefect's server can not be asked (%s). It is asked until it answers.",
                        self.name,
                        _said(error),
                    )
            if pause is None:
                self._came = time.monotonic()
                return size
            await asyncio.sleep(pause)

    async def _ask_for(self, size: int) -> float | None:
        """None where the slots were given, else the seconds to wait."""
        try:
            # In line with the other writes of this process, which SQLite wants one by one, but at
            # its head: what waits here is ready to be sent.
            reply = await ask(
                lambda client: client.increment_concurrency_slots([self.name], size, "rate_limit"),
                urgent=True,
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 423:
                self._scarce = True
                return SOONER * _seconds(error.response.headers.get("retry-after"), 1 / self.decay)
            if error.response.status_code == 422:  # it has been changed
                await self.read()
            raise
        if not reply.json():  # the limits of that name: it has been deleted
            await self.read()
            return AWAY_FIRST
        return None


def _seconds(text: str | None, default: float) -> float:
    try:
        return min(max(0.0, float(text or default)), LONGEST)
    except ValueError:
        return default


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else repr(error)


#: Those of the process, by loop, server and name.
_limits: dict[tuple[object, ...], Limit] = {}


@on_background_loop
async def open_limit(name: str) -> Limit:
    """The process' limit of this name, checked anew.

    Args:
        name: Name of a global concurrency limit of Prefect with slot decay.

    Raises:
        InvalidInput: That is no name.
        ConfigurationError: There is no such limit, it is no rate, or Prefect's server can not be
            asked.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(
            f"limit is {name!r:.80}; it is the name of a global concurrency limit of Prefect, such "
            'as "cometapi". Nothing was sent.'
        )
    key = (asyncio.get_running_loop(), *which_server(), name)
    limit = _limits.get(key) or Limit(name)
    try:
        await limit.read()
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"Prefect's server could not be asked for the global concurrency limit {name!r} ("
            f"{_said(error)}). Check PREFECT_API_URL. Nothing was sent."
        ) from error
    return _limits.setdefault(key, limit)
