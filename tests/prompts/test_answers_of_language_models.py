"""Whatever a language model answers, it is read as prompts that can be used, or as none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_cometapi import (
    AccountError,
    CometAPIError,
    InputRejected,
    InvalidInput,
    ModelNotFound,
    RateLimited,
    RequestRejected,
    UnknownOutcome,
)
from prefect_cometapi.failures import Call, Step, next_step
from prefect_cometapi.prompt_rules import (
    FORMS,
    PROMPT_MOST,
    SAID_MOST,
    TOLD_CHARACTERS,
    TOLD_MOST,
    Answer,
    WrittenPrompts,
    add_new,
    check_brief,
    encode_question,
    file_name,
    read_answer,
    read_written,
)
from tests.replies import HTML, comet, reply

TWO = ["A boat", "A ship"]
JSON = json.dumps({"prompts": TWO})


def completion(content: Any = JSON, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"content": content, **message}, "finish_reason": finish}
        ],
        "usage": {"total_tokens": 21},
    }


def read(body: object, status: int = 200) -> Answer:
    return read_answer(reply(status, body), "gpt")


# --- what is read -----------------------------------------------------------------------------


def test_an_answer_as_it_should_be() -> None:
    assert read(completion()) == Answer(TWO, "chatcmpl-1", 21, said=f"it said: {JSON}")


READ: dict[str, tuple[Any, list[str]]] = {
    "JSON in a fence": (f"Sure!\n```json\n{JSON}\n```\nEnjoy.", TWO),
    "in a fence without a language": (f"```\n{JSON}\n```", TWO),
    "in a fence that does not end": (f"```json\n{JSON}", TWO),
    "in the second fence": (f"```text\nHere:\n```\n```json\n{JSON}\n```", TWO),
    "after some words": (f"Here you are: {JSON} I hope you like them.", TWO),
    "a list alone": (json.dumps(TWO), TWO),
    "a list after some words": (f"Here: {json.dumps(TWO)}!", TWO),
    "under another name": (json.dumps({"ideas": TWO}), TWO),
    "objects with a prompt": (json.dumps({"prompts": [{"prompt": "A boat"}, "A ship"]}), TWO),
    "in parts": ([{"type": "text", "text": JSON[:9]}, {"type": "text", "text": JSON[9:]}], TWO),
    "with a byte-order mark": (f"\ufeff{JSON}", TWO),
    "among things that are no text": (
        json.dumps({"prompts": ["A boat", 5, None, [], {}]}),
        TWO[:1],
    ),
    "prompts that are no list": (json.dumps({"prompts": "A boat"}), []),
    "no list at all": (json.dumps({"answer": 42}), []),
    "a number": ("42", []),
    "prose": ("Sure! Here are two prompts about boats.", []),
    "JSON that stops": (JSON[:-6], []),
    "nothing": ("", []),
    "null": (None, []),
    "a number in place of a text": (5, []),
    "parts that are none": ([None, 5, {"type": "image"}], []),
    "too deep": ("[" * 100_000 + "]" * 100_000, []),
}


@pytest.mark.parametrize("name", READ)
def test_where_the_list_is(name: str) -> None:
    content, texts = READ[name]
    assert read(completion(content)).texts == texts


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (completion("Sure!"), "it said: Sure!"),
        (completion(""), "it said nothing"),
        (completion(None), "it said nothing"),
        (completion(None, refusal="I can not."), "it refused: I can not."),
        (completion(None, "tool_calls", tool_calls=[{}]), "it called a tool"),
        (completion(JSON[:9], "length"), "its answer was cut off as too long; it said: "),
        (completion("", "content_filter"), "stopped by a filter of contents; it said nothing"),
        (completion("long " * 500), "it said: long long"),
    ],
)
def test_what_it_said_is_told_shortly(body: Any, said: str) -> None:
    answer = read(body)
    assert answer.said.startswith(said) or said in answer.said
    assert len(answer.said) <= SAID_MOST
    assert answer.cut == ("cut off" in said)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [(None, 0), ({}, 0), ([], 0), ({"total_tokens": "7"}, 0), ({"total_tokens": -1}, 0)],
)
def test_tokens_that_are_not_told_are_none(usage: Any, tokens: int) -> None:
    assert read({**completion(), "usage": usage, "id": 5}) == Answer(
        TWO, None, tokens, said=f"it said: {JSON}"
    )


NO_ANSWER: dict[str, tuple[int, Any, type[CometAPIError]]] = {
    "no JSON": (200, b"{", UnknownOutcome),
    "a list": (200, [], UnknownOutcome),
    "no choices": (200, {"id": "x", "choices": []}, UnknownOutcome),
    "choices that are none": (200, {"choices": [None]}, UnknownOutcome),
    "a choice without a message": (200, {"choices": [{}]}, UnknownOutcome),
    "an error with status 200": (200, comet("overloaded"), UnknownOutcome),
    "nothing": (200, b"", UnknownOutcome),
    "a web page": (200, HTML, RequestRejected),
    "trouble": (502, HTML, UnknownOutcome),
    "a time-out": (524, comet("timeout"), UnknownOutcome),
    "no such model": (503, comet("model_not_found"), ModelNotFound),
    "no such model, by status": (404, comet("not_found"), ModelNotFound),
    "a wrong request": (400, comet("bad"), InputRejected),
    "a wrong request with another status": (500, comet("invalid_request"), InputRejected),
    "a wrong key": (401, comet(""), AccountError),
    "no credit": (402, comet(""), AccountError),
    "no quota": (403, comet("insufficient_user_quota"), AccountError),
    "too many": (429, comet("rate_limit"), RateLimited),
}


@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_is_no_answer_is_an_error_of_its_class(name: str) -> None:
    status, body, kind = NO_ANSWER[name]
    with pytest.raises(CometAPIError) as raised:
        read(body, status)
    assert type(raised.value) is kind
    # Nothing is sent again blindly: what may have been charged is counted by who asks.
    steps = {RateLimited: Step.SEND_AGAIN, UnknownOutcome: Step.IN_DOUBT}
    assert next_step(Call.CHAT, raised.value) is steps.get(kind, Step.RAISE)  # type: ignore[arg-type]


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["prompts", "prompt", "choices", "message", "content", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.text() | JSONS.map(json.dumps) | JSONS.map(lambda v: f"Sure!\n```json\n{json.dumps(v)}"))
def test_any_content_is_read(content: str) -> None:
    answer = read(completion(content))
    new = add_new([], answer.texts)
    assert all(0 < len(each) <= PROMPT_MOST and each == each.strip() for each in new)
    assert add_new(new, answer.texts) == []


@given(JSONS | st.binary(max_size=40), st.sampled_from([200, 201, 400, 404, 500]))
def test_any_reply_is_an_answer_or_an_error(body: Any, status: int) -> None:
    try:
        answer = read(body, status)
    except CometAPIError:
        return
    assert isinstance(answer, Answer)


# --- what is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "taken"),
    [
        (["  A boat \n", "A ship"], ["A boat", "A ship"]),
        (["", " ", "\n"], []),
        (["A boat", "a  BOAT", "A boat."], ["A boat", "A boat."]),
        (["there"], []),
        (["THERE ", "not there"], ["not there"]),
        (["x" * PROMPT_MOST, "x" * (PROMPT_MOST + 1)], ["x" * PROMPT_MOST]),
        (["half \ud83d", "whole \U0001f6a2"], ["whole \U0001f6a2"]),
        (["nul \0"], []),
        (["Straße", "STRASSE"], ["Straße"]),
    ],
)
def test_only_what_can_be_used_and_is_new_is_taken(texts: list[str], taken: list[str]) -> None:
    assert add_new(["There"], texts) == taken


# --- what is asked ----------------------------------------------------------------------------

ASKED = WrittenPrompts(scope="s", api_root="https://a", model="gpt", brief="Boats", n=5)


def asked(there: Sequence[str] = (), sample: int = 0) -> str:
    written = ASKED.model_copy(update={"sample": sample}).with_answer(Answer(), there)
    body = json.loads(encode_question(written, 5, None))
    assert "response_format" not in body
    assert body["model"] == "gpt"
    return str(body["messages"][-1]["content"])


def test_the_question_says_how_many_and_what_there_is() -> None:
    assert asked() == "Write exactly 5 prompts.\nBrief: Boats"
    assert asked(there=["A boat"]).endswith('Write others: ["A boat"]')
    assert "set 3 for the same brief" in asked(sample=2)


def test_the_question_stays_short() -> None:
    there = [f"{number} " * 500 for number in range(900)]
    assert len(asked(there=there)) < TOLD_MOST * (TOLD_CHARACTERS + 10) + 500
    assert "899 899" in asked(there=there)


def test_every_form_names_json() -> None:
    for form in FORMS:
        body = json.loads(encode_question(ASKED, 5, form))
        assert body.get("response_format") == form
        assert "JSON" in body["messages"][0]["content"], "json_object is refused without the word"


@pytest.mark.parametrize(
    "wrong",
    [
        {"brief": ""},
        {"brief": " "},
        {"brief": None},
        {"brief": "x" * 20_001},
        {"brief": "half \ud83d"},
        {"n": 0},
        {"n": 1001},
        {"n": True},
        {"n": 2.0},
        {"model": ""},
        {"model": "two words"},
        {"model": None},
    ],
    ids=repr,
)
def test_what_can_not_be_right_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"Nothing was\s+sent"):
        check_brief(**{"brief": "Boats", "n": 5, "model": "gpt-5-mini", **wrong})


# --- what is kept -----------------------------------------------------------------------------

REQUEST: dict[str, Any] = {
    "scope": "s",
    "api_root": "https://a",
    "model": "gpt",
    "brief": "Boats",
    "n": 5,
    "sample": 0,
}


def name_of(request: Mapping[str, Any] = REQUEST, **input: Any) -> str:
    return file_name("f", WrittenPrompts(**request), input)


def test_equal_requests_have_one_file() -> None:
    assert name_of(a=1, b=2) == name_of(b=2, a=1)
    assert name_of() == name_of({**REQUEST, "rounds": 7, "tokens": 9})


@pytest.mark.parametrize("name", REQUEST)
def test_other_requests_have_others(name: str) -> None:
    other = {"n": 6, "sample": 1}.get(name, "other")
    assert name_of({**REQUEST, name: other}) != name_of()
    assert name_of(a=1) != name_of()


def test_what_is_kept_is_read_again_whole_or_in_part() -> None:
    written = ASKED
    for text in ("A boat", "A ship", "A ferry", "A raft", "A canoe"):
        assert read_written(written.model_dump_json().encode(), ASKED) == written
        written = written.with_answer(Answer(response_id=f"of {text}", tokens=7), [text])
    assert (written.missing, written.rounds, written.tokens) == (0, 5, 35)
    content = written.model_dump_json().encode()
    assert read_written(content, ASKED) == written
    more = written.with_answer(Answer(), ["One too many"]).model_dump_json().encode()
    for torn in (b"", content[:-9], b"[]", b"\xff", content.replace(b"A boat", b""), more):
        assert read_written(torn, ASKED) is None


@pytest.mark.parametrize("name", REQUEST)
def test_what_was_kept_of_another_request_is_not_read(name: str) -> None:
    other = {**REQUEST, name: {"n": 6, "sample": 1}.get(name, "other")}
    content = WrittenPrompts(**other).model_dump_json().encode()
    assert read_written(content, ASKED) is None
