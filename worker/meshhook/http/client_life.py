"""One client for each event loop, opened at its first delivery and closed with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from weakref import WeakKeyDictionary

from meshhook.http.client import WebhookClient

_Life = AsyncGenerator[WebhookClient, None]


class LoopClients:
    """The client of each event loop that delivers; nearly always there is one.

    If nobody closes it, the event loop does when it ends, because it closes all asynchronous
    generators: a worker's process leaves no connection open.
    """

    def __init__(self, make: Callable[[], WebhookClient]) -> None:
        """Take what makes one, which runs in its event loop."""
        self._make = make
        self._open: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Life, WebhookClient]]
        self._open = WeakKeyDictionary()

    async def get(self) -> WebhookClient:
        """Return the client of the running event loop."""
        loop = asyncio.get_running_loop()
        opened = self._open.get(loop)
        if opened is None:
            life = self._lifetime()
            # It does not wait, so no other task opens one meanwhile.
            opened = self._open[loop] = life, await anext(life)
        return opened[1]

    async def close(self) -> None:
        """Close the client of the running event loop; the next delivery opens another."""
        opened = self._open.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened[0].aclose()

    async def _lifetime(self) -> _Life:
        client = self._make()
        try:
            yield client
        finally:
            self._open.pop(asyncio.get_running_loop(), None)
            await client.close()
