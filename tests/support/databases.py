"""Throw-away servers and databases. Databases are cloned from a template: quick, and never shared.

The work is done on a thread of its own, so that it may be asked for with or without an event loop.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from meshhook.embedded import EmbeddedPostgres

TEST_SETTINGS = {
    # What a crash of the machine would lose does not matter here. Commits still wait for the
    # write of the log, so that nothing else differs.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
}

_Value = TypeVar("_Value")


_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2_000_000_000


@contextmanager
def server_directory(*, in_memory: bool = False) -> Iterator[Path]:
    """Yield a new directory that also the account of root's servers may enter.

    Args:
        in_memory: whether it may be in memory, where there is enough: a database is cloned there in
            some 20 ms instead of up to 400. Not for tests about durability.
    """
    enough = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    parent = _MEMORY if in_memory and enough and os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="meshhook-test-", dir=parent))
    try:
        if os.geteuid() == 0:
            directory.chmod(0o711)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Databases:
    """The databases of one server."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._admin_url = server.start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection: asyncpg.Connection[asyncpg.Record] = self.run(
            asyncpg.connect(self._admin_url)
        )

    def close(self) -> None:
        """Leave the server to others."""
        self.run(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def create(self, *, template: str = "template0", encoding: str | None = None) -> str:
        """Create a database, by default with the encoding of its template; return its URL."""
        name = f"test_{secrets.token_hex(8)}"
        other = "" if encoding is None else f" encoding '{encoding}' locale 'C'"
        # Copied files take less than half of the time that a copy through the log takes.
        how = f"template {template} strategy file_copy{other}"
        self.run(self._connection.execute(f"create database {name} {how}"))
        return self.server.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        self.run(self._connection.execute(f"drop database if exists {name} with (force)"))

    def create_template(
        self, prepare: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[object]]
    ) -> str:
        """Create a database, prepare it, and return its name, to be cloned from then on."""
        url = self.create()

        async def connect_and_prepare() -> None:
            connection = await asyncpg.connect(url)
            try:
                await prepare(connection)
            finally:
                await connection.close()

        self.run(connect_and_prepare())
        return url.rpartition("/")[2]

    def run(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Return what a coroutine returns, which is run on the thread of this object."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
