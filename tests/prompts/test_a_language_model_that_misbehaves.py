"""Whatever goes wrong with a language model, its question is asked a bounded number of times, and
what is short of a whole set of prompts is an error that says so.
"""

from __future__ import annotations

import json
import logging
import pickle

import pytest
from pydantic import SecretStr

from prefect_cometapi import (
    AccountError,
    CometAPICredentials,
    CometAPIError,
    InputRejected,
    ModelNotFound,
    NeverDelivered,
    PromptsNotWritten,
    RateLimited,
    RequestRejected,
    UnknownOutcome,
)
from prefect_cometapi.client import LOST_MOST
from prefect_cometapi.prompt_rules import SHORT_MOST
from prefect_cometapi.simulator import FAULTS
from tests.leaks.api import repeating
from tests.prompts.conftest import Writing, prompts_of, said
from tests.servers import KEY, Answer, Request, closed_port, configure, reply, serve

#: So many questions are asked where a fault strikes once, and all is well afterwards.
ONCE = {
    **dict.fromkeys(("fenced", "too-many"), 1),
    **dict.fromkeys(("prose", "empty", "null", "refusal", "tool-call", "filtered"), 2),
    **dict.fromkeys(("duplicates", "blanks", "too-few", "too-long"), 2),
    **dict.fromkeys(("lost", "dropped", "cut-off", "bad-json"), 2),
    **dict.fromkeys(("500", "502", "503", "504", "520", "524"), 2),
    **dict.fromkeys(("429-seconds", "429-date", "429-body", "429-text", "429-reset"), 2),
    **dict.fromkeys(("400", "500-invalid-request"), 2),
    "length": 3,
    "hang": 2,
}
#: What asking again would not help.
AT_ONCE: dict[str, type[CometAPIError]] = {
    "401": AccountError,
    "402": AccountError,
    "403": AccountError,
    "503-model-not-found": ModelNotFound,
    "html": RequestRejected,
}


def test_every_fault_is_in_a_table_here() -> None:
    assert {*ONCE, *AT_ONCE} == {each.short for each in FAULTS.values() if each.operation == "chat"}


