"""Answers of the database that viewers share: read once in a while, however many look."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

_Value = TypeVar("_Value")
_MAX_KEPT = 500


class Snapshots:
    """Keeps each answer for a while; whoever asks meanwhile, or while it is read, gets the same."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock."""
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._reads: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(
        self, key: Hashable, read: Callable[[], Awaitable[_Value]], *, for_seconds: float
    ) -> _Value:
        """Return what `read` returned less than `for_seconds` ago, or read it now.

        An error is raised for all who wait for the same, and not kept.
        """
        found = self._kept.get(key)
        if found is not None and self._clock() < found[0]:
            value: _Value = found[1]
            return value
        task = self._reads.get(key)
        if task is None:
            task = asyncio.create_task(self._read(key, read, for_seconds), name=f"snapshot {key}")
            self._reads[key] = task
            task.add_done_callback(lambda ended: self._end(key, ended))
        # One who goes away does not end it for the others.
        shared: _Value = await asyncio.shield(task)
        return shared

    def forget(self, key: Hashable) -> None:
        """Let what was changed be read again."""
        self._kept.pop(key, None)

    def forget_all(self) -> None:
        """Let everything be read again: something was changed."""
        self._kept.clear()

    async def close(self) -> None:
        """End what is being read."""
        reads = list(self._reads.values())
        for task in reads:
            task.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    async def _read(
        self, key: Hashable, read: Callable[[], Awaitable[_Value]], for_seconds: float
    ) -> _Value:
        value = await read()
        self._kept[key] = self._clock() + for_seconds, value
        self._kept.move_to_end(key)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return value

    def _end(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._reads.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; perhaps nobody did
