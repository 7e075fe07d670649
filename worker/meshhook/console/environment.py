"""The settings of the console from environment variables, `MESHHOOK_CONSOLE_*`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from meshhook.console.settings import ConsoleSettings
from meshhook.errors import InvalidSettingError
from meshhook.known_secrets import known_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MESHHOOK_CONSOLE_"


def console_settings(
    environment: Mapping[str, str] | None = None,
    *,
    read_only: bool = False,
    allow_unauthenticated: bool = False,
) -> ConsoleSettings:
    """Return the settings in the environment.

    Args:
        environment: where they are. Default: that of this process.
        read_only: whether everybody is a viewer, whatever it says. Default false.
        allow_unauthenticated: whether everybody who reaches it may change everything, whatever it
            says. Default false.

    Raises:
        InvalidSettingError: naming the variable and what is wrong.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, Any] = {
        name: value
        for name in ConsoleSettings.model_fields
        if (value := environment.get(PREFIX + name.upper(), "").strip())
    }
    flags = {"read_only": read_only, "allow_unauthenticated": allow_unauthenticated}
    found |= {name: True for name, is_set in flags.items() if is_set}
    try:
        settings = ConsoleSettings.of(**found)
    except InvalidSettingError as error:
        raise InvalidSettingError(
            f"the console's settings (environment variables {PREFIX}*): {error}"
        ) from None
    if settings.secret is not None:
        known_secrets.remember(settings.secret.get_secret_value())
    return settings
