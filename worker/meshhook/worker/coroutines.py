"""A coroutine that is run up to its first await, and awaited only if there is one."""

from __future__ import annotations

from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextvars import Context


class StartedCoroutine:
    """The rest of an awaitable after its first step, within the task that took the step.

    Await it at once: what the first step waits for must reach the task.
    """

    __slots__ = ("_context", "_coroutine", "_waits_for")

    def __init__(self, awaitable: Awaitable[object], context: Context | None = None) -> None:
        """Take the first step.

        Args:
            awaitable: what to run.
            context: where all further steps are taken. Default: where it is awaited.

        Raises:
            StopIteration: it returned without waiting; the value is in `value`.
            BaseException: what it raised without waiting.
        """
        self._context = context
        is_coroutine = type(awaitable) is CoroutineType
        self._coroutine = cast(
            "CoroutineType[Any, Any, object]", awaitable if is_coroutine else _awaited(awaitable)
        )
        self._waits_for: object = self._coroutine.send(None)

    def __await__(self) -> Generator[Any, Any, object]:
        """Pass on what the coroutine waits for, and send the results back, until it ends."""
        send: Callable[[Any], object] = self._coroutine.send
        throw: Callable[[BaseException], object] = self._coroutine.throw
        if self._context is not None:
            run: Callable[..., object] = self._context.run
            send, throw = partial(run, send), partial(run, throw)
        waits_for = self._waits_for
        try:
            while True:
                try:
                    value = yield waits_for
                except BaseException as error:  # noqa: BLE001 - for the coroutine to handle
                    waits_for = throw(error)
                else:
                    waits_for = send(value)
        except StopIteration as returned:
            return returned.value


async def _awaited(awaitable: Awaitable[object]) -> object:
    return await awaitable


async def awaited_in(context: Context, awaitable: Awaitable[object]) -> object:
    """Await something with every step in a given context, and return its result."""
    try:
        started = context.run(StartedCoroutine, awaitable, context)
    except StopIteration as returned:
        return returned.value
    return await started
