"""Where a deployed run finds its flows: the pull step of `prefect.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.deployments.steps.pull import git_clone, set_working_directory

from prefect_cometapi.errors import ConfigurationError


def flows(
    folder: str, repository: str = "", branch: str = "", access_token: str | None = None
) -> dict[str, str]:
    """Go to the flows: in a clone of the repository where one is named, else in the folder.

    Args:
        folder: Where they were deployed from; a machine that sees the same folder needs no clone.
        repository: A URL that `git clone` takes, without a user, a token or a query in it. The
            clone is deleted when the run has ended, so outputs and records have to go to a storage
            block.
        branch: A branch or tag; by default the repository's own.
        access_token: For a private repository over https, as a reference to a Secret block.

    Returns:
        The folder, as Prefect's own steps do.

    Raises:
        ConfigurationError: There is neither; or the URL holds a secret.
    """
    if repository:
        check_repository(repository)
        clone: Any = git_clone  # which is typed for async callers, too
        return dict(clone(repository, branch=branch or None, access_token=access_token, _sync=True))
    if not Path(folder).is_dir():
        raise ConfigurationError(
            f"This machine has no folder {folder}, which the flows were deployed from. Name the "
            "repository that has them: set COMETAPI_FLOWS_REPOSITORY, as in prefect.yaml, where "
            "the worker runs. Nothing was sent."
        )
    return set_working_directory(folder)


def check_repository(url: str) -> None:
    """Refuse a URL with a user or a token in it: the deployment would show it to everybody.

    Raises:
        ConfigurationError: It has one. The message does not repeat it.
    """
    if "://" not in url:  # git@host:team/flows.git, a folder
        return
    try:
        parts = urlsplit(url)
        # The user of ssh is a name, mostly "git"; that of https may well be a token.
        user = "" if parts.scheme == "ssh" else parts.username
        secret = user or parts.password or parts.query or parts.fragment
    except ValueError:
        raise ConfigurationError(
            f"The URL of the flows' repository can not be read. {_SET}"
        ) from None
    if secret:
        raise ConfigurationError(
            "The URL of the flows' repository holds a user, a token or a query, and where "
            f"`prefect deploy` has read it, everybody who sees the deployment can read it. {_SET} "
            "For a private one, save the token as a Secret block and name it in prefect.yaml: "
            'access_token: "{{ prefect.blocks.secret.flows-token }}". Revoke a token that was '
            "deployed in a URL. Nothing was sent."
        )


_SET = "Set COMETAPI_FLOWS_REPOSITORY to its plain URL, such as https://git.example.com/flows.git."
