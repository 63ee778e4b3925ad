"""The HTTP calls: connections and the room for requests belong to the process. No Prefect.

All of it runs on the background loop (`portal`); the methods may be awaited from any loop, and
have sync twins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

from prefect_cometapi import portal, urls, wire
from prefect_cometapi.connections import Turn, download, expiry_rank
from prefect_cometapi.errors import (
    AccountError,
    PredictionNotFound,
    RequestError,
    RequestRejected,
    SubmissionInDoubt,
    UnknownOutcome,
)
from prefect_cometapi.exchange import Exchange
from prefect_cometapi.failures import Call, Reply
from prefect_cometapi.hidden_texts import hidden_texts, told
from prefect_cometapi.models import Cancellation, Prediction
from prefect_cometapi.portal import on_background_loop

T = TypeVar("T")
#: Wraps the POST of a create; see `CometAPIClient.submit`.
Around = Callable[[Callable[[], Awaitable[Prediction]]], Awaitable[Prediction]]

#: A cancel is best effort and must not hold up a run that is being stopped, in seconds.
CANCEL_TIMEOUT = 10.0
#: How often a question to a language model is asked again whose answer was lost: each may be
#: charged, and costs a fraction of a prediction.
LOST_MOST = 2


class CometAPIClient(Exchange):
    """Calls of the prediction API with one key.

    `create_prediction`, `get_prediction` and `cancel_prediction` have async twins with an `a` in
    front. Connections, their number and the memory of 429s are shared by the whole process, so a
    client is cheap and needs no closing.

    Attributes:
        api_root: Where the API is; the only origin that the key is sent to.
        settings: Time-outs and limits.
        notify: Called with one line of text when a request has to be sent again.
        repeated: Called then with what it was, and why.
    """

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
        body, hidden = wire.encode_create(input), hidden_texts(input, self.settings.prompts)

        turn: Turn | None = None

        async def post() -> Prediction:
            sent_at = datetime.now(UTC)
            seconds = self.settings.create_timeout
            reply = await self._exchange(Call.CREATE, "POST", url, seconds, body, turn, hidden)
            prediction = wire.parse_create(
                reply, api_root=self.api_root, model=model, input=input, submitted_at=sent_at
            )
            wires.budgets[self.api_root][0].repay(time.monotonic())
            return told(prediction, hidden, logs=self.settings.model_logs)

        async def attempt() -> Prediction:
            nonlocal turn
            async with wires.turn(self.api_root, Call.CREATE) as turn:
                return await portal.uninterrupted(around(post))

        return await self._repeat(attempt, Call.CREATE, f"the create of a prediction of {model}")

    def get_prediction(self, prediction_id: str, *, model: str = "") -> Prediction:
        """Ask for a prediction's state; see `aget_prediction`."""
        return portal.call(self.aget_prediction, prediction_id, model=model)

    @on_background_loop
    async def aget_prediction(
        self, prediction_id: str, *, model: str = "", input: Mapping[str, Any] | None = None
    ) -> Prediction:
        """Ask for a prediction's state, again for up to `reconnect_timeout` seconds if need be.

        Raises:
            PredictionNotFound: The service knows no such prediction.
            RequestError: No usable answer came in that time.
        """
        return await self._repeat(
            lambda: self.query(prediction_id, model=model, input=input),
            Call.QUERY,
            f"the query of prediction {prediction_id}",
        )

    async def query(
        self,
        prediction_id: str,
        *,
        model: str = "",
        input: Mapping[str, Any] | None = None,
        again: bool = False,
        hurry: bool = False,
    ) -> Prediction:
        """Ask for a prediction's state once. "Nothing to tell yet" reads as `starting`.

        With `again`, which is for after a failure that `is_trouble`, it waits for the retry budget
        of the process first, however long that takes: the deadline is the caller's. With `hurry`,
        which is for a caller who asks again without, it is given up where others took far less.
        With the setting `prompts` off, what the service says is told without what it quotes of
        `input`; where that is not known, not at all.

        Raises:
            RequestError: Classified; `failures.next_step` says what to do about it.
        """
        url, wires = urls.query_url(self.api_root, prediction_id), self._wires()
        if again:
            await self._spend(None)
        seconds, patience = self.settings.query_timeout, wires.patience[self.api_root]
        async with wires.turn(self.api_root, Call.QUERY) as turn:
            seconds = patience.seconds(seconds) if hurry else seconds
            hidden = hidden_texts(input, self.settings.prompts)
            reply = await self._exchange(Call.QUERY, "GET", url, seconds, None, turn, hidden)
            patience.answered(time.monotonic() - turn.at)
        seen = wire.parse_query(
            reply, api_root=self.api_root, prediction_id=prediction_id, model=model
        )
        wires.budgets[self.api_root][0].repay(time.monotonic())
        seen = seen or Prediction(
            id=prediction_id, model=model, status="starting", api_root=self.api_root
        )
        return told(seen, hidden, logs=self.settings.model_logs)

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
            hidden = hidden_texts(None, self.settings.prompts)
            reply = await self._exchange(Call.QUERY, "POST", url, CANCEL_TIMEOUT, hidden=hidden)
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

    # --- language models ----------------------------------------------------------------------

    @on_background_loop
    async def ask_language_model(
        self, model: str, question: bytes, read: Callable[[Reply], T]
    ) -> T:
        """Ask a language model one question; again, up to `LOST_MOST` times, if its answer is lost.

        Each time may be charged. Like a create it is sent again for nothing where it certainly was
        not accepted, and it waits for the end of a "too many requests" to any question.

        Args:
            model: Its name, for messages.
            question: The body of the request, as JSON.
            read: Reads the reply; raises `UnknownOutcome` where it is no answer.

        Raises:
            RequestError: There was no usable answer.
        """
        url, wires = urls.chat_url(self.api_root), self._wires()

        async def attempt() -> T:
            async with wires.turn(self.api_root, Call.CHAT) as turn:
                seconds = self.settings.chat_timeout
                # It may quote the brief, or a prompt.
                hidden = hidden_texts(None, self.settings.prompts)
                reply = await self._exchange(
                    Call.CHAT, "POST", url, seconds, question, turn, hidden
                )
            answer = read(reply)
            wires.budgets[self.api_root][0].repay(time.monotonic())
            return answer

        lost = 0
        while True:
            try:
                return await self._repeat(attempt, Call.CHAT, f"a question to {model}")
            except UnknownOutcome as error:
                lost += 1
                if lost > LOST_MOST:
                    raise
                pause = self.pause_after(error, lost)
                self.notify(
                    f"Asking {model} again in {pause:.1f} s; what it answered may be charged. "
                    f"{error}"
                )
                await asyncio.sleep(pause)
                if not await self._spend(self.settings.reconnect_timeout):
                    raise

    # --- outputs ------------------------------------------------------------------------------

    def download(self, url: str) -> AbstractAsyncContextManager[httpx.Response]:
        """Open an output for reading, without the key; see `connections.download`."""
        return download(self.settings, url, self.api_root)

    def download_turn(
        self, expires_at: datetime | None = None
    ) -> AbstractAsyncContextManager[None]:
        """A place among the downloads, for one attempt: what expires first gets the next one."""
        return self._wires().download_gate.turn(expiry_rank(expires_at))


def maybe_accepted(model: str, error: UnknownOutcome) -> str:
    """What is known of a create whose outcome is not."""
    return (
        f"The create of a prediction of {model} was sent at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} "
        f"UTC or a little before, and may have been accepted and paid for. {error} It was not sent "
        "again."
    )
