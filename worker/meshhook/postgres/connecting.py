"""How connections and pools are opened, and with which settings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from meshhook.postgres._driver_connections import open_connection
from meshhook.postgres._lazy_pool import LazyPool
from meshhook.postgres.driver_errors import translated_connect_errors
from meshhook.postgres.url import parse_database_url

if TYPE_CHECKING:
    from meshhook.postgres.url import DatabaseUrl

CONNECT_TIMEOUT_SECONDS = 10.0


LAZY_POOL_SIZE = 4
"""The most connections of a pool that is opened for a URL."""


STEADY_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_indexscan": "on",
    "enable_nestloop": "on",
    "jit": "off",
}
"""Planner settings of a worker's own connections.

A queue's table may be empty now and hold a million rows a second later. A plan cached for the
empty table would read the whole table at every claim until the next analyze. With these settings
the plan uses the index at every depth and is made once.
"""


SESSION_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
}
"""Settings that our own sessions need, whatever is configured for the database or the role."""


SEARCH_PATH = "pg_catalog, pg_temp"
"""The search path of our own sessions: no schema in which others may create functions or operators.
A URL may override it, for triggers that need another path."""


def server_encoding(source: Any) -> str | None:
    """Return the encoding of the database behind a connection; None if it is not known.

    Args:
        source: a connection of asyncpg or of a worker; for a pool it is not known.
    """
    if not hasattr(source, "get_settings"):
        return getattr(source, "server_encoding", None)
    return getattr(source.get_settings(), "server_encoding", None)


async def connect(
    url: str,
    *,
    application_name: str = "meshhook",
    pooled: bool = False,
    steady_plans: bool = False,
    lock_timeout_seconds: float | None = None,
    statement_timeout_seconds: float | None = None,
    driver_loop: Any = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection.

    Args:
        url: postgresql://user:password@host:port/database.
        application_name: what `pg_stat_activity` shows.
        pooled: whether a pooler in transaction mode is in between.
        steady_plans: whether to plan by index at every depth; see `STEADY_PLANS`.
        lock_timeout_seconds: how long a statement waits for a lock. Default: as the server says.
        statement_timeout_seconds: how long the server works on a statement; not behind a pooler.
            Default: as the server says.
        driver_loop: what the driver opens the connection through. Default: the running event loop.

    Raises:
        DatabaseUnavailableError, DatabaseError: as `translated_errors` says.
    """
    # A pooler refuses settings at connect. It also plans each time, so that no plan gets stale.
    try:
        target = parse_database_url(url)
    finally:
        del url  # some programs print the local variables of a traceback's frames
    settings: dict[str, str] = {}
    if not pooled:
        settings = _session_settings(target) | (STEADY_PLANS if steady_plans else {})
        if lock_timeout_seconds is not None:
            settings["lock_timeout"] = f"{lock_timeout_seconds * 1000:.0f}ms"
        if statement_timeout_seconds is not None:
            settings["statement_timeout"] = f"{statement_timeout_seconds * 1000:.0f}ms"
    with translated_connect_errors():
        return await open_connection(
            target,
            timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            statement_cache_size=0 if pooled else 100,
            server_settings={"application_name": application_name, **settings},
            loop=driver_loop,
        )


async def _leave_as_it_is(_: object) -> None:
    """Do nothing."""


def _session_settings(target: DatabaseUrl) -> dict[str, str]:
    """Return the settings that all our own sessions have."""
    search_path = target.server_settings.get("search_path", SEARCH_PATH)
    return {**SESSION_SETTINGS, "search_path": search_path}


def lazy_pool(url: str) -> LazyPool:
    """Return a pool that is opened when it is needed.

    Raises:
        InvalidSettingError: the URL is not valid, or names a parameter that is not supported.
    """
    try:
        target = parse_database_url(url)
    finally:
        del url  # as in `connect`
    opener = partial(
        open_pool,
        target,
        min_size=0,
        max_size=LAZY_POOL_SIZE,
        pooled=False,
        lock_timeout_seconds=None,
        driver_loop=None,
    )
    return LazyPool(opener, LAZY_POOL_SIZE)


async def open_pool(
    target: DatabaseUrl, *, min_size: int, max_size: int, pooled: bool, **options: Any
) -> asyncpg.Pool[asyncpg.Record]:
    """Open a pool; its arguments are those of `Database.connect`."""
    with translated_connect_errors():
        return await asyncpg.create_pool(
            min_size=min_size,
            max_size=max_size,
            connect=partial(_open_for_pool, target, pooled=pooled, **options),
            # Behind a pooler there is no session to reset.
            reset=_leave_as_it_is if pooled else None,
        )


async def _open_for_pool(
    target: DatabaseUrl,
    *_: object,
    pooled: bool,
    lock_timeout_seconds: float | None,
    driver_loop: Any,
    **arguments: Any,
) -> asyncpg.Connection[asyncpg.Record]:
    if driver_loop is not None:
        arguments["loop"] = driver_loop
    # A pooler refuses settings at connect.
    settings = {} if pooled else _session_settings(target)
    if lock_timeout_seconds is not None and not pooled:
        limit = f"{lock_timeout_seconds * 1000:.0f}ms"
        settings["lock_timeout"] = target.server_settings.get("lock_timeout", limit)
    return await open_connection(
        target,
        timeout_seconds=CONNECT_TIMEOUT_SECONDS,
        statement_cache_size=0 if pooled else 100,
        server_settings={"application_name": "meshhook", **settings},
        **arguments,
    )
