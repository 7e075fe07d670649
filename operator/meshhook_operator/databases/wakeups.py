"""Wake-ups: notifications of messages to queues without workers, on one connection per database."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook.postgres.connecting import connect
from meshhook.postgres.driver_errors import translated_errors
from meshhook_operator.pauses import doubled_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

_log = get_logger("meshhook_operator.wakeups")

CHANNEL_PREFIX = "meshhook_wake_"
RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""How long after the first failure it is tried again, and the longest pause: it doubles with each
further failure."""
STATEMENT_SECONDS = 10.0
PAUSE_SECONDS = 0.5


class WakeUps:
    """Listens for messages to queues. If it cannot, the ticks find the messages instead.

    The connection is opened for the first queue, and again after it has broken. Each queue is
    reported once when listening for it begins.
    """

    def __init__(
        self, url: str, on_wake: Callable[[str], None], *, driver_loop: Any = None
    ) -> None:
        """Take the database, and what to call with the name of a queue.

        Args:
            url: of the database.
            on_wake: called at most twice a second per queue.
            driver_loop: what the driver opens the connection through.
        """
        self._url = url
        self._driver_loop = driver_loop
        self._pauses: dict[str, bool] = {}
        """The queues that were just woken, and whether they are to be woken again."""
        self._on_wake = on_wake
        self._wanted: frozenset[str] = frozenset()
        self._heard: set[str] = set()
        self._changed = asyncio.Event()
        self._connection: asyncpg.Connection[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def want(self, queue_names: frozenset[str]) -> None:
        """Listen for these queues and no others from now on."""
        if self._task is None and queue_names:
            self._task = asyncio.create_task(self._run(), name="wake-ups")
        if queue_names != self._wanted or (self._connection and self._connection.is_closed()):
            self._wanted = queue_names
            self._changed.set()

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._disconnect()

    async def _run(self) -> None:
        failures = 0
        while True:
            self._changed.clear()
            try:
                # What cannot be reached is tried again only for queues that still want to be woken.
                if self._wanted or self._connection is not None:
                    await self._catch_up()
            except Exception as error:  # noqa: BLE001 - a server may send a malformed answer
                self._disconnect()
                reason = str(error) if isinstance(error, MeshHookError) else type(error).__name__
                _log.warning("not listening", error=reason, queues=len(self._wanted))
                spread = random.random()  # noqa: S311 - spreads load, keeps no secret
                await asyncio.sleep(
                    doubled_seconds(
                        failures,
                        first_seconds=RETRY_SECONDS,
                        longest_seconds=MAX_RETRY_SECONDS,
                        spread=spread,
                    )
                )
                failures += 1
                continue
            failures = 0
            await self._changed.wait()

    async def _catch_up(self) -> None:
        if self._connection is None or self._connection.is_closed():
            self._disconnect()
            self._connection = await connect(
                self._url, application_name="meshhook-operator", driver_loop=self._driver_loop
            )
        while (missing := self._wanted - self._heard) or self._heard - self._wanted:
            name = min(missing or self._heard - self._wanted)
            # The driver's calls take no timeout, and a call cut off makes the connection unusable.
            with translated_errors():
                async with asyncio.timeout(STATEMENT_SECONDS):
                    if missing:
                        await self._connection.add_listener(CHANNEL_PREFIX + name, self._woken)
                        self._heard.add(name)
                        # Messages sent before this were not reported.
                        self._on_wake(name)
                    else:
                        await self._connection.remove_listener(CHANNEL_PREFIX + name, self._woken)
                        self._heard.discard(name)

    def _woken(self, _: Any, __: int, channel: str, ___: object) -> None:
        name = channel.removeprefix(CHANNEL_PREFIX)
        if name in self._pauses:
            self._pauses[name] = True
        else:
            self._wake(name)

    def _wake(self, name: str) -> None:
        # Reading the queue costs the operator more than a notification costs its sender.
        self._pauses[name] = False
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._end_pause, name)
        self._on_wake(name)

    def _end_pause(self, name: str) -> None:
        if self._pauses.pop(name, False) and self._connection is not None:
            self._wake(name)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._heard.clear()
        if connection is not None:
            connection.terminate()
