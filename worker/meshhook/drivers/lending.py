"""Finds out which driver a caller's connection belongs to, without importing any other driver."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook.drivers.driver_connection import DriverConnection

_MODULES = {"psycopg": "psycopg_connections"}
"""The module for each driver's package."""


def driver_connection(given: object) -> DriverConnection | None:
    """Return what a caller's connection is to the library.

    None if it is asyncpg's, or no connection.
    """
    packages = {each.__module__.partition(".")[0] for each in type(given).__mro__}
    for package in packages & _MODULES.keys():
        module = import_module(f"meshhook.drivers.{_MODULES[package]}")
        found: DriverConnection | None = module.connection_of(given)
        if found is not None:
            return found
    return None
