"""Settings from environment variables: `MESHHOOK_DATABASE_URL` and its like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshhook.errors import InvalidSettingError
from meshhook.known_secrets import known_secrets


class Settings(BaseSettings):
    """What the command line reads from the environment; every name starts with `MESHHOOK_`."""

    model_config = SettingsConfigDict(env_prefix="MESHHOOK_", frozen=True, extra="ignore")

    database_url: SecretStr | None = None
    """The PostgreSQL database that holds the queues, as postgresql://user:password@host/name."""
    embedded_directory: Path = Path(".meshhook")
    """Where the embedded PostgreSQL keeps its data. Default `.meshhook`."""
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"
    """`json`, `console`, or `auto`: console on a terminal. Default auto."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """The lowest level that is logged: debug, info, warning or error. Default info."""
    postgres_password: SecretStr | None = None
    """The password that `meshhook serve-postgres` sets for the role `meshhook`."""
    postgres_operator_password: SecretStr | None = None
    """The password that it sets for the role `meshhook_operator`. Default: no such role is made."""
    postgres_worker_password: SecretStr | None = None
    """The password that it sets for the role `meshhook_worker`. Default: no such role is made."""
    postgres_oncall_password: SecretStr | None = None
    """The password that it sets for the role `meshhook_oncall`. Default: no such role is made."""
    postgres_reader_password: SecretStr | None = None
    """The password that it sets for the role `meshhook_reader`. Default: no such role is made."""
    pooled: bool = False
    """Whether the URL leads through a pooler in transaction mode, such as PgBouncer.
    Statements are then not prepared under a name, and waiting workers poll. Default false."""
    listen_url: SecretStr | None = None
    """The same database without the pooler, for a worker's claims and notifications.
    Default: none; with `pooled`, a waiting worker then polls."""
    process_index: Annotated[int, Field(ge=0)] | None = None
    """Which of the processes of `meshhook worker --processes` this is, from 0; set by it for each
    of them. Default: none, a worker by itself."""


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        InvalidSettingError: naming the variable, the value received and the rule.
    """
    try:
        found = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "MESHHOOK_" + str(first["loc"][0]).upper()
        is_secret = variable.endswith(("_URL", "_PASSWORD"))
        shown = "(hidden)" if is_secret else repr(first["input"])
        message = f"environment variable {variable}={shown}: {first['msg']}"
        raise InvalidSettingError(message) from None
    if found.postgres_password is not None:
        known_secrets.remember(found.postgres_password.get_secret_value())
    return found
