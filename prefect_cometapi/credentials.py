"""The credentials block: a key, and the API that it belongs to."""

from __future__ import annotations

from typing import Any

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import MissingAPIKey
from prefect_cometapi.settings import WAYS_TO_SET_A_KEY, clean_api_key, load_settings
from prefect_cometapi.urls import DEFAULT_API_ROOT, parse_api_root

#: The vendor's page on the calls that this package makes.
DOCUMENTATION_URL = HttpUrl(
    "https://apidoc.cometapi.com/api/image/replicate/create-predictions-general"
)
LOGO_URL = HttpUrl(
    "https://raw.githubusercontent.com/prefect-cometapi/prefect-cometapi/main/docs/logo.png"
)


class CometAPICredentials(CredentialsBlock):
    """Stores a CometAPI key, and the API root that it may be sent to.

    Example:
        Load saved credentials and make a picture:
        ```python
        from prefect import flow
        from prefect_cometapi import CometAPICredentials, generate

        @flow
        def boat():
            credentials = CometAPICredentials.load("BLOCK_NAME")
            return generate(
                credentials,
                "black-forest-labs/flux-schnell",
                {"prompt": "A paper boat on calm water"},
                "pictures",
            )
        ```
    """

    _block_type_name = "CometAPI Credentials"
    _block_type_slug = "cometapi-credentials"
    _logo_url = LOGO_URL
    _documentation_url = DOCUMENTATION_URL

    # A rejected value may be the key: keep it out of the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    api_key: SecretStr = Field(
        title="API key",
        description="The API key, from the vendor's dashboard. White space around it is removed.",
    )
    base_url: str = Field(
        default=DEFAULT_API_ROOT,
        title="Base URL",
        description=(
            "Root of the API, the only place that the key is sent to. A trailing /v1 is removed. "
            "Must be https, unless it is on this machine."
        ),
    )
    allow_insecure: bool = Field(
        default=False,
        title="Allow plain http",
        description=(
            "Accept an http base URL on another host, which sends the key unencrypted. "
            "Meant for a simulator in a network you trust."
        ),
    )

    @field_validator("api_key", mode="after")
    @classmethod
    def _clean_key(cls, value: SecretStr) -> SecretStr:
        return SecretStr(clean_api_key(value.get_secret_value()))

    @model_validator(mode="after")
    def _root(self) -> CometAPICredentials:
        root = parse_api_root(self.base_url, allow_insecure=self.allow_insecure)
        if root != self.base_url:
            self.base_url = root
        return self

    @classmethod
    def from_env(cls, **overrides: Any) -> CometAPICredentials:
        """Make credentials from `COMETAPI_KEY` and `COMETAPI_BASE_URL`.

        Args:
            overrides: Fields that are to be taken from here instead.

        Raises:
            MissingAPIKey: No key is set; says the three ways to set one.
            ConfigurationError: The key or the base URL is not usable.
        """
        settings = load_settings()
        if "api_key" not in overrides and settings.api_key is None:
            raise MissingAPIKey(f"There is no CometAPI key. {WAYS_TO_SET_A_KEY}")
        values = {"api_key": settings.api_key, "base_url": settings.base_url} | overrides
        # Here it is said plainly; from a validator it would come wrapped in pydantic's words.
        parse_api_root(values["base_url"], allow_insecure=values.get("allow_insecure", False))
        return cls(**values)

    def get_client(self) -> CometAPIClient:
        """A client for calls without Prefect's tasks, such as `client.get_prediction(id)`.

        It is cheap, shares connections and limits with everything else in the process, and needs
        no closing. Its methods come in pairs: `get_prediction` and `aget_prediction`.
        """
        return CometAPIClient(
            self.base_url, self.api_key, load_settings(), allow_insecure=self.allow_insecure
        )
