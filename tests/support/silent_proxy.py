"""A TCP proxy that can fall silent: it takes everything and passes nothing on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from support.waiting import eventually


class SilentProxy:
    """Stands between clients and the server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.is_silent = False
        """Whether nothing is passed on any more, in either direction."""
        self.carrying: set[asyncio.Task[object]] = set()
        """What carries its connections."""

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.create_task(self._carry(reader, writer), name="carry")
        self.carrying.add(task)
        task.add_done_callback(self.carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if not self.is_silent:
                    sink.write(data)

        tasks = [
            asyncio.create_task(carry(reader, server_writer)),
            asyncio.create_task(carry(server_reader, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, server_writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


@asynccontextmanager
async def silent_proxy(url: str) -> AsyncIterator[tuple[str, SilentProxy]]:
    """A URL that leads to the database through a proxy, and the proxy."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = SilentProxy(parts.hostname, parts.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield url.replace(f":{parts.port}/", f":{port}/"), proxy
    finally:
        for _ in range(10):
            # Who was about to connect is let in, to be closed in order.
            await asyncio.sleep(0)
        server.close()
        await eventually(lambda: not proxy.carrying)
