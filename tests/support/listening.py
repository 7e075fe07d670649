"""Servers of asyncio that end while clients connect."""

from __future__ import annotations

import asyncio

_TURNS = 5
"""Of the loop: more than a connection takes from `accept` until the server's callback has it."""


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server that may be taking connections.

    `close` alone leaves those open that have no transport yet, and nobody else could close them.
    """
    loop = asyncio.get_running_loop()
    for each in server.sockets:
        loop.remove_reader(each.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    server.close()
