"""How requests with a key are sent: in their turn, and again where that can do no harm. No Prefect.

What one kind of request means is `client`'s; here is what all kinds have in common.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from logging import getLogger
from random import Random
from typing import NoReturn, Self, TypeVar

import httpx
from pydantic import SecretStr

from prefect_cometapi import urls
from prefect_cometapi.connections import API_HEADERS, Connections, Turn, connections
from prefect_cometapi.errors import NeverDelivered, RateLimited, RequestError
from prefect_cometapi.failures import PAID, Call, Reply, Step, asked_wait, is_trouble, next_step
from prefect_cometapi.hidden_texts import Hidden
from prefect_cometapi.pacing import BRAKE_DEFAULT, BUDGET_LOOK, retry_delay
from prefect_cometapi.sending import send
from prefect_cometapi.settings import CometAPISettings

T = TypeVar("T")

_random = Random()  # noqa: S311 - spreads requests out, guards nothing


class Exchange:
    """Requests to one API with one key.

    Attributes:
        api_root: Where the API is; the only origin that the key is sent to.
        settings: Time-outs and limits.
        notify: Called with one line of text when a request has to be sent again.
        repeated: Called then with what it was, and why.
    """

    def __init__(
        self,
        api_root: str,
        api_key: SecretStr,
        settings: CometAPISettings,
        *,
        allow_insecure: bool = False,
    ) -> None:
        self.api_root = urls.parse_api_root(api_root, allow_insecure=allow_insecure)
        self.settings = settings
        self.notify: Callable[[str], object] = getLogger("prefect_cometapi").warning
        self.repeated: Callable[[Call, RequestError], object] = lambda call, error: None
        self._api_key = api_key
        # Never in a plain variable, which tracebacks with local variables would show; the repr of
        # httpx.Headers hides it.
        self._headers = httpx.Headers(
            {**API_HEADERS, "authorization": f"Bearer {api_key.get_secret_value()}"}
        )

    def telling(
        self, notify: Callable[[str], object], settings: CometAPISettings | None = None
    ) -> Self:
        """The same client, with somebody else to tell of requests that are sent again.

        Args:
            notify: Whom to tell.
            settings: Other time-outs than before.
        """
        client = type(self)(
            self.api_root, self._api_key, settings or self.settings, allow_insecure=True
        )
        client.notify, client.repeated = notify, self.repeated
        return client

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} holds a key and is not sent to other processes: send the "
            "name of a saved CometAPICredentials block, and load it there."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.api_root!r})"

    async def _repeat(self, attempt: Callable[[], Awaitable[T]], call: Call, what: str) -> T:
        """Make attempts as the failure table says, within the time-outs."""
        started, failures, settings = time.monotonic(), 0, self.settings
        while True:
            try:
                return await attempt()
            except RequestError as error:
                failures += 1
                if next_step(call, error) is not Step.SEND_AGAIN:
                    raise
                offered = isinstance(error, RateLimited) and call in PAID
                patience = settings.submit_timeout if offered else settings.reconnect_timeout
                deadline = started + patience
                pause = self.pause_after(error, failures)
                if isinstance(error, RateLimited):  # its next turn waits for what all wait for
                    pause = self._wires().brakes[self.api_root, call].wait(time.monotonic())
                if time.monotonic() + pause > deadline:
                    raise
                self.repeated(call, error)
                self.notify(f"Trying {what} again in {pause:.1f} s. {error}")
                if isinstance(error, RateLimited):
                    continue
                await asyncio.sleep(pause)
                if is_trouble(error) and not await self._spend(deadline - time.monotonic()):
                    raise

    def pause_after(self, error: Exception, failures: int) -> float:
        """Seconds to wait before the request is sent again that `error` came of."""
        asked = error.retry_after if isinstance(error, RateLimited) else None
        return retry_delay(failures, _random, asked=asked, cap=self.settings.retry_after_cap)

    async def _spend(self, seconds: float | None) -> bool:
        """Wait in line until the budget lets a request be sent again; False if not in time."""
        budget, line = self._wires().budgets[self.api_root]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), line:
                while (wait := budget.take(time.monotonic())) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(min(wait, BUDGET_LOOK))
                return True
        return False

    async def _exchange(
        self,
        limited_as: Call,
        method: str,
        url: str,
        seconds: float,
        content: bytes | None = None,
        turn: Turn | None = None,
        hidden: Hidden = (),
    ) -> Reply:
        """Send one request with the key, and read the whole reply within `seconds`."""
        http = turn.http if turn else self._wires().others
        if turn:
            turn.used = True
        try:
            reply = await send(http, method, url, self._headers, seconds, content)
        except NeverDelivered:
            if turn:
                turn.used = False
            raise
        reply = replace(reply.without(self._api_key.get_secret_value()), hidden=hidden)
        if reply.status == 429:
            asked = asked_wait(reply)
            pause = BRAKE_DEFAULT if asked is None else min(asked, self.settings.retry_after_cap)
            self._wires().hold_back(self.api_root, limited_as, now := time.monotonic(), pause)
            if turn:
                turn.rate.refused(now, turn.at, None if asked is None else pause)
        elif turn:
            turn.rate.answered(turn.at)
        return reply

    def _wires(self) -> Connections:
        return connections(self.settings, self.api_root)
