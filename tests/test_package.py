"""What is installed: metadata, entry points, public names, cost of importing, pinned versions."""

from __future__ import annotations

import inspect
import re
import subprocess
import tomllib
import typing
from importlib import import_module
from importlib.metadata import distribution, entry_points
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prefect import Task

import prefect_cometapi
from tests.processes import ROOT, python

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = ["constraints.txt", "constraints-lowest.txt"]

PUBLIC: list[str] = import_module("prefect_cometapi._public").__all__
TASKS = {name for name in PUBLIC if isinstance(getattr(prefect_cometapi, name), Task)}
SYNC_TASKS = sorted(name for name in TASKS if f"a{name}" in TASKS)


def test_the_version_in_the_metadata_is_the_projects() -> None:
    assert distribution("prefect-cometapi").version == PROJECT["version"]


@pytest.mark.parametrize("group", ["prefect.collections", "pytest11"])
def test_entry_points_are_declared_and_load(group: str) -> None:
    declared = PROJECT["entry-points"][group]
    [found] = [
        entry
        for entry in entry_points(group=group)
        if entry.dist and entry.dist.name == PROJECT["name"]
    ]
    assert {found.name: found.value} == declared
    found.load()


def test_runtime_dependencies_are_few() -> None:
    required = [Requirement(line) for line in distribution("prefect-cometapi").requires or []]
    runtime = {one.name for one in required if "extra" not in str(one.marker)}
    assert runtime == {"prefect", "httpx", "pydantic-settings"}


def test_the_typing_marker_is_there() -> None:
    assert (Path(prefect_cometapi.__file__).parent / "py.typed").is_file()


def test_all_is_what_it_says() -> None:
    assert prefect_cometapi.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC
    assert len(set(PUBLIC)) == len(PUBLIC)
    assert set(PUBLIC) <= set(dir(prefect_cometapi))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_imports_and_is_documented(name: str) -> None:
    assert (getattr(prefect_cometapi, name).__doc__ or "").strip()


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        prefect_cometapi.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", ["prefect_cometapi", "prefect_cometapi.simulator.pytest_plugin"])
def test_importing_is_cheap(module: str) -> None:
    """Pytest imports both at every start, also where nobody uses them."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = python("-c", code)
    heavy = {"prefect", "pydantic", "fastapi", "starlette", "uvicorn", "httpx", "PIL"}
    assert not heavy & set(done.stdout.split())


def test_there_are_tasks() -> None:
    assert {"create_prediction", "poll_prediction", "save_outputs", "generate"} <= set(SYNC_TASKS)


def test_every_task_has_an_async_twin() -> None:
    assert {*SYNC_TASKS, *(f"a{name}" for name in SYNC_TASKS)} == TASKS


@pytest.mark.parametrize("name", SYNC_TASKS)
def test_a_task_and_its_twin_are_alike(name: str) -> None:
    task, twin = getattr(prefect_cometapi, name), getattr(prefect_cometapi, f"a{name}")
    assert not inspect.iscoroutinefunction(task.fn)
    assert inspect.iscoroutinefunction(twin.fn)
    # Parameters with their kinds, order and defaults, and annotations as they are written ...
    assert inspect.signature(task.fn) == inspect.signature(twin.fn)
    # ... and as they are understood: both modules mean the same types.
    assert typing.get_type_hints(task.fn) == typing.get_type_hints(twin.fn)
    for option in ("name", "cache_policy", "retries", "tags", "timeout_seconds", "persist_result"):
        assert getattr(task, option) == getattr(twin, option), option


def test_credentials_come_first() -> None:
    firsts = {
        next(iter(inspect.signature(getattr(prefect_cometapi, t).fn).parameters)) for t in TASKS
    }
    assert firsts == {"credentials"}


# --- pinned versions --------------------------------------------------------------------------


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


@pytest.mark.parametrize("file", PINS)
def test_everything_that_is_declared_is_pinned(file: str) -> None:
    extras = PROJECT["optional-dependencies"]
    declared = [Requirement(line) for line in (*PROJECT["dependencies"], *extras["dev"])]
    pins = pinned(file)
    for one in declared:
        if one.name != PROJECT["name"]:
            assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_the_lowest_versions_are_those_that_ci_tests() -> None:
    pins = pinned("constraints-lowest.txt")
    for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["images"]):
        one = Requirement(line)
        floor = str(one.specifier)
        assert floor.startswith(">="), one
        assert f"{pins[canonicalize_name(one.name)]}.".startswith(f"{floor.removeprefix('>=')}."), (
            one
        )


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is a matter of the machine, not of the project."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not know this folder: nothing says which files belong to it")
    if "pyproject.toml" not in listed.split("\0"):
        pytest.skip("this folder is part of another git checkout")
    # In pieces, so that this file does not name them itself.
    hosts = [
        "pypi" + ".org",
        "python" + "hosted.org",
        "anaconda" + ".org",
        "npm" + "js.org",
        "npm" + "js.com",
        "proxy.golang" + ".org",
        "crates" + ".io",
    ]
    options = [
        "--" + "index-url",
        "--" + "extra-index-url",
        "--" + "find-links",
        "--" + "trusted-host",
    ]
    named = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data:
            text = data.decode(errors="replace").lower()
            words = [*hosts, *(options if name in PINS else [])]
            if found := [word for word in words if word in text]:
                named[name] = found
    assert not named
