"""Prompts that a language model writes: asked for once, and kept in a storage before they are used.

A retried run that had other prompts written would make other predictions, and pay for all of them
again. So what was written is found again by what was asked for, each answer is kept when it comes,
and one process at a time asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from logging import Logger, LoggerAdapter
from typing import Any
from weakref import WeakValueDictionary

from prefect.results import aget_default_result_storage, get_result_store

from prefect_cometapi import stops
from prefect_cometapi.batch_models import PredictionRequest
from prefect_cometapi.batch_rules import LOCAL_MOST
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import (
    InputRejected,
    InvalidInput,
    PromptsNotWritten,
    StorageError,
)
from prefect_cometapi.holdings import PROMPTS_TAG, Place
from prefect_cometapi.journal import PAUSES, TIMEOUT
from prefect_cometapi.lease import Lease
from prefect_cometapi.orders import check_request
from prefect_cometapi.portal import interruption_waits, on_background_loop, uninterrupted
from prefect_cometapi.prefect_api import current_scope, deployment_id
from prefect_cometapi.prompt_rules import (
    AT_ONCE,
    FORMS,
    SHORT_MOST,
    Answer,
    WrittenPrompts,
    add_new,
    check_brief,
    encode_question,
    file_name,
    read_answer,
    read_written,
)
from prefect_cometapi.records import folder_of
from prefect_cometapi.redaction import beginning
from prefect_cometapi.settings import CometAPISettings
from prefect_cometapi.storage import BLOCK_SCHEME, Storage, check_writable, open_storage
from prefect_cometapi.stores import Folder, Store

Log = Logger | LoggerAdapter[Logger]

#: Equal calls of this process wait for each other, and so have the same prompts.
_lines: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()


@on_background_loop
async def write_prompts(
    client: CometAPIClient,
    brief: str,
    n: int,
    *,
    model: str,
    input: Mapping[str, Any] | None,
    storage: Storage | None,
    scope: str | None,
    sample: int,
    local_storage: bool,
    log: Log,
) -> list[PredictionRequest]:
    """Have prompts written, or find those that were; see `generate_prompts`."""
    check_brief(brief, n, model)
    input = {} if input is None else input
    check_request("any/model", input, sample, scope)
    if "prompt" in input:
        raise InvalidInput("The input has a prompt, which is to be written. Nothing was sent.")
    asked = WrittenPrompts(
        scope=scope or await current_scope(),
        api_root=client.api_root,
        model=model,
        brief=brief,
        sample=sample,
        n=n,
    )
    place = await _default_storage(client.settings) if storage is None else storage
    await check_writable(place)
    store = await open_storage(place)
    file = _File(store, file_name(folder_of(asked.scope), asked, input), asked)
    line = _lines.setdefault((asyncio.get_running_loop(), file.name), asyncio.Lock())
    async with line:
        written = await file.look()
        if written is None or written.missing:
            if isinstance(store, Folder) and not local_storage and await deployment_id():
                _check_local(n, log)
            teller = client.telling(log.warning)
            # It may have to wait, for a model or for another process.
            written = await stops.guarded(lambda: _have_written(teller, file, log))
        else:
            _tell_found(file, log)
    return _requests(written, input)


async def _default_storage(settings: CometAPISettings) -> Storage:
    """The storage block of the ledger; without one, where Prefect itself keeps results."""
    if settings.ledger.startswith(BLOCK_SCHEME):
        return settings.ledger
    store = get_result_store()
    return store.result_storage or await aget_default_result_storage()


def _check_local(n: int, log: Log) -> None:
    """Refuse many on a disk that goes with the pod, as a batch does with its records."""
    what = (
        "This run is deployed, and keeps its prompts in a folder of this machine: where that goes "
        "with the machine, a retry has others written, and pays for all their predictions. Name a "
        "storage block (storage=, or the setting `ledger`), or say local_storage=True"
    )
    if n >= LOCAL_MOST:
        raise InvalidInput(f"{what}. Nothing was sent.")
    log.warning(f"{what}. It is refused from {LOCAL_MOST} prompts on.")


def _tell_found(file: _File, log: Log) -> None:
    log.info(
        f"Found the {file.asked.n} prompts that {file.asked.model} has written for this scope "
        f"before ({file}). Nothing is asked for twice; pass another `sample` for others."
    )


def _requests(written: WrittenPrompts, input: Mapping[str, Any]) -> list[PredictionRequest]:
    return [
        PredictionRequest(
            input={**input, "prompt": each.prompt},
            origin={
                "kind": "language model",
                "model": written.model,
                **beginning("brief", written.brief),
                "response_id": each.response_id,
                "number": number,
            },
        )
        for number, each in enumerate(written.prompts)
    ]


# --- what is kept -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """Where prompts are kept.

    Attributes:
        store: In which storage.
        name: Under which name.
        asked: What was asked for, with nothing written yet.
    """

    store: Store
    name: str
    asked: WrittenPrompts

    def __str__(self) -> str:
        return f"{self.name} in the {self.store}"

    async def look(self) -> WrittenPrompts | None:
        """What is there by now; None also where it can not be read: it may just be written."""
        content = await self.store.read(self.name)
        return None if content is None else read_written(content, self.asked)

    async def read(self) -> WrittenPrompts:
        """What is there, for who holds it.

        Raises:
            StorageError: It can not be read.
        """
        content = await self.store.read(self.name)
        if content is None:
            return self.asked
        written = read_written(content, self.asked)
        if written is None:
            raise StorageError(
                f"The file {self} holds the prompts of this scope, and can not be read. Bring it "
                "back; or delete it, which has other prompts written, whose predictions are new "
                "ones. Nothing was sent."
            )
        return written

    async def write(self, written: WrittenPrompts) -> None:
        """Keep what is there by now, with patience: it is what was paid for.

        Raises:
            StorageError: It could not be written.
        """
        content = f"{written.model_dump_json(indent=2)}\n".encode()
        for pause in (*PAUSES, None):
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self.store.write(self.name, content)
                return
            except (StorageError, TimeoutError) as error:
                if pause is None or interruption_waits():
                    raise StorageError(
                        f"The prompts could not be kept as {self}: "
                        f"{str(error) or f'no answer within {TIMEOUT:g} s.'}"
                    ) from error
                await asyncio.sleep(pause)


async def _have_written(client: CometAPIClient, file: _File, log: Log) -> WrittenPrompts:
    """Have written what is missing, by one process at a time."""
    lease = await Lease.take(
        file.name,  # whatever the storage is called by each of them
        Place("", ""),
        [],
        log.warning,
        tag=PROMPTS_TAG,
        what=f"the prompts of scope {file.asked.scope!r}",
    )
    try:
        before = await file.read()
        if not before.missing:  # another process was quicker
            _tell_found(file, log)
            return before
        if before.prompts:
            log.info(f"{len(before.prompts)} of {before.n} prompts are there ({file}).")
        written = await _ask_until_there(client, before, file, lease)
    finally:
        await uninterrupted(lease.release(forget=True))
    answers = "answer" if written.rounds == 1 else "answers"
    log.info(
        f"{written.model} wrote {written.n} prompts ({written.tokens} tokens, in {written.rounds} "
        f"{answers})."
    )
    return written


# --- what is asked ----------------------------------------------------------------------------


async def _ask_until_there(
    client: CometAPIClient, written: WrittenPrompts, file: _File, lease: Lease
) -> WrittenPrompts:
    """Ask until there are enough, a bounded number of times, and keep each answer.

    Raises:
        PromptsNotWritten: There were not.
    """
    at_once, forms, short = AT_ONCE, list(FORMS), 0
    while True:
        await lease.held()
        wanted = min(written.missing, at_once)
        answer = await _ask_in_any_form(client, written, wanted, forms)
        new = add_new(written.texts, answer.texts)[:wanted]
        written = written.with_answer(answer, new)
        if new:
            await lease.held()
            await uninterrupted(file.write(written))
        if not written.missing:
            return written
        if answer.cut:
            at_once = max(1, wanted // 2)
        if len(new) < wanted:
            client.notify(
                f"{written.model} was asked for {wanted} prompts and gave {len(new)} that can be "
                f"used and are new; {answer.said.rstrip('.')}."
            )
        short += 2 * len(new) < wanted
        if short == SHORT_MOST:
            kept = "What it wrote is kept: the same call asks only for the rest. "
            raise PromptsNotWritten(
                f"{written.model} wrote {len(written.prompts)} of {written.n} prompts in "
                f"{written.rounds} answers, {written.tokens} tokens in all. In the last one, "
                f"{answer.said.rstrip('.')}. {kept if written.prompts else ''}Say in the brief "
                "what else could be different from prompt to prompt, or take another model, or a "
                "smaller n. No prediction was created.",
                prompts=written.texts,
            )


async def _ask_in_any_form(
    client: CometAPIClient,
    written: WrittenPrompts,
    wanted: int,
    forms: list[Mapping[str, Any] | None],
) -> Answer:
    """Ask, in the first form that the model does not refuse; forms that it does are dropped."""
    while True:
        question = encode_question(written, wanted, forms[0])
        try:
            answer = await client.ask_language_model(
                written.model, question, lambda reply: read_answer(reply, written.model)
            )
            shown = client.settings.prompts
            return answer if shown else replace(answer, said="its words are not repeated")
        except InputRejected as error:  # nothing was paid
            if len(forms) == 1:
                raise
            form = (forms.pop(0) or {})["type"]
            client.notify(f"Asking {written.model} again without {form}. {error}")