@pytest.mark.cometapi_simulator(retry_after=0.1)
@pytest.mark.parametrize("fault", ONCE)
def test_a_fault_that_passes(
    fault: str, writing: Writing, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    if fault == "hang":
        configure(monkeypatch, chat_timeout=2)
    writing.service.script("chat", [fault])
    made = prompts_of(writing.write(n=8))
    assert len({prompt.casefold() for prompt in made}) == 8
    assert all(prompt.strip() == prompt for prompt in made)
    assert "one more" not in made
    assert writing.asked == ONCE[fault]
    assert bool(said(log, logging.WARNING)) == (ONCE[fault] > 1), "who waits is told why"
    writing.write(n=8)
    assert writing.asked == ONCE[fault], "they are kept"


@pytest.mark.parametrize("fault", AT_ONCE)
def test_what_would_not_pass_is_raised_at_once(fault: str, writing: Writing) -> None:
    writing.service.set_fault(f"chat.{fault}", 1.0)
    with pytest.raises(AT_ONCE[fault]):
        writing.write()
    assert writing.asked == 1
    assert writing.files() == []


@pytest.mark.parametrize(
    ("fault", "there", "words"),
    [
        ("refusal", 0, "it refused: I can not help with that."),
        ("prose", 0, "it said: Sure! Here you are."),
        ("null", 0, "it said nothing"),
        ("too-long", 0, "it said: {"),
        ("duplicates", 4, "it said: {"),
        ("length", 0, "cut off as too long"),
    ],
)
def test_a_model_that_never_brings_enough(
    fault: str, there: int, words: str, writing: Writing
) -> None:
    writing.service.set_fault(f"chat.{fault}", 1.0)
    with pytest.raises(PromptsNotWritten) as raised:
        writing.write(n=20)
    assert writing.asked == SHORT_MOST
    message = str(raised.value)
    assert f"gpt-5-mini wrote {there} of 20 prompts in {SHORT_MOST} answers" in message
    assert words in message
    assert "another model" in message
    assert len(message) < 1_000
    assert len(raised.value.prompts) == there
    assert ("the same call asks only for the rest" in message) == bool(there)
    assert len(writing.files()) == bool(there)
    assert pickle.loads(pickle.dumps(raised.value)).prompts == raised.value.prompts  # noqa: S301


def test_what_is_missing_is_asked_for_with_what_there_is(writing: Writing) -> None:
    writing.service.script("chat", ["too-few"])
    made = prompts_of(writing.write(n=8))
    first, second = (each["messages"][1]["content"] for each in writing.questions())
    assert first.startswith("Write exactly 8 prompts.")
    assert second.startswith("Write exactly 4 prompts.")
    assert json.dumps(made[0], ensure_ascii=False)[1:60] in second


def test_a_model_that_is_cut_off_is_asked_for_fewer(writing: Writing) -> None:
    writing.service.script("chat", ["length", "length"])
    writing.write(n=20)
    asked = [each["messages"][1]["content"].split()[2] for each in writing.questions()]
    assert asked[:6] == ["20", "10", "5", "5", "5", "5"]


def test_an_answer_that_is_lost_is_asked_for_a_few_times(writing: Writing) -> None:
    writing.service.set_fault("chat.502", 1.0)
    with pytest.raises(UnknownOutcome):
        writing.write()
    assert writing.asked == 1 + LOST_MOST
    assert writing.files() == []


def test_a_service_that_can_not_be_reached(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(monkeypatch, reconnect_timeout=0.3)
    writing.credentials = CometAPICredentials(
        api_key=SecretStr(KEY), base_url=f"http://127.0.0.1:{closed_port()}"
    )
    with pytest.raises(NeverDelivered, match="nothing was sent"):
        writing.write()


def test_a_service_that_is_always_busy(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, submit_timeout=0.3)
    writing.service.set_fault("chat.429-seconds", 1.0)
    with pytest.raises(RateLimited):
        writing.write()
    assert writing.files() == []


def test_a_model_that_refuses_one_form_is_asked_in_another(writing: Writing) -> None:
    writing.service.script("chat", ["400", "400"])
    writing.write()
    forms = [each.get("response_format", {}).get("type") for each in writing.questions()]
    assert forms == ["json_schema", "json_object", None]


def test_what_refuses_every_form_is_raised(writing: Writing) -> None:
    writing.service.set_fault("chat.400", 1.0)
    with pytest.raises(InputRejected, match="bad request"):
        writing.write()
    assert writing.asked == 3


# --- the key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200", "400", "401", "429", "500", "html"])
def test_a_key_that_is_repeated_is_told_nowhere(
    status: str,
    writing: Writing,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
) -> None:
    configure(monkeypatch, submit_timeout=0.3)
    came: list[Request] = []

    def answer(request: Request) -> Answer:
        came.append(request)
        if status != "200":
            return repeating(request, status)
        words = json.dumps({"prompts": [f"a boat of {KEY}, {len(came)}"]})
        message = {"content": words, "refusal": f"no {KEY}"}
        return reply({"id": KEY, "choices": [{"message": message, "finish_reason": KEY}]})

    with serve(answer) as server:
        writing.credentials = CometAPICredentials(api_key=SecretStr(KEY), base_url=server.url)
        told = ""
        try:
            told += repr(writing.write(n=2))
        except CometAPIError as error:
            told += f"{error} {error!r} {vars(error)}"
        assert (status == "200") == ("a boat of ***" in told)
        told += "".join(path.read_text() for path in writing.files()) + "".join(said(log))
    assert came
    assert all(each.headers["authorization"] == f"Bearer {KEY}" for each in came)
    assert KEY not in told
