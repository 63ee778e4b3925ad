"""Where every setting comes from: the environment, `.env`, `prefect.toml` or `pyproject.toml`.

`COMETAPI_KEY` and `COMETAPI_BASE_URL` are the names that the vendor's own SDKs read. Everything
else is `PREFECT_INTEGRATIONS_COMETAPI_<NAME>`, or `<name>` in the table `[integrations.cometapi]`
of `prefect.toml` (`[tool.prefect.integrations.cometapi]` in `pyproject.toml`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Self

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import (
    AliasChoices,
    AliasPath,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import SettingsError

from prefect_cometapi import pace
from prefect_cometapi.errors import ConfigurationError, MissingAPIKey
from prefect_cometapi.urls import DEFAULT_API_ROOT, parse_hosts, strip_around

MIB = 1024 * 1024
#: The home of the ledger that needs no storage.
ON_THE_SERVER = "prefect-server"

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000)]
Bytes = Annotated[int, Field(ge=1)]


def _vendor_alias(name: str, vendor: str) -> AliasChoices:
    # An AliasPath among the choices keeps the plain name usable in code and in TOML files.
    return AliasChoices(AliasPath(name), vendor, f"prefect_integrations_cometapi_{name}")


class CometAPISettings(PrefectBaseSettings):
    """Settings of the whole process; each instance reads its sources afresh."""

    model_config = build_settings_config(("integrations", "cometapi"))
    # A rejected value may be a key: keep it out of the message.
    model_config["hide_input_in_errors"] = True
    # An empty variable is how containers and CI systems spell "not set".
    model_config["env_ignore_empty"] = True

    api_key: SecretStr | None = Field(
        default=None,
        validation_alias=_vendor_alias("api_key", "cometapi_key"),
        description="The API key, where no credentials block is used.",
    )
    base_url: str = Field(
        default=DEFAULT_API_ROOT,
        validation_alias=_vendor_alias("base_url", "cometapi_base_url"),
        description="Base URL of the API; a trailing `/v1` is taken off.",
    )
    connect_timeout: Seconds = Field(
        default=10.0, description="Seconds to wait for a connection, to the API or to output hosts."
    )
    create_timeout: Seconds = Field(
        default=60.0,
        description="Seconds that one create may take; after that its outcome is unknown.",
    )
    chat_timeout: Seconds = Field(
        default=180.0,
        description="Seconds that one answer of a language model may take.",
    )
    query_timeout: Seconds = Field(
        default=20.0, description="Seconds that one query may take before it is asked again."
    )
    download_timeout: Seconds = Field(
        default=300.0, description="Seconds that fetching one output may take, retries included."
    )
    submit_timeout: Seconds = Field(
        default=600.0,
        description="Seconds to keep offering a create that is refused with 429 each time.",
    )
    reconnect_timeout: Seconds = Field(
        default=30.0,
        description="Seconds to keep trying while the API can not be reached at all.",
    )
    retry_after_cap: Seconds = Field(
        default=60.0, description="Longest wait, in seconds, that a 429 may ask for."
    )
    poll_min: Seconds = Field(
        default=pace.POLL_MIN, description="Shortest pause between two polls, in seconds."
    )
    poll_max: Seconds = Field(
        default=pace.POLL_MAX, description="Longest pause between two polls, in seconds."
    )
    poll_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=pace.POLL_SHARE,
        description=(
            "A pause between polls as a share of the prediction's age, where nothing is known of "
            "its model; more means fewer polls and later notice."
        ),
    )
    remember_pace: bool = Field(
        default=True,
        description=(
            "Remember run times on Prefect's server (a Variable for each model), so that the next "
            "run polls where completion is likely. Not those of a service on this machine."
        ),
    )
    requests_in_flight: Count = Field(
        default=100,
        description=(
            "Creates, and as many other API requests, under way in the process at most at once; "
            "there are more than ten only where the network makes them wait."
        ),
    )
    downloads_in_flight: Count = Field(
        default=8, description="Outputs that the process fetches at once."
    )
    max_file_bytes: Bytes = Field(
        default=512 * MIB, description="Largest output that is fetched, in bytes."
    )
    max_whole_bytes: Bytes = Field(
        default=64 * MIB,
        description="Largest output, in bytes, for storage that takes only whole files in memory.",
    )
    delivery_hosts: str = Field(
        default="",
        description=(
            "Hosts that outputs may be fetched from, separated by commas, subdomains included; "
            "empty for any public host. Worth setting behind a proxy, which resolves names itself."
        ),
    )

    ledger: str = Field(
        default=ON_THE_SERVER,
        description=(
            "Where the records of what was paid for live: prefect-server, or a saved storage block "
            "as block://type-slug/name."
        ),
    )
    assets: bool = Field(
        default=True,
        description=(
            "Tell Prefect of each folder or prefix that outputs were saved in, as an asset with "
            "the model and the tables that it is made from."
        ),
    )
    events: bool = Field(
        default=True,
        description=(
            "Send events to Prefect of what becomes of predictions and batches, which automations "
            "can act upon."
        ),
    )
    artifacts: bool = Field(
        default=True,
        description=(
            "Show in Prefect, as artifacts, what each prediction and batch has made, and what "
            "became of it."
        ),
    )
    thumbnails: bool = Field(
        default=True,
        description=(
            "Show small pictures of the outputs in those artifacts, and so store them on Prefect's "
            "server. Needs the extra `images`."
        ),
    )
    prompts: bool = Field(
        default=True,
        description=(
            "Repeat the beginning of prompts in logs, errors, records, artifacts and events. "
            "Without it, no text of an input is sent to Prefect's server, and the model's log "
            "neither."
        ),
    )
    model_logs: bool = Field(
        default=True,
        description=(
            "Keep the models' own log lines: at DEBUG in the run's log, and their last in the "
            "errors of what failed."
        ),
    )
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description=(
            "What one prediction of a model costs, as JSON: model to price. Only for messages."
        ),
    )

    @field_validator("api_key", mode="after")
    @classmethod
    def _clean_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not strip_around(value.get_secret_value()):
            return None
        return SecretStr(clean_api_key(value.get_secret_value()))

    @model_validator(mode="wrap")
    @classmethod
    def _forget(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        with forgetting_inputs():
            return validate(data)

    @field_validator("base_url", mode="after")
    @classmethod
    def _default_where_blank(cls, value: str) -> str:
        return strip_around(value) or DEFAULT_API_ROOT

    @field_validator("ledger", mode="after")
    @classmethod
    def _known_home(cls, value: str) -> str:
        if value != ON_THE_SERVER and not re.fullmatch(r"block://[\w-]+/[\w -]+", value):
            raise ValueError("it is prefect-server, or a saved block as block://type-slug/name")
        return value

    @field_validator("delivery_hosts", mode="after")
    @classmethod
    def _plain_hosts(cls, value: str) -> str:
        return ", ".join(parse_hosts(value))


@contextmanager
def forgetting_inputs() -> Iterator[None]:
    """Take what was refused, which may be a key, out of a `ValidationError`.

    pydantic only leaves it out of the message: `errors()`, and so a stored exception, have it.
    """
    try:
        yield
    except ValidationError as error:
        lines: list[InitErrorDetails] = [
            {
                "type": PydanticCustomError(each["type"], each["msg"]),
                "loc": each["loc"],
                "input": None,
            }
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ValidationError.from_exception_data(error.title, lines, hide_input=True) from None


def load_settings() -> CometAPISettings:
    """Read the settings.

    Raises:
        ConfigurationError: A setting has a value that it can not have; says which.
    """
    try:
        return CometAPISettings()
    except (ValidationError, SettingsError, TOMLDecodeError) as error:
        problems = (
            "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            )
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise ConfigurationError(
            f"A setting of prefect-cometapi is not usable: {problems.rstrip('.')}. Settings come "
            "from the environment (COMETAPI_KEY, COMETAPI_BASE_URL, "
            "PREFECT_INTEGRATIONS_COMETAPI_*), .env, prefect.toml and pyproject.toml."
        ) from None


def clean_api_key(text: str) -> str:
    """The key without what pasting leaves around it.

    Raises:
        MissingAPIKey: Nothing is left.
        ConfigurationError: It can not be sent in a header, or only stands for a key. The message
            does not repeat it.
    """
    key = strip_around(text)
    if not key:
        raise MissingAPIKey(f"The API key is empty. {WAYS_TO_SET_A_KEY}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            "The API key holds a line break, a space or a character that no key has. "
            "Copy it again from the vendor's dashboard, as one line."
        )
    if not key.strip("*"):
        raise ConfigurationError(
            "The API key is a row of asterisks, which Prefect shows in place of a key. Enter the "
            "key itself. In a block that uses saved credentials, choose them again: Prefect's V2 "
            "UI forgets them when such a block is edited."
        )
    return key


WAYS_TO_SET_A_KEY = (
    "Set one in one of three ways: the environment variable COMETAPI_KEY; a saved block, "
    'CometAPICredentials(api_key="…").save("default"), loaded with '
    'CometAPICredentials.load("default"); or CometAPICredentials(api_key="…") in code. '
    "To try without a key, run the simulator: python -m prefect_cometapi.simulator."
)
