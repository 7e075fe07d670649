"""Settings of the operator, from environment variables: `MESHHOOK_OPERATOR_NAMESPACES` and its like."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshhook.errors import InvalidSettingError

_PREFIX = "MESHHOOK_OPERATOR_"


class OperatorSettings(BaseSettings):
    """What the operator reads from the environment; every name starts with `MESHHOOK_OPERATOR_`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    namespaces: Annotated[str, Field(pattern=r"^\s*([a-z0-9-]+\s*(,\s*[a-z0-9-]+\s*)*)?$")] = ""
    """The namespaces to serve, parted by commas. Default: empty, the whole cluster."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 9464
    """Where metrics are served, at /metrics; 0 serves none. Default 9464."""
    health_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Where health is served, at /healthz; 0 serves none. Default 8080."""
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"
    """`json`, `console`, or `auto`: console on a terminal. Default auto."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """The lowest level that is logged: debug, info, warning or error. Default info."""

    @property
    def namespace_list(self) -> list[str]:
        """The namespaces to serve; empty means the whole cluster."""
        return [name.strip() for name in self.namespaces.split(",") if name.strip()]


def load_operator_settings() -> OperatorSettings:
    """Read the settings from the environment.

    Raises:
        InvalidSettingError: naming the variable, the value received and the rule.
    """
    try:
        return OperatorSettings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = _PREFIX + str(first["loc"][0]).upper()
        message = f"environment variable {variable}={first['input']!r}: {first['msg']}"
        raise InvalidSettingError(message) from None
