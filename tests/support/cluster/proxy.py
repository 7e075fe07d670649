"""A TCP proxy that can lose, refuse and stall connections, as networks do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Passes on what comes in at a port of 127.0.0.1, and misbehaves when told to.

    Attributes:
        port: where it listens.
        connections: how many connections have been passed on so far.
    """

    def __init__(self, url: str, *, default_port: int = 443) -> None:
        """Describe a proxy; it listens within `async with`.

        Args:
            url: where to pass connections on to: host and port are taken from it.
            default_port: the port if the URL has none.
        """
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or default_port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drop all connections and stop listening."""
        await self.refuse()

    async def accept(self) -> None:
        """Take connections; on the same port as before, after `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._handle, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Drop all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """Drop all connections; new ones are welcome."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stall(self) -> None:
        """Pass nothing on any more, without a word to either side."""
        self._flowing.clear()

    def resume(self) -> None:
        """Go on after `stall`."""
        self._flowing.set()

    def forget(self) -> None:
        """Stall the connections of now for ever; later ones work. So do firewalls."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        flowing = self._flowing
        self._tasks.add(task)
        self.connections += 1
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, target_writer, flowing))
                    group.create_task(self._pump(target_reader, writer, flowing))
            finally:
                target_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            await flowing.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, NotImplementedError, RuntimeError):
            writer.write_eof()
