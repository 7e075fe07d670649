"""What a handler returned: the end of its attempt, or work that has not been done."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from itertools import islice
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import Any

from meshhook.outcomes import DeadLetter, Outcome, RetryAfter, Snooze
from meshhook.worker.handlers import JobHandler

MAX_NESTED_AWAITABLES = 10
"""How many times in a row the result of an awaitable may itself be an awaitable."""
_LOOKED_AT_ITEMS = 100
"""How many items of a returned list are checked: a million checks would block the event loop."""

_UNCALLED = (FunctionType, BuiltinFunctionType, MethodType, functools.partial, JobHandler)
_COLLECTIONS = (list, tuple, set, frozenset)
_EXAMPLES: dict[type, str] = {
    RetryAfter: "RetryAfter(30)",
    Snooze: "Snooze(30)",
    DeadLetter: 'DeadLetter("why")',
}


class UnusableResultError(Exception):
    """A handler returned work that has not been done instead of an end of its attempt."""


def is_awaitable(result: object) -> bool:
    """Return whether a result must be awaited, including futures of thread and process pools."""
    # By its type: an object can claim anything of itself, and a mock says yes to everything.
    kind = type(result)
    if issubclass(kind, GeneratorType):
        return inspect.isawaitable(result)  # a coroutine made by types.coroutine
    return issubclass(kind, Awaitable | concurrent.futures.Future)


def as_awaitable(result: Any) -> Awaitable[object]:
    """Return a result for which `is_awaitable` is true as something to await in the event loop."""
    if isinstance(result, concurrent.futures.Future):
        return _ended(result)
    awaitable: Awaitable[object] = result
    return awaitable


def end_of(result: object) -> object:
    """Return what a result means that need not be awaited.

    An outcome's class that needs no arguments becomes an instance. Something that must still be
    called, iterated or awaited becomes an `UnusableResultError`, because its work has not been
    done. Everything else is returned unchanged.
    """
    if isinstance(result, type):
        return _end_of_class(result)
    fault = _fault_of(result)
    if fault is None:
        return result
    return UnusableResultError(f"the handler returned {fault}")


def nested_too_deep(result: Any) -> UnusableResultError:
    """Return the error for awaitables that are nested too deep."""
    _drop(result)
    return UnusableResultError(
        f"the handler returned an awaitable whose result is again one, {MAX_NESTED_AWAITABLES} "
        "times: await the work itself"
    )


async def _ended(future: concurrent.futures.Future[object]) -> object:
    """Wait for a future of a pool, and return its result or error.

    Not `asyncio.wrap_future`, which waits for ever if the error is a StopIteration.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
    try:
        await done.wait()
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():
        return concurrent.futures.CancelledError("the future was cancelled")
    error = future.exception()
    return future.result() if error is None else error


def _end_of_class(result: type) -> object:
    name = result.__qualname__
    if issubclass(result, Outcome):
        try:
            return result()
        except Exception:  # noqa: BLE001 - whatever a constructor without its arguments raises
            example = _EXAMPLES.get(result, f"{name}(...)")
        return UnusableResultError(
            f"the handler returned the class {name}; return an instance of it: {example}"
        )
    return UnusableResultError(
        f"the handler returned the class {name}, which is no outcome. Return nothing where the job "
        "is done; to fail it, raise an exception"
    )


def _fault_of(result: object) -> str | None:
    if isinstance(result, _UNCALLED):
        name = getattr(result, "__qualname__", type(result).__name__)
        return (
            f"the function {name} and did not call it. If the handler is made by a decorator that "
            "takes arguments, write its parentheses"
        )
    if isinstance(result, contextlib.ContextDecorator | contextlib.AsyncContextDecorator):
        generator = getattr(result, "gen", None)
        if isinstance(generator, GeneratorType | AsyncGeneratorType):
            return "a context manager that was not entered: its body has not run"
        return None
    unfinished = _unfinished(result)
    if unfinished is not None:
        return f"{unfinished}, over which the worker does not loop: do so inside the handler"
    items: Any = ()
    if type(result) in _COLLECTIONS:
        items = result
    elif type(result) is dict:
        items = result.values()
    for item in islice(items, _LOOKED_AT_ITEMS):
        if (is_awaitable(item) and not _is_done(item)) or isinstance(
            item, GeneratorType | AsyncGeneratorType
        ):
            for each in islice(items, _LOOKED_AT_ITEMS):
                _drop(each)
            return (
                f"a {type(result).__name__} that holds {_named(item)}: await such things inside "
                "the handler, as in await asyncio.gather(*them)"
            )
    return None


def _unfinished(result: object) -> str | None:
    kind = type(result)
    if issubclass(kind, AsyncGeneratorType):
        return "an async generator"
    if issubclass(kind, GeneratorType):
        return "a generator"
    if not issubclass(kind, Iterator | AsyncIterator) or _is_resource(result):
        return None
    if issubclass(kind, AsyncIterator):
        return f"an asynchronous iterator ({kind.__name__})"
    return f"an iterator ({kind.__name__})"


def _is_resource(iterator: object) -> bool:
    """Return whether it is a file, a cursor or the like: its work is done, only reading is left."""
    try:
        return hasattr(iterator, "close") or hasattr(iterator, "aclose")
    except Exception:  # noqa: BLE001 - whatever an object raises when asked for an attribute
        return False


def _named(item: object) -> str:
    return _unfinished(item) or f"an awaitable ({type(item).__name__})"


def _is_done(item: Any) -> bool:
    return isinstance(item, asyncio.Future | concurrent.futures.Future) and item.done()


def _drop(item: object) -> None:
    """Close a coroutine that nobody will await. Python would warn of it later, elsewhere."""
    if isinstance(item, CoroutineType):
        with contextlib.suppress(BaseException):
            item.close()
