"""Django, set up once, with a database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import django
from django import conf
from django.db import connections


def set_up() -> None:
    """Set Django up, unless it is."""
    if not conf.settings.configured:
        conf.settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
            INSTALLED_APPS=[],
            USE_TZ=True,
        )
        django.setup()


def database_settings(url: str) -> dict[str, Any]:
    """Return what DATABASES has for a URL."""
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
    }


@contextmanager
def django_database(url: str) -> Iterator[Any]:
    """Let Django's `default` be another database; yield the connection of this thread."""
    set_up()
    before = connections.settings["default"]
    connections.settings["default"] = {**before, **database_settings(url)}
    connections["default"] = connections.create_connection("default")
    try:
        yield connections["default"]
    finally:
        connections["default"].close()
        connections.settings["default"] = before
        del connections["default"]
