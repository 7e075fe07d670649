"""A check right before the body of each write is sent, however long ago the write began."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from lightkube import AsyncClient

_NAMESPACE = re.compile(r"/namespaces/([^/]+)/")
_READS = {"GET", "HEAD"}


def check_bodies(client: AsyncClient, check: Callable[[str], Any]) -> None:
    """Have a client call `check` with the namespace before it sends the body of a write there.

    What `check` raises ends the request, and the API server does nothing without the body. A
    process may be suspended at any moment, also after the head of a request was sent.
    """

    async def on_request(request: httpx2.Request) -> None:
        found = _NAMESPACE.search(request.url.path)
        if request.method not in _READS and found is not None:
            request.stream = _CheckedBody(request.stream, check, found[1])

    http = client._client._client  # noqa: SLF001 - lightkube has no parameter for hooks
    http.event_hooks = {"request": [on_request]}


class _CheckedBody(httpx2.AsyncByteStream):
    """A body that is checked before each part of it is sent."""

    def __init__(self, body: Any, check: Callable[[str], Any], namespace: str) -> None:
        self._body = body
        self._check = check
        self._namespace = namespace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            self._check(self._namespace)
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()
