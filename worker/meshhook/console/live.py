"""Live pages: a stream of ticks, at each of which an open page asks for its newest state."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError

from meshhook.console.authentication import RefusedError
from meshhook.console.context import console_of
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send

MAX_STREAMS = 1_000
"""How many pages may listen at once; those beyond poll."""
STREAM_SECONDS = 3_600.0
"""After how long a browser has to connect again, and is known again."""
SEND_SECONDS = 30.0
"""How long a browser may take nothing of what is sent: then its stream ends."""
RETRY_MS = 5_000
"""After how long a browser connects again whose stream has ended, in milliseconds."""
_END_SECONDS = 1.0

_log = get_logger("meshhook.console")


class Streams:
    """The streams of ticks that are open. They read nothing: pages do, from shared snapshots."""

    def __init__(self) -> None:
        """Begin without any."""
        self.open = 0
        self._ending = asyncio.Event()

    async def listen(self, request: Request) -> Response:
        """Answer with a stream of ticks."""
        if self.open >= MAX_STREAMS:
            raise RefusedError(503, "Too many pages are live; this one asks now and then instead.")
        refresh_seconds = console_of(request).settings.refresh_seconds
        self.open += 1
        return _Stream(self, _ticks(refresh_seconds, self._ending), ping=30)

    def end(self) -> None:
        """End all streams: the server stops."""
        self._ending.set()

    def closed(self) -> None:
        """Count a stream that has ended."""
        self.open -= 1


class _Stream(EventSourceResponse):
    def __init__(
        self, streams: Streams, ticks: AsyncIterator[ServerSentEvent], *, ping: int
    ) -> None:
        super().__init__(ticks, ping=ping, send_timeout=SEND_SECONDS)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ended = False

        async def send_noted(message: Message) -> None:
            nonlocal is_ended
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                is_ended = True
            await send(message)

        try:
            await super().__call__(scope, receive, send_noted)
            if not is_ended:
                # The server stops: the answer is ended properly, which its log would miss.
                async with asyncio.timeout(_END_SECONDS):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (SendTimeoutError, TimeoutError):
            _log.info("a live page was let go that took nothing", seconds=SEND_SECONDS)
        finally:
            self._streams.closed()


async def _ticks(refresh_seconds: float, ending: asyncio.Event) -> AsyncIterator[ServerSentEvent]:
    loop = asyncio.get_running_loop()
    end = loop.time() + STREAM_SECONDS
    # At once: a browser, and a proxy in between, knows by it that the stream is open.
    yield ServerSentEvent(comment="open", retry=RETRY_MS)
    while loop.time() < end:
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), refresh_seconds)
            return
        yield ServerSentEvent(data="", event="tick")
