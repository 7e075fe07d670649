"""What to call a value that is not what was expected, and what to pass in its place."""

from __future__ import annotations

import asyncio


def kind_of(value: object) -> str:
    """Return what to call the type of a value in an error."""
    kind = value if isinstance(value, type) else type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"the class {name}" if isinstance(value, type) else name


def way_out(value: object) -> str:
    """Return what to do instead of passing a value for a pool or connection."""
    if value is None or isinstance(value, str | bytes):
        return "; a pool is opened by await Database.connect(url) or await asyncpg.create_pool(url)"
    if asyncio.iscoroutine(value):
        return "; await it first"
    package = type(value).__module__.partition(".")[0]
    if package.startswith("sqlalchemy"):
        return (
            "; with an engine of postgresql+asyncpg, asyncpg's own connection is "
            "(await connection.get_raw_connection()).driver_connection"
        )
    if package.startswith("psycopg"):
        return "; MeshHook uses asyncpg, which cannot share a connection with psycopg"
    if package == "asyncpg":
        return "; pass the connection itself"
    return ""
