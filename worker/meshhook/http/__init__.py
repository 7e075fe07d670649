"""Delivering webhooks: a stock handler, and the payload that it takes.

`meshhook worker webhooks --handler meshhook.http:deliver` runs it with settings from the
environment. It needs the extra `http`: pip install 'meshhook-queue[http]'.
"""

from __future__ import annotations

# As in `meshhook` itself: a name is imported when it is first asked for.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from meshhook.errors import (
        AddressRefusedError,
        DeliveryError,
        InvalidAnswerError,
        ReceiverError,
        ReceiverTimeoutError,
        ReceiverTlsError,
        ReceiverUnreachableError,
        UrlRefusedError,
    )
    from meshhook.http.deliveries import WebhookDelivery
    from meshhook.http.handler import WebhookHandler
    from meshhook.http.settings import WebhookSettings

    deliver: WebhookHandler
    """The handler with settings from the environment, made when it is first asked for."""

__all__ = [
    "AddressRefusedError",
    "DeliveryError",
    "InvalidAnswerError",
    "ReceiverError",
    "ReceiverTimeoutError",
    "ReceiverTlsError",
    "ReceiverUnreachableError",
    "UrlRefusedError",
    "WebhookDelivery",
    "WebhookHandler",
    "WebhookSettings",
    "deliver",
]

_HOMES = {
    "AddressRefusedError": "meshhook.errors",
    "DeliveryError": "meshhook.errors",
    "InvalidAnswerError": "meshhook.errors",
    "ReceiverError": "meshhook.errors",
    "ReceiverTimeoutError": "meshhook.errors",
    "ReceiverTlsError": "meshhook.errors",
    "ReceiverUnreachableError": "meshhook.errors",
    "UrlRefusedError": "meshhook.errors",
    "WebhookDelivery": "meshhook.http.deliveries",
    "WebhookHandler": "meshhook.http.handler",
    "WebhookSettings": "meshhook.http.settings",
    "deliver": "meshhook.http.handler",
}
"""The module of each name; the imports above say the same to type checkers."""

_PACKAGES = {"aiohttp", "standardwebhooks", "yarl"}


def __getattr__(name: str) -> Any:
    """Import a public name, or make `deliver`. Raises AttributeError for any other name.

    Raises:
        InvalidHandlerError: if the extra `http` is not installed.
        InvalidSettingError: for `deliver`, naming the environment variable that is wrong.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'meshhook.http' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - for the same reason

    from meshhook.errors import InvalidHandlerError  # noqa: PLC0415 - for the same reason

    try:
        home = import_module(_HOMES[name])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise InvalidHandlerError(
            f"meshhook.http needs {package}: pip install 'meshhook-queue[http]'"
        ) from None
    value = home.WebhookHandler() if name == "deliver" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, and what a module always has."""
    return sorted({*globals(), *__all__})
