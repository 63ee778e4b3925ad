"""The URL of the flows' repository is kept readable in a deployment, so it may hold no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_cometapi import ConfigurationError, checkout

SECRET = [
    "https://hush@git.example/team/flows.git",
    "https://me:hush@git.example/team/flows.git",
    "https://x-access-token:hush@git.example/team/flows.git",
    "https://:hush@git.example/team/flows.git",
    "http://oauth2:hush@git.example:8080/team/flows.git",
    "ssh://git:hush@git.example/team/flows.git",
    "https://git.example/team/flows.git?private_token=hush",
    "https://git.example/team/flows.git#hush",
    "https://me:hush@[git.example/team/flows.git",
]
PLAIN = [
    "https://git.example/team/flows.git",
    "https://git.example:8443/team/flows",
    "ssh://git@git.example:22/team/flows.git",
    "git@git.example:team/flows.git",
    "file:///srv/flows.git",
    "/srv/flows@2.git",
]


@pytest.mark.parametrize("url", SECRET)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="COMETAPI_FLOWS_REPOSITORY") as refused:
        checkout.flows(str(tmp_path), repository=url)
    assert "hush" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__
    if "[" not in url:
        assert "access_token" in str(refused.value)
        assert "Secret block" in str(refused.value)


@pytest.mark.parametrize("url", PLAIN)
def test_other_urls_are_fine(url: str) -> None:
    checkout.check_repository(url)
