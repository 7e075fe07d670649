"""Pages of the overview that are open, without a browser: they ask for what its script asks for.

Files that a browser keeps, such as the script itself, are left out: no database has them.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import suppress
from typing import Self

import httpx

OPEN_SECONDS = 60.0
"""How long opening all pages may take, beyond the time over which they are spread."""
ANSWER_SECONDS = 30.0
_REFRESH = {"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}


class Visits:
    """Pages that are opened one after the other within a refresh interval, and then stay open.

    One that is answered otherwise than with 200, or whose stream ends, is gone, and `errors` says
    why.

    Args:
        url: where the console is.
        pages: how many.
        refresh_seconds: the console's setting.
        is_streaming: whether they listen to ticks. Otherwise they ask by themselves, at half the
            rate, as behind a proxy that keeps what is streamed.
    """

    def __init__(self, url: str, pages: int, *, refresh_seconds: float, is_streaming: bool) -> None:
        self._url = url
        self._pages = pages
        self._refresh_seconds = refresh_seconds
        self._is_streaming = is_streaming
        # Made once: each one reads all certificates of the system.
        self._tls = ssl.create_default_context()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self.open = 0
        self.loaded = 0
        """How often pages were loaded, at first or again."""
        self.errors: list[str] = []

    async def __aenter__(self) -> Self:
        """Open all, and wait until they are."""
        apart = self._refresh_seconds / self._pages
        self._tasks = [
            asyncio.create_task(self._visit(number * apart)) for number in range(self._pages)
        ]
        try:
            async with asyncio.timeout(self._refresh_seconds + OPEN_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self.open + len(self.errors) >= self._pages)
        except TimeoutError:
            self.errors.append(f"{self._pages - self.open} pages were not open in time")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _visit(self, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        try:
            async with httpx.AsyncClient(
                base_url=self._url,
                timeout=ANSWER_SECONDS,
                verify=self._tls,
                trust_env=False,
            ) as client:
                await self._load(client, {})
                await (self._listen(client) if self._is_streaming else self._poll(client))
        except (httpx.HTTPError, RuntimeError) as error:
            async with self._changed:
                self.errors.append(f"{type(error).__name__}: {error}")
                self._changed.notify_all()

    async def _listen(self, client: httpx.AsyncClient) -> None:
        refresh: asyncio.Task[None] | None = None
        # Something comes at least every 30 s: a tick or, if they are rare, a ping.
        timeout = httpx.Timeout(ANSWER_SECONDS, read=2 * ANSWER_SECONDS)
        try:
            async with client.stream(
                "GET", "/events", headers={"accept": "text/event-stream"}, timeout=timeout
            ) as answer:
                _check(answer)
                await self._is_open()
                async for line in answer.aiter_lines():
                    if line != "event: tick":
                        continue
                    if refresh is not None and refresh.done():
                        await refresh  # raises what went wrong
                        refresh = None
                    if refresh is None:
                        refresh = asyncio.create_task(self._load(client, _REFRESH))
            raise RuntimeError("the stream of ticks has ended")
        except httpx.TransportError as error:
            if refresh is not None and refresh.done() and refresh.exception() is error:
                raise
            raise RuntimeError(f"the stream of ticks broke off: {type(error).__name__}") from error
        finally:
            if refresh is not None:
                refresh.cancel()
                with suppress(asyncio.CancelledError, httpx.HTTPError, RuntimeError):
                    await refresh

    async def _poll(self, client: httpx.AsyncClient) -> None:
        interval = 2 * self._refresh_seconds
        await self._is_open()
        # Pages that were opened within one interval ask throughout two.
        await asyncio.sleep(random.uniform(0, interval))
        while True:
            await self._load(client, _REFRESH)
            await asyncio.sleep(interval)

    async def _is_open(self) -> None:
        async with self._changed:
            self.open += 1
            self._changed.notify_all()

    async def _load(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        try:
            answer = await client.get("/", headers=headers)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # The console has just closed a connection that was idle. So does a browser.
            answer = await client.get("/", headers=headers)
        _check(answer)
        self.loaded += 1


def _check(answer: httpx.Response) -> None:
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"{answer.request.url.path} was answered with {answer.status_code}")
