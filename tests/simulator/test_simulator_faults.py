"""Every fault of the table is seen by a client as the table says, and charged for as it says."""

import json
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import httpx
import pytest

from prefect_cometapi import simulator
from prefect_cometapi.simulator.faults import FAULTS, OPERATIONS, Fault
from prefect_cometapi.simulator.plan import FaultPlan, find_fault

OVERSIZE = 3_000_000
MODEL = "/replicate/v1/models/black-forest-labs/flux-schnell/predictions"
ENDINGS = {
    "failed": "failed",
    "failed-silently": "failed",
    "aborted": "aborted",
    "canceled": "canceled",
    "endless": "processing",
    "removed": "succeeded",
    "slow": "succeeded",
}
#: What a client sees: the status (0: none) and how the answer ends. A status stands for itself.
SEEN: dict[str, tuple[int, str]] = {
    "lost": (0, "closed"),
    "dropped": (0, "closed"),
    "hang": (0, "hangs"),
    "html": (200, "html"),
    "cut-off": (-1, "cut"),
    "bad-json": (-1, "bad json"),
    "redirect": (301, "empty"),
    "no-id": (201, "json"),
    "not-exist-400": (400, "json"),
    "not-exist-404": (404, "json"),
    "null-data": (200, "json"),
    "strange-status": (200, "json"),
    "hollow": (200, "json"),
    "hollow-other-words": (200, "json"),
    "prose": (200, "json"),
    "empty": (200, "json"),
    **dict.fromkeys(("null", "refusal", "tool-call", "filtered", "length"), (200, "json")),
    **dict.fromkeys(("fenced", "duplicates", "blanks", "too-few"), (200, "json")),
    **dict.fromkeys(("too-many", "too-long"), (200, "json")),
    "502": (502, "html"),
    "520": (520, "html"),
    "504": (504, "empty"),
    "file.redirect": (302, "empty"),
    "file.redirect-away": (302, "empty"),
    "file.redirect-loop": (302, "empty"),
    "file.truncated": (200, "cut"),
    "file.hang": (200, "hangs"),
    "file.empty": (200, "empty"),
    "file.wrong-type": (200, "14 bytes"),
    "file.oversized": (200, "too long"),
    "file.oversized-chunked": (200, "too long"),
    "file.403": (403, "8 bytes"),
    "file.404": (404, "8 bytes"),
}


@pytest.fixture(scope="module")
def service() -> Iterator[simulator.Simulator]:
    with simulator.run(
        run_time=0.0, retry_after=0.25, oversize=OVERSIZE, lure_url="http://lure.invalid"
    ) as running:
        yield running


@pytest.fixture
def client(service: simulator.Simulator) -> Iterator[httpx.Client]:
    service.clear_faults()
    headers = {"Authorization": "Bearer key"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=10) as client:
        yield client


def create(client: httpx.Client) -> httpx.Response:
    return client.post(MODEL, json={"input": {"prompt": "a boat"}})


def ready_id(client: httpx.Client) -> str:
    key = str(create(client).json()["id"])
    time.sleep(0.01)
    return key


def request_of(operation: str, client: httpx.Client) -> httpx.Request:
    """A request of that operation which works when nothing is wrong."""
    if operation == "create":
        return client.build_request("POST", MODEL, json={"input": {"prompt": "a boat"}})
    if operation == "chat":
        body = {"model": "m", "messages": [{"role": "user", "content": "a prompt about boats"}]}
        return client.build_request("POST", "/v1/chat/completions", json=body)
    path = f"/replicate/v1/predictions/{(key := ready_id(client))}"
    if operation == "query":
        return client.build_request("GET", path)
    if operation == "cancel":
        return client.build_request("POST", f"{path}/cancel")
    client.get(f"/files/{key}/out-0.webp").raise_for_status()  # drawn, so that it is quick below
    return client.build_request("GET", f"/files/{key}/out-0.webp")


def observe(
    client: httpx.Client, request: httpx.Request, patience: float = 10
) -> tuple[int, str, bytes]:
    """Status, ending and body, as a client without any wits sees them."""
    status, body = 0, b""
    request.extensions["timeout"] = httpx.Timeout(patience).as_dict()
    try:
        response = client.send(request, stream=True)
        status = response.status_code
        for chunk in response.iter_raw():
            body += chunk
    except httpx.RemoteProtocolError:
        return status, "cut" if status else "closed", body
    except httpx.ReadTimeout:
        return status, "hangs", body
    if not body:
        return status, "empty", body
    kind = response.headers["content-type"]
    if "json" not in kind:
        ending = "too long" if len(body) > OVERSIZE else f"{len(body)} bytes"
        return status, "html" if "html" in kind else ending, body
    try:
        json.loads(body)
    except ValueError:
        return status, "bad json", body
    return status, "json", body


def expected(fault: Fault) -> tuple[int, str]:
    short = fault.short.removesuffix("-accepted")
    found = SEEN.get(fault.name) or SEEN.get(short) or (int(short[:3]), "json")
    fine = 201 if fault.operation == "create" else 200
    return (fine if found[0] == -1 else found[0]), found[1]


