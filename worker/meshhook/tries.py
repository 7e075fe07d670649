"""Doing something again that failed, after pauses that grow."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

from meshhook.observability.loggers import get_logger

_log = get_logger("meshhook.tries")

On: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class Tries:
    """Tries until one succeeds: `async for attempt in Tries(...): with attempt: ...`.

    The last error is raised as it is. Each pause is twice as long as the one before, less up to
    half of it by chance, so that not all come back at one moment. Each is logged.
    """

    def __init__(
        self,
        *,
        on: On,
        limit: int | None = None,
        timeout_seconds: float | None = None,
        first_pause_seconds: float = 0.1,
        max_pause_seconds: float = 5.0,
        **fields: object,
    ) -> None:
        """Take when to try again, and when no more.

        Args:
            on: which errors are worth another try: classes, or a function of the error.
            limit: how many tries in all. Default: any number.
            timeout_seconds: after how long there is no other try. Default: never.
            first_pause_seconds: the longest first pause. Default 0.1.
            max_pause_seconds: the longest pause. Default 5.
            **fields: what the log line says of it, for example `queue="orders", step="claim"`.
        """
        self._on = on
        self._limit = limit
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._longest_pause_seconds = first_pause_seconds
        self._max_pause_seconds = max_pause_seconds
        self._fields = fields
        self._number = 0
        self._pause_seconds = 0.0
        self._is_again = True

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Self:
        """Return itself as the next try, after a pause if one has failed."""
        if not self._is_again:
            raise StopAsyncIteration
        if self._number:
            await asyncio.sleep(self._pause_seconds)
        self._number += 1
        self._is_again = False
        return self

    def __enter__(self) -> None:
        """Begin a try."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Swallow an error that another try follows."""
        if not isinstance(error, Exception) or not _fits(error, self._on):
            return False
        longest_seconds = min(self._longest_pause_seconds, self._max_pause_seconds)
        pause_seconds = longest_seconds * random.uniform(0.5, 1)  # noqa: S311 - spreads load
        if self._is_last(pause_seconds):
            return False
        _log.warning(
            "failed, and is tried again",
            **self._fields,
            tries=self._number,
            pause_seconds=round(pause_seconds, 3),
            error=str(error) or type(error).__name__,
        )
        self._longest_pause_seconds = 2 * longest_seconds
        self._pause_seconds = pause_seconds
        self._is_again = True
        return True

    def _is_last(self, pause_seconds: float) -> bool:
        if self._limit is not None and self._number >= self._limit:
            return True
        return self._deadline is not None and time.monotonic() + pause_seconds > self._deadline


def _fits(error: Exception, on: On) -> bool:
    if isinstance(on, type | tuple):
        return isinstance(error, on)
    return on(error)
