"""The id of what was paid for is found, or the create is in doubt: nothing is lost in reading."""

import pytest

from prefect_cometapi.errors import RequestRejected, UnknownOutcome
from tests.replies import ID, ROOT, SENT, body_of, create, envelope
from tests.servers import MODEL

#: Bodies of a create that was accepted, and the id they hold.
IDS: dict[str, tuple[object, str]] = {
    "plain": ({"id": ID, "status": "starting"}, ID),
    "plain-without-status": ({"id": ID}, ID),
    "data.id": ({"code": "success", "data": {"id": ID, "status": "SUBMITTED"}}, ID),
    "data.task_id": ({"code": "success", "data": {"task_id": ID}}, ID),
    "data-as-text": ({"code": "success", "message": "", "data": ID}, ID),
    "inner": (envelope({"id": ID, "status": "starting"}, task_id=""), ID),
    "inner-wins": (envelope({"id": "inner", "status": "starting"}), "inner"),
    "envelope-where-inner-has-none": (envelope({"status": "starting"}), ID),
    "envelope-where-inner-is-null": (envelope({"id": None, "status": "starting"}), ID),
    "odd-characters": ({"id": "task_A-1"}, "task_A-1"),
    # The software family's envelope has the row number of its database beside the task's id.
    "row-number-beside-task-id": (envelope(id=4711, status="SUBMITTED"), ID),
    "row-number-and-empty-inner": (envelope({}, id=4711, status="SUBMITTED"), ID),
}


@pytest.mark.parametrize("name", IDS)
def test_the_id_of_a_create_is_found(name: str) -> None:
    body, found = IDS[name]
    made = create(body)
    assert made.id == found
    assert (made.api_root, made.model, made.submitted_at) == (ROOT, MODEL, SENT)
    assert made.input == {"prompt": "mine"}, "the service did not repeat it"
    assert not made.finished


NO_OBJECTS: list[object] = [None, True, 5, 1.5, "text", [], [{"id": ID}], {}]
#: Answers with 2xx that give no id to ask for: each may have been paid.
NO_ID: dict[str, object] = {
    "nothing": b"",
    "white-space": b" \n",
    "cut-off": b'{"id": "q4chw5rey9rmt0cw',
    "cut-off-after-the-id": b'{"id": "q4chw5rey9rmt0cww76t4h3ma4", "status": "star',
    "not-utf-8": b'{"id": "\xff"}',
    "text": b"accepted",
    "null-data": body_of("poll_200_success_null_data"),
    "no-id": {"status": "starting"},
    "error-with-200": {"error": {"message": "upstream went away", "code": "upstream"}},
    "envelope-of-an-error": {"code": "fail_to_fetch_task", "message": "no", "data": None},
    "list-in-envelope": {"code": "success", "data": [{"id": ID}]},
    **{f"json-{body!r}": body for body in NO_OBJECTS},
    **{
        f"id-{unusable!r:.40}": {"id": unusable, "status": "starting"}
        for unusable in (
            *("../../v1/models", "a/b", "a%2fb", "a?b", "a#b", "..", ".", "a b", " a", "a\n"),
            *("é", "a\x00", "", "x" * 129, "a:b", "a\\b", "a;b", "a@b"),
            *(None, True, 1.5, [ID], {"id": ID}, 0),
        )
    },
}


@pytest.mark.parametrize("name", NO_ID)
def test_a_create_without_a_usable_id_may_have_been_paid(name: str) -> None:
    with pytest.raises(UnknownOutcome) as caught:
        create(NO_ID[name])
    assert caught.value.status == 201
    assert MODEL in str(caught.value)


def test_a_create_without_an_id_keeps_the_request_id() -> None:
    said = {"error": {"message": "no (request id: R1)", "code": "upstream"}}
    with pytest.raises(UnknownOutcome, match="R1") as caught:
        create(said)
    assert (caught.value.request_id, caught.value.code) == ("R1", "upstream")
    with pytest.raises(UnknownOutcome) as caught:
        create(b"", X_Oneapi_Request_Id="R2")
    assert caught.value.request_id == "R2"
    # Its support asks for it, and a message is all that is seen of it in Prefect's UI.
    assert "R2" in str(caught.value)


def test_a_web_page_was_no_create() -> None:
    with pytest.raises(RequestRejected):
        create(b"<!doctype html><html>...</html>", 200, Content_Type="text/html")


def test_the_input_that_the_service_repeats_is_shown() -> None:
    assert create({"id": ID, "input": {"prompt": "theirs"}}).input == {"prompt": "theirs"}
