"""A pool of connections that is opened when the first one is needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class LazyPool:
    """Behaves like an asyncpg pool, as far as `Database` uses one.

    It can be made before an event loop runs. Once closed, the next use opens it again, also in
    another event loop.
    """

    def __init__(self, open_pool: Callable[[], Awaitable[Any]], max_size: int) -> None:
        """Take what opens the pool, and the most connections that it will have."""
        self._open_pool = open_pool
        self._max_size = max_size
        self._pool: Any = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()

    def check_loop(self) -> None:
        """Check that the pool is not open in another event loop than the one that runs.

        Raises:
            InvalidSettingError: if it is.
        """
        if self._home is not None and self._home.is_closed():
            self._pool = self._home = None
        if self._home not in (None, asyncio.get_running_loop()):
            raise InvalidSettingError(
                "the database is open in another event loop than this one; close it there first, "
                "or use one for each event loop"
            )

    async def acquire(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - asyncpg's
        """Lend a connection."""
        self._home = asyncio.get_running_loop()
        async with self._opening:
            if self._pool is None:
                self._pool = await self._open_pool()
        return await self._pool.acquire(timeout=timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the same
        """Take a connection back."""
        await self._pool.release(connection, timeout=timeout)

    async def expire_connections(self) -> None:
        """Let each connection be closed when it comes back."""
        if self._pool is not None:
            await self._pool.expire_connections()

    def get_size(self) -> int:
        """Return how many connections there are."""
        return 0 if self._pool is None else int(self._pool.get_size())

    def get_idle_size(self) -> int:
        """Return how many of them are not lent."""
        return 0 if self._pool is None else int(self._pool.get_idle_size())

    def get_max_size(self) -> int:
        """Return how many there may be."""
        return self._max_size

    async def close(self) -> None:
        """Close all connections once they are back."""
        pool, self._pool, self._home = self._pool, None, None
        if pool is not None:
            await pool.close()

    def terminate(self) -> None:
        """Close all connections at once."""
        pool, self._pool, self._home = self._pool, None, None
        if pool is not None:
            pool.terminate()
