"""Finds out which driver a caller's connection belongs to, without importing any other driver."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshhook.arguments import kind_of
from meshhook.errors import InvalidSettingError

if TYPE_CHECKING:
    from meshhook.drivers.driver_connection import DriverConnection, SyncDriverConnection

_MODULES = {
    "django": "django_connections",
    "psycopg": "psycopg_connections",
    "sqlalchemy": "sqlalchemy_connections",
}
"""The module for each driver's package."""


async def driver_connection(given: object) -> DriverConnection | None:
    """Return what a caller's connection is to the library.

    None if it is asyncpg's, or no connection.
    """
    module = _module_of(given)
    if not isinstance(
        given, getattr(module, "SYNC_KINDS", ()) + getattr(module, "ASYNC_KINDS", ())
    ):
        return None
    found: Any = module.connection_of(given)
    connection: DriverConnection = await found if inspect.isawaitable(found) else found
    return connection


def sync_connection(given: object) -> SyncDriverConnection:
    """Return what a caller's connection is to the library, if its statements block.

    Raises:
        InvalidSettingError: if it is no connection, or one that has to be awaited.
    """
    check_sync(given)
    connection: SyncDriverConnection = _module_of(given).connection_of(given)
    return connection


def check_sync(given: object) -> None:
    """Check that a caller's connection is one whose statements block, without using it.

    Raises:
        InvalidSettingError: if it is not.
    """
    module = _module_of(given)
    if isinstance(given, getattr(module, "SYNC_KINDS", ())):
        return
    is_async = isinstance(given, getattr(module, "ASYNC_KINDS", ()))
    is_asyncpg = str(type(given).__module__).partition(".")[0] == "asyncpg"
    way_out = "; await QueueService.enqueue() takes it" if is_async or is_asyncpg else ""
    raise InvalidSettingError(
        "connection: expected one of psycopg, SQLAlchemy or Django that is not asynchronous, "
        f"got {kind_of(given)}{way_out}"
    )


def _module_of(given: object) -> Any:
    packages = {str(each.__module__).partition(".")[0] for each in type(given).__mro__}
    for package in packages & _MODULES.keys():
        return import_module(f"meshhook.drivers.{_MODULES[package]}")
    return None
