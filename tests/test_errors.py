"""Every error keeps what it knows through a pickle, and the tree is the one that is drawn."""

import pickle
from datetime import UTC, datetime

import pytest

from prefect_cometapi import errors, failures, ledger, outputs, settings, wire
from prefect_cometapi.batch_models import BatchResult, ItemStatus
from prefect_cometapi.errors import CometAPIError, InputRejected, RateLimited
from prefect_cometapi.models import Prediction, PredictionStatus

# Imported so that a subclass which one of them defines is found below.
ROOMS = (failures, ledger, outputs, settings, wire)


def subclasses(kind: type[CometAPIError]) -> list[type[CometAPIError]]:
    below = [each for each in kind.__subclasses__() if each.__module__.startswith("prefect_")]
    return [kind, *(deeper for each in below for deeper in subclasses(each))]


ALL = sorted(set(subclasses(CometAPIError)), key=lambda kind: kind.__name__)

PREDICTION = Prediction(
    id="abc",
    model="owner/name",
    status=PredictionStatus.FAILED,
    api_root="https://api.example",
    error="NSFW",
    completed_at=datetime(2026, 3, 12, 11, 27, tzinfo=UTC),
)
RESULT = BatchResult(scope="2026-03-12", model="owner/name", total=1, counts={ItemStatus.FAILED: 1})
#: What each branch of the tree knows besides its message.
KNOWS: list[tuple[type[CometAPIError], dict[str, object]]] = [
    (errors.RequestError, {"status": 429, "code": "slow", "request_id": "2026SIHC"}),
    (RateLimited, {"retry_after": 5.5}),
    (InputRejected, {"invalid_fields": ("input.seed: too large",)}),
    (errors.PredictionError, {"prediction": PREDICTION}),
    (errors.BatchFailed, {"result": RESULT}),
]


def knowledge(kind: type[CometAPIError]) -> dict[str, object]:
    known: dict[str, object] = {}
    for branch, attributes in KNOWS:
        if issubclass(kind, branch):
            known.update(attributes)
    return known


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_survives_pickling_with_all_it_knows(kind: type[CometAPIError], protocol: int) -> None:
    known = knowledge(kind)
    back = pickle.loads(pickle.dumps(kind("It broke.", **known), protocol))  # noqa: S301
    assert type(back) is kind
    assert str(back) == "It broke."
    assert {name: getattr(back, name) for name in known} == known


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_can_be_raised_with_a_message_alone(kind: type[CometAPIError]) -> None:
    bare = pickle.loads(pickle.dumps(kind("It broke.")))  # noqa: S301
    empty = [getattr(bare, name) for name in knowledge(kind)]
    assert all(value is None or value == () for value in empty)


def drawn_tree() -> dict[str, str | None]:
    """Child to parent, as the docstring draws it: each level is indented by four."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        stem = line.lstrip(" │├└─")
        name = stem.split(" ")[0]
        if not line.startswith("    ") or not name:
            continue
        depth = (len(line) - len(stem) - 4) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else None
    return parents


def test_the_tree_is_the_one_that_is_drawn() -> None:
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in ALL if kind is not CometAPIError}
    assert drawn_tree() == {"CometAPIError": None, **real}


def test_the_tree_lives_in_one_room() -> None:
    assert {kind.__module__ for kind in ALL} == {"prefect_cometapi.errors"}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_only_bad_arguments_are_value_errors(kind: type[CometAPIError]) -> None:
    expected = issubclass(kind, errors.InvalidInput | errors.ConfigurationError)
    assert issubclass(kind, ValueError) is expected