@pytest.mark.parametrize("name", [n for n, f in FAULTS.items() if f.operation != "prediction"])
def test_each_fault_is_seen_and_charged_as_the_table_says(
    name: str, service: simulator.Simulator, client: httpx.Client
) -> None:
    fault = FAULTS[name]
    request = request_of(fault.operation, client)
    before = service.counts
    service.script(fault.operation, [fault.short])
    status, ending, _ = observe(client, request, 0.4 if fault.short == "hang" else 10)
    assert (status, ending) == expected(fault)
    after = service.counts
    done = int(fault.operation == "create" and fault.accepted)
    assert after.charged - before.charged == after.accepted - before.accepted == done
    assert sum(after.by_status.values()) == sum(before.by_status.values()) + 1
    assert service.requests[-1].fault == name
    again = request_of(fault.operation, client)
    assert observe(client, again)[0] in (200, 201), "the fault is over"


@pytest.mark.parametrize("short", ENDINGS)
def test_predictions_meet_their_fate(
    short: str, service: simulator.Simulator, client: httpx.Client
) -> None:
    charged = service.counts.charged
    service.script("prediction", [short])
    value = client.get(f"/replicate/v1/predictions/{ready_id(client)}").json()
    assert value["status"] == ENDINGS[short]
    assert service.counts.charged - charged == (short != "aborted")
    assert (value["error"] is not None) == (short == "failed")
    assert value["data_removed"] == (short == "removed")
    assert (value["output"] is not None) == (short == "slow")
    assert ("started_at" in value) == (short != "aborted")


def test_every_429_tells_how_long_to_wait(
    service: simulator.Simulator, client: httpx.Client
) -> None:
    service.script("create", ["429-seconds", "429-date", "429-body", "429-text", "429-reset"])
    seconds, date, body, text, reset = (create(client) for _ in range(5))
    assert seconds.headers["retry-after"] == "0.25"
    wait = parsedate_to_datetime(date.headers["retry-after"]).timestamp() - time.time()
    assert -1 < wait < 3
    assert body.json()["retry_after"] == 0.25
    assert "resets in ~0.25s." in text.json()["detail"]
    assert reset.headers["ratelimit-reset"] == "0.25"
    assert not any("retry-after" in reply.headers for reply in (body, text, reset))


def test_redirects_lead_where_they_say(service: simulator.Simulator, client: httpx.Client) -> None:
    path = f"/files/{ready_id(client)}/out-0.webp"
    service.set_fault("file.redirect", 1.0)
    followed = client.get(path, follow_redirects=True)
    assert followed.status_code == 200
    assert len(followed.history) == 1
    service.clear_faults()
    service.script("file", ["redirect-away", "redirect-loop"])
    assert client.get(path).headers["location"] == f"http://lure.invalid{path}"
    with pytest.raises(httpx.TooManyRedirects):
        client.get(path, follow_redirects=True)
    service.script("create", ["redirect"])
    assert create(client).headers["location"] == "http://lure.invalid"
    assert create(client).json()["urls"]["get"].startswith("http://lure.invalid/v1/predictions/")


def test_replies_spoilt_in_their_json(service: simulator.Simulator, client: httpx.Client) -> None:
    path = f"/replicate/v1/predictions/{ready_id(client)}"
    service.script("query", ["strange-status", "hollow", "null-data"])
    assert client.get(path).json()["status"] == "warming_up"
    data = client.get(path).json()["data"]
    assert data["status"] == "SUCCESS"
    assert data["result_url"].endswith(".webp")
    assert "data" not in data
    assert client.get(path).json() == {"code": "success", "data": None}
    for fate, words in (
        ("slow", "SUCCESS"),
        ("failed", "ERROR"),
        ("canceled", "CANCELED"),
        ("aborted", "FAILED"),
        ("endless", "UNKNOWN"),
    ):
        service.script("prediction", [fate])
        path = f"/replicate/v1/predictions/{ready_id(client)}"
        service.script("query", ["hollow-other-words"])
        assert client.get(path).json()["data"]["status"] == words
    service.script("create", ["no-id"])
    assert "id" not in create(client).json()


def test_a_truncated_file_promises_more_than_it_has(
    service: simulator.Simulator, client: httpx.Client
) -> None:
    request = request_of("file", client)
    whole = observe(client, request)[2]
    service.script("file", ["truncated", "hang"])
    for _ in range(2):
        part = observe(client, client.build_request("GET", request.url), 0.4)[2]
        assert part == whole[: len(whole) // 2]


def test_scripts_come_before_rates_and_count_requests() -> None:
    plan = FaultPlan(0, {"query.502": 1.0})
    plan.script("query", ["ok", "lost"])
    plan.script("query", ["query.html"])
    plan.script_at("query.hang", 5)
    chosen = [fault.short if fault else "ok" for fault in (plan.choose("query") for _ in range(6))]
    assert chosen == ["ok", "lost", "html", "502", "hang", "502"]
    plan.clear()
    assert plan.choose("query") is None


def test_rates_are_shares_and_the_seed_decides() -> None:
    def chosen(seed: int) -> list[str]:
        plan = FaultPlan(seed, {"query.502": 0.2, "query.lost": 0.1, "create.lost": 1.0})
        return [f.short if (f := plan.choose("query")) else "ok" for _ in range(2000)]

    assert chosen(1) == chosen(1) != chosen(2)
    assert 320 < chosen(1).count("502") < 480
    assert 140 < chosen(1).count("lost") < 260


def test_wrong_names_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"create\.lost"):
        find_fault("create.lots")
    with pytest.raises(ValueError, match="only create"):
        FaultPlan(0).script("make", ["ok"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        FaultPlan(0, {"create.lost": 2})


def test_the_table_tells_all() -> None:
    assert OPERATIONS == ("create", "query", "cancel", "file", "chat", "prediction")
    assert all(fault.text and name == fault.name for name, fault in FAULTS.items())
