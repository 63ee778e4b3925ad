"""`python -m prefect_cometapi doctor`: finds out what keeps predictions from being made. Free.

Each check is a function that returns what it found, with what to do where something is wrong.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.request import getproxies

from prefect import get_client
from prefect.settings import PREFECT_API_URL
from pydantic_settings import (
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    SecretsSettingsSource,
)

from prefect_cometapi.credentials import CometAPICredentials
from prefect_cometapi.errors import CometAPIError
from prefect_cometapi.settings import CometAPISettings, load_settings
from prefect_cometapi.storage import check_writable
from prefect_cometapi.urls import redact

_PREFIX = "PREFECT_INTEGRATIONS_COMETAPI_"
_WHERE = {
    "EnvFilterSettingsSource": "the environment",
    "FilteredDotEnvSettingsSource": ".env",
    "PrefectTomlConfigSettingsSource": "prefect.toml",
    "PyprojectTomlConfigSettingsSource": "pyproject.toml",
    "ProfileSettingsTomlLoader": "Prefect's profile",
}


@dataclass(frozen=True)
class Finding:
    """What a check found: `ok` is None where there was nothing to judge."""

    ok: bool | None
    text: str

    def __str__(self) -> str:
        return f"{ {True: 'ok  ', False: 'FAIL', None: '    '}[self.ok] }  {self.text}"


def setting_origins() -> dict[str, str]:
    """Where each setting that is not at its default comes from: field name → source."""
    kind = CometAPISettings
    origins: dict[str, str] = {}
    sources = kind.settings_customise_sources(
        kind,
        InitSettingsSource(kind, {}),
        EnvSettingsSource(kind),
        DotEnvSettingsSource(kind),
        SecretsSettingsSource(kind),
    )
    for source in sources:  # the first one that has it wins
        found = {key.lower() for key in source()}
        for name, field in kind.model_fields.items():
            aliases = {str(one) for one in getattr(field.validation_alias, "choices", [])}
            if found & ({name, f"{_PREFIX}{name}".lower()} | aliases):
                origins.setdefault(name, _WHERE.get(type(source).__name__, "elsewhere"))
    return origins


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Which of these names of variables are no settings, and which ones are perhaps meant."""
    known = {f"{_PREFIX}{name.upper()}" for name in CometAPISettings.model_fields}
    wrong = [name for name in names if name.upper().startswith(_PREFIX)]
    return {
        name: next(iter(get_close_matches(name.upper(), known, 1, 0.9)), "")
        for name in wrong
        if name.upper() not in known
    }


async def examine(storage: str, block: str | None) -> AsyncIterator[Finding]:
    """All checks, in the order in which one depends on the other.

    Args:
        storage: Where outputs would go.
        block: The saved credentials block to check, instead of the environment's key.
    """
    try:
        settings = load_settings()
    except CometAPIError as error:
        yield Finding(False, str(error))
        return
    origins = setting_origins()
    yield Finding(None, f"settings: {len(origins)} set, the rest at their defaults")
    for name, origin in origins.items():
        value = getattr(settings, name)
        value = {"api_key": "(set)", "base_url": redact(str(value))}.get(name, value)
        yield Finding(None, f"  {name} = {value}, from {origin}")

    for name, meant in misspelt(os.environ).items():
        hint = f"; was {meant} meant?" if meant else ""
        yield Finding(False, f"settings: there is none of the name {name}{hint}")

    proxies = {kind: url for kind, url in getproxies().items() if kind in ("http", "https", "all")}
    for kind, url in proxies.items():
        shown = redact(url if "://" in url else f"http://{url}")  # as httpx reads it
        yield Finding(None, f"{kind} proxy: {shown}, from the environment")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := os.environ.get(name):
            there = os.path.exists(path)  # noqa: PTH110 - one look, in a command
            yield Finding(there, f"{name}: {path}{'' if there else ' does not exist'}")

    try:
        credentials = await _credentials(block)
    except Exception as error:
        yield Finding(False, f"credentials: {error}")
    else:
        source = f"block {block!r}" if block else f"{origins.get('api_key', 'the settings')}"
        yield Finding(True, f"credentials: a key from {source}, for {credentials.base_url}")
        try:
            await credentials.get_client().acheck_key()
            yield Finding(True, f"API: {credentials.base_url} answers and does not refuse the key")
        except CometAPIError as error:
            yield Finding(False, f"API: {error}")

    try:
        await check_writable(storage)
        yield Finding(True, f"storage: files can be written to {storage}")
    except CometAPIError as error:
        yield Finding(False, f"storage: {error}")

    yield await _prefect()


async def _credentials(block: str | None) -> CometAPICredentials:
    return await CometAPICredentials.aload(block) if block else CometAPICredentials.from_env()


async def _prefect() -> Finding:
    url = PREFECT_API_URL.value()
    if not url:
        return Finding(
            None,
            "Prefect: PREFECT_API_URL is not set, so each flow starts a temporary server. For a "
            "lasting one: prefect server start",
        )
    try:
        async with get_client() as client:
            problem = await client.api_healthcheck()
    except Exception as error:  # a CA file that is not there, for example
        problem = error
    if problem:
        return Finding(
            False,
            f"Prefect: {redact(url)} does not answer ({problem}). Start it, or correct "
            "PREFECT_API_URL.",
        )
    return Finding(True, f"Prefect: {redact(url)} answers")
