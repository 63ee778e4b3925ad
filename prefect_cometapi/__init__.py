"""Run paid, asynchronous generation jobs (Replicate-style predictions) on CometAPI from Prefect."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_cometapi._public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Imported on first use, as Prefect does it itself: pytest imports this package at start-up
    # (for the simulator's fixture), and must not pay two seconds for Prefect.
    if (name.startswith("_") and name != "__all__") or not name.isidentifier():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}._public"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(f"{__name__}._public").__all__})
