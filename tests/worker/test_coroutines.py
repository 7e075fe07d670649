"""A coroutine's first step, and the rest of it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from meshhook.worker.coroutines import StartedCoroutine


async def test_what_never_waits_returns_in_its_first_step() -> None:
    """The value comes with StopIteration, and nothing is left to await."""

    async def quick() -> int:
        return 7

    with pytest.raises(StopIteration) as returned:
        StartedCoroutine(quick())
    assert returned.value.value == 7


async def test_what_fails_at_once_raises_in_its_first_step() -> None:
    """An exception before the first wait comes out as it is."""

    async def failing() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        StartedCoroutine(failing())


async def test_the_rest_gets_what_it_waits_for() -> None:
    """Futures, sleeps and bare yields work across the first step, in the same task."""
    future = asyncio.get_running_loop().create_future()

    async def waiting() -> list[Any]:
        task = asyncio.current_task()
        got = [await future]
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return [*got, asyncio.current_task() is task]

    started = StartedCoroutine(waiting())
    future.set_result("value")
    assert await started == ["value", True]


async def test_the_rest_gets_exceptions_and_cancellation() -> None:
    """A failed future and a timeout are raised where the coroutine waits."""
    future = asyncio.get_running_loop().create_future()
    seen = []

    async def waiting() -> str:
        try:
            await future
        except LookupError as error:
            seen.append(str(error))
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")
        return "never"

    started = StartedCoroutine(waiting())
    future.set_exception(LookupError("gone"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await started
    assert seen == ["gone", "cleaned up"]


async def test_any_awaitable_is_taken() -> None:
    """A handler may return an awaitable that is no coroutine."""

    class Awaitable:
        def __await__(self) -> Generator[Any, Any, str]:
            yield from asyncio.sleep(0).__await__()
            return "done"

    assert await StartedCoroutine(Awaitable()) == "done"
