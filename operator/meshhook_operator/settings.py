"""Settings of the operator, from environment variables such as `MESHHOOK_OPERATOR_NAMESPACES`."""

from __future__ import annotations

import platform
import re
import secrets
import textwrap
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshhook.errors import InvalidSettingError
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.databases.hosts import DatabaseHosts

_PREFIX = "MESHHOOK_"
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class OperatorSettings(BaseSettings):
    """What the operator reads from the environment; every name starts with `MESHHOOK_`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    operator_namespaces: str = ""
    """The namespaces to watch, separated by commas. Default: empty, the whole cluster."""
    operator_allowed_database_hosts: str = ""
    """Where the databases of JobQueues may be, separated by commas: names (db.example.com),
    suffixes (*.db.svc.cluster.local), addresses and CIDRs (10.0.0.0/8), each optionally with :port;
    IPv6 with a port in brackets ([fd00::/8]:5432). Default: empty, anywhere."""
    operator_lease: str = ""
    """The Lease of this installation, as namespace/name. Of the processes with the same Lease one
    works, and the others stand by. Default: `meshhook-operator` in the process's own namespace."""
    operator_identity: Annotated[str, Field(max_length=200)] = ""
    """What this process is called in its Lease. No other process may use it at the same time.
    Default: the host's name and a random number."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 9464
    """The port for /metrics, /healthz and /readyz; 0 takes a free port and logs it.
    Default 9464."""
    metrics_address: str = "0.0.0.0"  # noqa: S104 - Prometheus and the kubelet connect from elsewhere
    """The address that this port is opened on; `::` is all of IPv6 and IPv4. Default 0.0.0.0."""
    watch_silence_seconds: Annotated[float, Field(ge=5, le=3600)] = 70
    """How long a watch may be silent before it is opened again, in seconds, 5 to 3600. The API
    server sends something at least once a minute. Default 70."""
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"
    """`json`, `console`, or `auto`: console on a terminal. Default auto."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """The lowest level that is logged: debug, info, warning or error. Default info."""

    @field_validator("operator_namespaces")
    @classmethod
    def _are_names(cls, value: str) -> str:
        for name in value.split(","):
            if name.strip() and not _NAMESPACE.fullmatch(name.strip()):
                message = (
                    f"{name.strip()!r} is not the name of a namespace; separate several by commas"
                )
                raise ValueError(message)
        return value

    @field_validator("operator_lease")
    @classmethod
    def _is_a_lease(cls, value: str) -> str:
        namespace, slash, name = value.partition("/")
        if value and not (slash and _NAMESPACE.fullmatch(namespace) and _NAME.fullmatch(name)):
            message = "expected namespace/name, such as meshhook/meshhook-operator"
            raise ValueError(message)
        return value

    @field_validator("operator_allowed_database_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        DatabaseHosts(value)
        return value

    @property
    def database_hosts(self) -> DatabaseHosts:
        """Where the databases of JobQueues may be."""
        return DatabaseHosts(self.operator_allowed_database_hosts)

    @property
    def identity(self) -> str:
        """What this process is called in its Lease; different at each call, unless it is set."""
        return self.operator_identity or f"{platform.node()}_{secrets.token_hex(4)}"

    def lease_in(self, own_namespace: str) -> ObjectKey:
        """Return the Lease of this installation, given the namespace of the process."""
        namespace, _, name = self.operator_lease.partition("/")
        return ObjectKey(namespace or own_namespace, name or "meshhook-operator")

    @property
    def namespaces(self) -> list[str]:
        """The namespaces to watch; none means the whole cluster."""
        return [name.strip() for name in self.operator_namespaces.split(",") if name.strip()]


def describe_operator_settings() -> str:
    """Return the variables and their descriptions, as text for a terminal."""
    return "\n".join(
        textwrap.fill(
            f"{_PREFIX}{name.upper()}: {field.description}",
            width=80,
            initial_indent="  ",
            subsequent_indent="      ",
        )
        for name, field in OperatorSettings.model_fields.items()
    )


def load_operator_settings() -> OperatorSettings:
    """Read the settings from the environment.

    Raises:
        InvalidSettingError: naming the variable, the value received and the rule.
    """
    try:
        return OperatorSettings()
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        variable = _PREFIX + str(first["loc"][0]).upper()
        message = f"environment variable {variable}={first['input']!r}: {reason}"
        raise InvalidSettingError(message) from None
