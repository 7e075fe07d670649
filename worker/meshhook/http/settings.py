"""Settings of webhook deliveries, from arguments and from environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypedDict

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from meshhook.arguments import MAX_PORT
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted, shown_sentence
from meshhook.http.addresses import Network, parsed_network

_PREFIX = "MESHHOOK_WEBHOOK_"
_HIDDEN = frozenset({"secret"})


def _parts(value: Any) -> Any:
    """Split what an environment variable lists, separated by commas or spaces."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _network(value: Any) -> Any:
    return parsed_network(value) if isinstance(value, str) else value


_Seconds = Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)]
_Ports = Annotated[
    frozenset[Annotated[int, Field(ge=1, le=MAX_PORT)]], NoDecode, BeforeValidator(_parts)
]
_Networks = Annotated[
    tuple[Annotated[Network, BeforeValidator(_network)], ...], NoDecode, BeforeValidator(_parts)
]


class WebhookOptions(TypedDict, total=False):
    """The optional arguments of a `WebhookHandler`; `WebhookSettings` describes them."""

    allow_http: bool
    allowed_ports: Any
    allowed_networks: Any
    refused_networks: Any
    ca_file: Path | str | None
    connect_timeout_seconds: float
    read_timeout_seconds: float
    total_timeout_seconds: float
    max_response_bytes: int
    max_retry_after_seconds: float
    follow_redirects: int
    max_connections_per_destination: int
    max_idle_connections: int
    idle_seconds: float
    user_agent: str


class WebhookSettings(BaseSettings):
    """The settings of a `WebhookHandler`.

    Each is an argument of the handler. One that is not given is read from the environment, as
    MESHHOOK_WEBHOOK_ and its name in capitals; lists are separated by commas.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    secret: SecretStr | None = None
    """The secret to sign with, `whsec_` and base64; for a rotation several, separated by spaces,
    the newest first. Only read from the environment: `WebhookHandler` has an argument of its own.
    Default: none."""
    allow_http: bool = False
    """Whether http:// is taken too. Default false: only https://."""
    allowed_ports: _Ports | None = None
    """The ports that are taken, such as `[443, 8443]`. Default: all."""
    allowed_networks: _Networks = ()
    """Networks that may be connected to although they are not public, such as `["10.20.0.0/16"]`.
    Default: none."""
    refused_networks: _Networks = ()
    """Networks that must not be connected to, whatever else is allowed, such as your own public
    ones. Default: none."""
    ca_file: Path | None = None
    """A file with certificates of authorities that are trusted besides those of the system.
    Default: none."""
    connect_timeout_seconds: _Seconds = 5.0
    """How long it may take to look up the name, connect, and agree on TLS. Default 5."""
    read_timeout_seconds: _Seconds = 10.0
    """How long the receiver may be silent. Default 10."""
    total_timeout_seconds: _Seconds = 15.0
    """How long it may take until the receiver has answered with a status, redirects included. The
    body of the answer gets two more seconds; a status counts without it. Keep it below the queue's
    `job_timeout_seconds`. Default 15."""
    max_response_bytes: Annotated[int, Field(ge=0, le=1_048_576)] = 16_384
    """How much of the body of an answer is read, 0 to 1048576. Default 16384."""
    max_retry_after_seconds: Annotated[float, Field(ge=1, le=604_800, allow_inf_nan=False)] = (
        3_600.0
    )
    """The longest wait that a receiver may ask for with Retry-After, 1 to 604800; a longer one
    becomes this one. Default 3600."""
    follow_redirects: Annotated[int, Field(ge=0, le=5)] = 0
    """How many redirects are followed, 0 to 5: only 307 and 308, and each new URL is checked like
    the first. Default 0."""
    max_connections_per_destination: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How many deliveries to one destination (scheme, host and port) a worker process makes at
    once, 1 to 10000; more wait. Default 50."""
    max_idle_connections: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How many connections are kept open for the next delivery, 0 to 10000. Default 100."""
    idle_seconds: Annotated[float, Field(ge=1, le=600, allow_inf_nan=False)] = 15.0
    """How long an unused connection is kept, 1 to 600. Default 15."""
    user_agent: Annotated[str, Field(pattern=r"^[ -~]{1,200}$")] = "MeshHook-Queue"
    """The header User-Agent, 1 to 200 characters of ASCII. Default `MeshHook-Queue`."""


def webhook_settings(given: WebhookOptions) -> WebhookSettings:
    """Return settings from arguments, and from the environment for those that are not given.

    Raises:
        InvalidSettingError: naming the argument or the environment variable, the value received
            and the rule.
    """
    arguments: dict[str, Any] = {**given}
    names = [name for name in WebhookSettings.model_fields if name not in _HIDDEN]
    for name in arguments:
        if name not in names:
            raise InvalidSettingError(
                f"a webhook handler has no setting {quoted(name, limit=60)}; it has: "
                f"{', '.join(names)}"
            )
    try:
        return WebhookSettings(**arguments)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        rule = shown_sentence(fault["msg"], limit=200)
        if name in arguments:
            message = f"{name}={quoted(arguments[name])}: {rule}"
        else:
            value = "(hidden)" if name in _HIDDEN else quoted(fault["input"])
            message = f"environment variable {_PREFIX}{name.upper()}={value}: {rule}"
        raise InvalidSettingError(message) from None
