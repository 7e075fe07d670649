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
        """What is being read, but for what was begun before something was changed."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def get(
        self,
        key: Hashable,
        read: Callable[[], Awaitable[_Value]],
        *,
        for_seconds: float | Callable[[_Value], float],
    ) -> _Value:
        """Return what `read` returned less than `for_seconds` ago, or read it now.

        For how long may depend on what it returned. An error is raised for all who wait for the
        same, and not kept.
        """
        found = self._kept.get(key)
        if found is not None and self._clock() < found[0]:
            value: _Value = found[1]
            return value
        task = self._reads.get(key)
        if task is None:
            task = asyncio.create_task(self._read(key, read, for_seconds), name=f"snapshot {key}")
            self._reads[key] = task
            self._tasks.add(task)
            task.add_done_callback(lambda ended: self._end(key, ended))
        # One who goes away does not end it for the others.
        shared: _Value = await asyncio.shield(task)
        return shared

    def forget(self, key: Hashable) -> None:
        """Let what was changed be read again."""
        self._kept.pop(key, None)

    def forget_all(self) -> None:
        """Let everything be read again: something was changed.

        What is being read may not have seen it, and is for those alone who wait for it.
        """
        self._kept.clear()
        self._reads.clear()

    async def close(self) -> None:
        """End what is being read."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(
        self,
        key: Hashable,
        read: Callable[[], Awaitable[_Value]],
        for_seconds: float | Callable[[_Value], float],
    ) -> _Value:
        value = await read()
        if self._reads.get(key) is not asyncio.current_task():
            return value
        seconds = for_seconds(value) if callable(for_seconds) else for_seconds
        self._kept[key] = self._clock() + seconds, value
        self._kept.move_to_end(key)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return value

    def _end(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._reads.get(key) is task:
            del self._reads[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; perhaps nobody did
