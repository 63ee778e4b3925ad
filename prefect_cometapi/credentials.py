"""The credentials block: a key, and the API that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from prefect.blocks.abstract import CredentialsBlock
from pydantic import (
    ConfigDict,
    Field,
    HttpUrl,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from prefect_cometapi import portal
from prefect_cometapi.client import CometAPIClient
from prefect_cometapi.errors import ConfigurationError, MissingAPIKey
from prefect_cometapi.settings import (
    WAYS_TO_SET_A_KEY,
    clean_api_key,
    forgetting_inputs,
    load_settings,
)
from prefect_cometapi.urls import DEFAULT_API_ROOT, parse_api_root

#: The vendor's page on the calls that this package makes.
DOCUMENTATION_URL = HttpUrl(
    "https://apidoc.cometapi.com/api/image/replicate/create-predictions-general"
)
LOGO_URL = HttpUrl(
    "https://raw.githubusercontent.com/prefect-cometapi/prefect-cometapi/main/docs/logo.png"
)

_Content = tuple[SecretStr, str, bool]


class CometAPICredentials(CredentialsBlock):
    """Stores a CometAPI key, and the API root that it may be sent to.

    Other processes (Dask, a process pool, `.delay()`) are sent a reference, never the key: the
    name of a saved block, or "from the environment". Other credentials can not be sent there.

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
    # For the UI, which shows it in the forms of other blocks, too.
    _description = "A CometAPI key, and the API that it may be sent to."
    _logo_url = LOGO_URL
    _documentation_url = DOCUMENTATION_URL

    # A rejected value may be the key: keep it out of the message.
    model_config = ConfigDict(hide_input_in_errors=True)

    api_key: SecretStr = Field(
        title="API key",
        description="From the vendor's dashboard. White space around it is removed.",
    )
    base_url: str = Field(
        default=DEFAULT_API_ROOT,
        title="Base URL",
        description=(
            "Root of the API, the only place that the key is sent to. Must be https, unless it is "
            "on the machine where the flow runs. A trailing /v1 is removed."
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

    # Where the same content can be read again: the block's name, or None for the environment.
    _source: tuple[str | None, _Content] | None = PrivateAttr(None)

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

    @model_validator(mode="wrap")  # after the one before it, so that it sees all errors
    @classmethod
    def _forget(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        with forgetting_inputs():
            return validate(data)

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
        made = cls(**values)
        if not overrides:
            made._source = (None, made._content())
        return made

    def get_client(self) -> CometAPIClient:
        """A client for calls without Prefect's tasks, such as `client.get_prediction(id)`.

        It is cheap, shares connections and limits with everything else in the process, and needs
        no closing. Its methods come in pairs: `get_prediction` and `aget_prediction`.
        """
        return CometAPIClient(
            self.base_url, self.api_key, load_settings(), allow_insecure=self.allow_insecure
        )

    # --- other processes ----------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_block_document_name":  # Prefect sets it wherever it loads or saves a block
            self._source = (value, self._content()) if value else None

    def __reduce__(self) -> tuple[Callable[..., CometAPICredentials], tuple[Any, ...]]:
        """Pickle a reference; copies are made by pydantic and do not come here."""
        if self._source is None or self._source[1] != self._content():
            raise ConfigurationError(
                "These CometAPI credentials can not be sent to another process (Dask, a process "
                "pool, .delay(), a stored result), because their key would be written there: they "
                "were made or changed in code. Save them as a block, "
                'credentials.save("default"), and pass CometAPICredentials.load("default"); or '
                "set COMETAPI_KEY in both processes, and pass CometAPICredentials.from_env()."
            )
        name = self._source[0]
        if name is None:
            return _from_environment, (type(self), self.base_url)
        return _from_block, (type(self), name)

    @model_serializer(mode="wrap")
    def ser_model(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """Give the key to a block document only, which Prefect dumps by alias.

        It asks for secrets as well where it sends a run's parameters along to other processes.
        """
        dumped = super().ser_model(handler, info)
        with_secrets = (info.context or {}).get("include_secrets") and not info.by_alias
        if with_secrets and "api_key" in dumped:
            dumped["api_key"] = str(self.api_key)
        return dumped

    def _content(self) -> _Content:
        return self.api_key, self.base_url, self.allow_insecure


def _from_block(cls: type[CometAPICredentials], name: str) -> CometAPICredentials:
    try:
        loaded: CometAPICredentials = portal.call(cls.aload, name)
        return loaded
    except Exception as error:
        raise ConfigurationError(
            f'The credentials block "{name}", which was sent here by its name, can not be loaded: '
            f"{error} PREFECT_API_URL must lead this process to the server that has the block."
        ) from error


def _from_environment(cls: type[CometAPICredentials], base_url: str) -> CometAPICredentials:
    try:
        made = cls.from_env()
    except MissingAPIKey as error:
        raise MissingAPIKey(
            "Credentials of CometAPICredentials.from_env() were sent to this process, as a "
            f"reference to its own environment. {error}"
        ) from None
    if made.base_url != base_url:
        raise ConfigurationError(
            f"These credentials were read from an environment whose base URL is {base_url}, and "
            f"sent to a process whose environment says {made.base_url}. Set COMETAPI_BASE_URL to "
            "the same in both, or save the credentials as a block and pass that."
        )
    return made
