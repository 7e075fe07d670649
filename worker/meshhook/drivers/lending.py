"""Finds out which driver a caller's connection belongs to, without importing any other driver."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshhook.arguments import kind_of
from meshhook.drivers.driver_connection import SyncDriverConnection
from meshhook.errors import InvalidSettingError

if TYPE_CHECKING:
    from meshhook.drivers.driver_connection import DriverConnection

_MODULES = {"psycopg": "psycopg_connections", "sqlalchemy": "sqlalchemy_connections"}
"""The module for each driver's package."""


async def driver_connection(given: object) -> DriverConnection | None:
    """Return what a caller's connection is to the library.

    None if it is asyncpg's, or no connection.
    """
    found: Any = _found(given)
    connection: DriverConnection | None = await found if inspect.isawaitable(found) else found
    return connection


def sync_connection(given: object) -> SyncDriverConnection:
    """Return what a caller's connection is to the library, if its statements block.

    Raises:
        InvalidSettingError: if it is no connection, or one that has to be awaited.
    """
    found = None if inspect.iscoroutine(given) else _found(given)
    if isinstance(found, SyncDriverConnection):
        return found
    if inspect.iscoroutine(found):
        found.close()
    is_async = found is not None or type(given).__module__.startswith("asyncpg")
    way_out = "; await QueueService.enqueue() takes it" if is_async else ""
    raise InvalidSettingError(
        "connection: expected one of psycopg or SQLAlchemy that is not asynchronous, "
        f"got {kind_of(given)}{way_out}"
    )


def _found(given: object) -> Any:
    packages = {each.__module__.partition(".")[0] for each in type(given).__mro__}
    for package in packages & _MODULES.keys():
        module = import_module(f"meshhook.drivers.{_MODULES[package]}")
        if (found := module.connection_of(given)) is not None:
            return found
    return None
