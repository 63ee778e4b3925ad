"""The HTTP calls: one connection pool a process, one gate on requests in flight. No Prefect.

All of it runs on the background loop (`portal`); the methods may be awaited from any loop, and
have sync twins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from logging import getLogger
from random import Random
from typing import Any, NoReturn, TypeVar

import httpx
from pydantic import SecretStr

from prefect_cometapi import portal, urls, wire
from prefect_cometapi.connections import Connections, connections, downloader, expiry_rank
from prefect_cometapi.errors import (
    AccountError,
    NeverDelivered,
    OutputRefused,
    PredictionNotFound,
    RateLimited,
    RequestError,
    RequestRejected,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.failures import Call, Reply, Step, asked_wait, is_trouble, next_step
from prefect_cometapi.models import Cancellation, Prediction
from prefect_cometapi.pacing import BRAKE_DEFAULT, BUDGET_LOOK, retry_delay
from prefect_cometapi.portal import on_background_loop
from prefect_cometapi.settings import CometAPISettings

T = TypeVar("T")
#: Wraps the POST of a create; see `CometAPIClient.submit`.
Around = Callable[[Callable[[], Awaitable[Prediction]]], Awaitable[Prediction]]

#: Largest API reply that is read, in bytes. An output may come inside it as text or `data:` URI.
MAX_REPLY_BYTES = 64 * 1024 * 1024
#: A cancel is best effort and must not hold up a run that is being stopped, in seconds.
CANCEL_TIMEOUT = 10.0
MAX_REDIRECTS = 5

_random = Random()  # noqa: S311 - spreads requests out, guards nothing


class CometAPIClient:
    """Calls of the prediction API with one key.

    `create_prediction`, `get_prediction` and `cancel_prediction` have async twins with an `a` in
    front. Connections, the gate and the memory of 429s are shared by the whole process, so a
    client is cheap and needs no closing.

    Attributes:
        api_root: Where the API is; the only origin that the key is sent to.
        settings: Time-outs and limits.
        notify: Called with one line of text when a request has to be sent again.
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
        self._api_key = api_key

    def telling(self, notify: Callable[[str], object]) -> CometAPIClient:
        """The same client, with somebody else to tell of requests that are sent again."""
        client = CometAPIClient(self.api_root, self._api_key, self.settings, allow_insecure=True)
        client.notify = notify
        return client

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "A CometAPIClient holds a key and is not sent to other processes: send the name of a "
            "saved CometAPICredentials block, and load it there."
        )

    def __repr__(self) -> str:
        return f"CometAPIClient({self.api_root!r})"

    # --- predictions --------------------------------------------------------------------------

    def create_prediction(self, model: str, input: Mapping[str, Any]) -> Prediction:
        """Create a prediction; see `acreate_prediction`."""
        return portal.call(self.acreate_prediction, model, input)

    @on_background_loop
    async def acreate_prediction(self, model: str, input: Mapping[str, Any]) -> Prediction:
        """Create a prediction, which costs money once it is accepted.

        Sent again only where it certainly was not accepted: nothing could be delivered (for up
        to `reconnect_timeout` seconds), or the service asked to slow down (`submit_timeout`).
        Nothing is written down: that is what the tasks are for.

        Raises:
            InvalidInput: The model id or the input can not be right; nothing was sent.
            SubmissionInDoubt: It may have been accepted. It is not sent again.
            RequestError: It was not accepted.
        """
        paid: list[Prediction] = []

        async def plainly(post: Callable[[], Awaitable[Prediction]]) -> Prediction:
            paid.append(await post())
            return paid[0]

        try:
            return await self.submit(model, input, plainly)
        except asyncio.CancelledError:
            for prediction in paid:
                self.notify(
                    f"Interrupted just after prediction {prediction.id} of {model} was created and "
                    "paid for. It goes on, and can be collected: "
                    f'poll_prediction(credentials, "{prediction.id}").'
                )
            raise
        except UnknownOutcome as error:
            raise SubmissionInDoubt(
                f"{maybe_accepted(model, error)} Look for it in the vendor's dashboard before you "
                "create it again."
            ) from None

    @on_background_loop
    async def submit(self, model: str, input: Mapping[str, Any], around: Around) -> Prediction:
        """Create a prediction, for a caller who writes down what happens before and after.

        Args:
            model: The model, as `owner/name`.
            input: The model's parameters.
            around: Awaited once an attempt, with a function that sends the POST. A cancellation
                never comes in between; it is raised afterwards.

        Raises:
            UnknownOutcome: It may have been accepted. It is not sent again.
            RequestError: It was not accepted.
        """
        url, wires = urls.create_url(self.api_root, model), self._wires()
        body = wire.encode_create(input)

        async def post() -> Prediction:
            sent_at = datetime.now(UTC)
            reply = await self._exchange("POST", url, self.settings.create_timeout, body)
            prediction = wire.parse_create(
                reply, api_root=self.api_root, model=model, input=input, submitted_at=sent_at
            )
            wires.budgets[self.api_root][0].repay(time.monotonic())
            return prediction

        async def attempt() -> Prediction:
            async with wires.turn(self.api_root, wires.create_gate):
                return await portal.uninterrupted(around(post))

        return await self._repeat(
            attempt,
            Call.CREATE,
            f"the create of a prediction of {model}",
            submit_timeout=self.settings.submit_timeout,
        )

    def get_prediction(self, prediction_id: str, *, model: str = "") -> Prediction:
        """Ask for a prediction's state; see `aget_prediction`."""
        return portal.call(self.aget_prediction, prediction_id, model=model)

    @on_background_loop
    async def aget_prediction(self, prediction_id: str, *, model: str = "") -> Prediction:
        """Ask for a prediction's state, again for up to `reconnect_timeout` seconds if need be.

        Raises:
            PredictionNotFound: The service knows no such prediction.
            RequestError: No usable answer came in that time.
        """
        return await self._repeat(
            lambda: self.query(prediction_id, model=model),
            Call.QUERY,
            f"the query of prediction {prediction_id}",
        )

    async def query(
        self, prediction_id: str, *, model: str = "", again: bool = False
    ) -> Prediction:
        """Ask for a prediction's state once. "Nothing to tell yet" reads as `starting`.

        With `again`, which is for after a failure that `is_trouble`, it waits for the retry budget
        of the process first, however long that takes: the deadline is the caller's.

        Raises:
            RequestError: Classified; `failures.next_step` says what to do about it.
        """
        url, wires = urls.query_url(self.api_root, prediction_id), self._wires()
        if again:
            await self._spend(None)
        async with wires.turn(self.api_root, wires.gate):
            reply = await self._exchange("GET", url, self.settings.query_timeout)
        seen = wire.parse_query(
            reply, api_root=self.api_root, prediction_id=prediction_id, model=model
        )
        wires.budgets[self.api_root][0].repay(time.monotonic())
        return seen or Prediction(
            id=prediction_id, model=model, status="starting", api_root=self.api_root
        )

    def cancel_prediction(self, prediction_id: str, *, model: str = "") -> Cancellation:
        """Ask the service to cancel a prediction; see `acancel_prediction`."""
        return portal.call(self.acancel_prediction, prediction_id, model=model)

    @on_background_loop
    async def acancel_prediction(self, prediction_id: str, *, model: str = "") -> Cancellation:
        """Ask the service, once and for at most 10 s, to cancel a prediction.

        Best effort: the answer says whether it was accepted, and nothing is raised where not.
        Nobody has confirmed that CometAPI forwards Replicate's cancel.

        Raises:
            InvalidInput: That can not be a prediction id; nothing was sent.
        """
        url = urls.cancel_url(self.api_root, prediction_id)
        try:
            reply = await self._exchange("POST", url, CANCEL_TIMEOUT)
        except RequestError as error:
            return Cancellation(prediction_id=prediction_id, accepted=False, message=str(error))
        return wire.parse_cancel(
            reply, api_root=self.api_root, prediction_id=prediction_id, model=model
        )

    @on_background_loop
    async def acheck_key(self) -> None:
        """Find out, at no cost, whether the API can be reached and takes the key.

        Asks for a prediction that can not exist: the same route and the same key check as a real
        query, and nothing to pay.

        Raises:
            AccountError: The key was refused.
            RequestError: Whatever else is wrong with the API or the way to it.
        """

        async def ask() -> None:
            try:
                await self.query("prefect-cometapi-doctor")
            except PredictionNotFound:
                return
            except RequestRejected as error:
                # Some gateways refuse an unknown id with a plain 400, after taking the key.
                if isinstance(error, AccountError) or error.status != 400:
                    raise

        await self._repeat(ask, Call.CHECK, "the check of the key")

    # --- outputs ------------------------------------------------------------------------------

    @asynccontextmanager
    async def download(self, url: str) -> AsyncGenerator[httpx.Response]:
        """Open an output for reading, without the key; on the background loop only.

        Each redirect is checked like the first URL, and there are at most five.

        Raises:
            OutputRefused: A URL or address that may not be fetched, or too many redirects.
            httpx.HTTPError: The host could not be reached, or was lost on the way.
        """
        for _ in range(MAX_REDIRECTS + 1):
            http = downloader(self.settings, url, self.api_root)
            # Packed, a file would cost more to check than it saves on the way.
            async with http.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                url = str(response.url.join(response.headers["location"]))
        raise OutputRefused(f"{urls.redact(url)} redirects more than {MAX_REDIRECTS} times.")

    def download_turn(
        self, expires_at: datetime | None = None
    ) -> AbstractAsyncContextManager[None]:
        """A place among the downloads, for one attempt: what expires first gets the next one."""
        return self._wires().download_gate.turn(expiry_rank(expires_at))

    # --- requests -----------------------------------------------------------------------------

    async def _repeat(
        self,
        attempt: Callable[[], Awaitable[T]],
        call: Call,
        what: str,
        *,
        submit_timeout: float | None = None,
    ) -> T:
        """Make attempts as the failure table says, within the time-outs."""
        started, failures = time.monotonic(), 0
        while True:
            try:
                return await attempt()
            except RequestError as error:
                failures += 1
                if next_step(call, error) is not Step.SEND_AGAIN:
                    raise
                limited = isinstance(error, RateLimited) and submit_timeout is not None
                patience = submit_timeout if limited else self.settings.reconnect_timeout
                deadline = started + (patience or 0.0)
                pause = self.pause_after(error, failures)
                if time.monotonic() + pause > deadline:
                    raise
                self.notify(f"Trying {what} again in {pause:.1f} s. {error}")
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
        self, method: str, url: str, seconds: float, content: bytes | None = None
    ) -> Reply:
        """Send one request with the key, and read the whole reply within `seconds`."""
        wires = self._wires()
        # Never in a plain variable, which tracebacks with local variables would show; the repr of
        # httpx.Headers hides it.
        headers = httpx.Headers({"accept": "application/json"})
        headers["authorization"] = f"Bearer {self._api_key.get_secret_value()}"
        if content is not None:
            headers["content-type"] = "application/json"
        http = wires.queries if content is None else wires.creates
        sent = False

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal sent
            if event == "http11.send_request_headers.started":
                sent = sent or info["request"].method != b"CONNECT"  # that one is for the proxy

        try:
            async with (
                asyncio.timeout(seconds),
                http.stream(
                    method, url, headers=headers, content=content, extensions={"trace": trace}
                ) as response,
            ):
                body = await _read(response)
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ").rstrip(".")
            if not sent:
                raise NeverDelivered(
                    f"{self.api_root} could not be reached, so nothing was sent ("
                    f"{reason}). Check the network, the proxy settings and the base URL."
                ) from None
            raise UnknownOutcome(
                f"The request was sent to {self.api_root}, but no usable reply came ({reason})."
            ) from None
        reply = Reply(response.status_code, dict(response.headers), body)
        reply = reply.without(self._api_key.get_secret_value())
        if reply.status == 429:
            asked = asked_wait(reply)
            pause = BRAKE_DEFAULT if asked is None else min(asked, self.settings.retry_after_cap)
            wires.brakes[self.api_root].press(time.monotonic(), pause)
        return reply

    def _wires(self) -> Connections:
        return connections(self.settings, self.api_root)


def maybe_accepted(model: str, error: UnknownOutcome) -> str:
    """What is known of a create whose outcome is not."""
    return (
        f"The create of a prediction of {model} was sent at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} "
        f"UTC or a little before, and may have been accepted and paid for. {error} It was not sent "
        "again."
    )


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise httpx.StreamError(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
    return bytes(body)
