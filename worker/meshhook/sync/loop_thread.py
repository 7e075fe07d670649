"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from meshhook.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

STOP_TIMEOUT_SECONDS = 15.0
"""How long `stop` waits for what is under way."""

_Resource = TypeVar("_Resource")
_Value = TypeVar("_Value")


class LoopThread(Generic[_Resource]):
    """Opens a resource in the loop of a new thread, and lets other threads use it there."""

    def __init__(
        self, open_resource: Callable[[], AbstractAsyncContextManager[_Resource]], *, name: str
    ) -> None:
        """Start the thread, and wait until the resource is open.

        Args:
            open_resource: opens it; it is closed by `stop`.
            name: the name of the thread.

        Raises:
            Exception: what opening it raised.
        """
        self._users = 0
        self._is_stopping = False
        self._changed = threading.Condition()
        opened: Future[_Resource] = Future()
        # A daemon, since a program that ends without `stop` must not wait for it.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(open_resource, opened)), name=name, daemon=True
        )
        self._thread.start()
        self._resource = opened.result()

    def run(self, use: Callable[[_Resource], Coroutine[Any, Any, _Value]]) -> _Value:
        """Await in the loop what `use` returns, and return its result in the calling thread.

        If the caller is interrupted, by Ctrl-C for example, the work is cancelled.

        Raises:
            InvalidSettingError: if another thread has stopped it.
        """
        with self._changed:
            if self._is_stopping:
                raise InvalidSettingError("another thread has closed the service; call it again")
            self._users += 1
        try:
            # It has the caller's context, and so belongs to its trace.
            future = asyncio.run_coroutine_threadsafe(use(self._resource), self._loop)
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Wait for what is under way, close the resource and end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.wait_for(lambda: not self._users, STOP_TIMEOUT_SECONDS)
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        # The garbage collector may run this in the thread itself.
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT_SECONDS)

    async def _live(
        self,
        open_resource: Callable[[], AbstractAsyncContextManager[_Resource]],
        opened: Future[_Resource],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            async with open_resource() as resource:
                opened.set_result(resource)
                await self._stopping.wait()
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)
