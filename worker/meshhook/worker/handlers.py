"""Handlers: a function that does a job, with the model of its payload."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, overload

from meshhook.errors import InvalidHandlerError
from meshhook.escaping import quoted
from meshhook.jobs import Job, PayloadT
from meshhook.store.body_decoder import BodyDecoder
from meshhook.worker.batch_options import BatchOptions, checked_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.retry import RetryFunction


class JobHandler(Generic[PayloadT]):
    """A function that does a job, or a batch of jobs.

    Made by `create_job_handler`; it can still be called directly.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        payload_model: Any = None,
        retry: RetryFunction | None = None,
        batch: BatchOptions | None = None,
    ) -> None:
        """Take the function, the type of its payload, what decides about retries, and batches.

        Args:
            function: it takes a job; with `batch`, a list of jobs.
            payload_model: the type of the payload. Default: any JSON.
            retry: decides when a failed job is retried. Default: the policy of the queue.
            batch: how jobs are put together. Default: not at all.

        Raises:
            InvalidHandlerError: it cannot be called with one argument, or a call would not run it,
                as with a generator function, an async generator function or a class. Or `retry` is
                no plain function of one argument.
        """
        if not callable(function):
            raise InvalidHandlerError(f"a handler is a function of one job, got {quoted(function)}")
        _refuse_unfinished(function)
        try:
            # A built-in function may have no signature to check.
            with suppress(ValueError):
                inspect.signature(function).bind(object())
        except TypeError as error:
            argument = "one job" if batch is None else "a list of jobs"
            raise InvalidHandlerError(
                f"handler {_name_of(function)} cannot be called with {argument} as its argument: "
                f"{error}"
            ) from None
        self.function = function
        self.batch = batch
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - asks what kind it is
        )
        self.decoder: BodyDecoder[PayloadT] = BodyDecoder(payload_model)
        self.retry = None if retry is None else _checked_retry(retry, _name_of(function))
        """Decides when a failed job is retried; None for the policy of the queue."""
        functools.update_wrapper(self, function, updated=())

    def __call__(self, job: Any) -> Any:
        """Call the function directly, with a job or a list of jobs, for a test."""
        return self.function(job)


@overload
def create_job_handler(
    function: Callable[[Job[PayloadT]], Any],
    *,
    payload_model: Any = None,
    retry: RetryFunction | None = None,
    batch: None = None,
) -> JobHandler[PayloadT]: ...
@overload
def create_job_handler(
    function: Callable[[list[Job[PayloadT]]], Any],
    *,
    payload_model: Any = None,
    retry: RetryFunction | None = None,
    batch: int,
    batch_wait_seconds: float | None = None,
) -> JobHandler[PayloadT]: ...
@overload
def create_job_handler(
    function: None = None,
    *,
    payload_model: Any = None,
    retry: RetryFunction | None = None,
    batch: None = None,
) -> Callable[[Callable[[Job[PayloadT]], Any]], JobHandler[PayloadT]]: ...
@overload
def create_job_handler(
    function: None = None,
    *,
    payload_model: Any = None,
    retry: RetryFunction | None = None,
    batch: int,
    batch_wait_seconds: float | None = None,
) -> Callable[[Callable[[list[Job[PayloadT]]], Any]], JobHandler[PayloadT]]: ...
def create_job_handler(
    function: Any = None,
    *,
    payload_model: Any = None,
    retry: RetryFunction | None = None,
    batch: int | None = None,
    batch_wait_seconds: float | None = None,
) -> Any:
    """Make a handler of a function of one job, or of a list of jobs. Usable as a decorator.

    An async function runs in the worker's event loop. A plain function runs in a thread; if it
    returns an awaitable, that is awaited in the event loop. For what a handler may return or raise,
    see `meshhook.outcomes`; returning nothing means done.

    With `batch` the function takes a list of jobs, and runs in one slot. It returns nothing if all
    are done, a list with the end of each job in their order, or a dict of ends by msg_id, in which
    jobs that are done may be left out. An end is what a handler of one job would return, or an
    exception. What it raises is the end of every job.

    Args:
        function: the function. Default: omitted, to decorate one.
        payload_model: a pydantic model, or any type that pydantic knows. `job.payload` is then an
            instance of it, and a payload that it rejects becomes a dead letter without a run.
            Default: any JSON.
        retry: decides when a failed job is retried: a plain function, as `App.job` takes it.
            Default: the policy of the queue does.
        batch: the most jobs of one call, 1 to 1000. Default: the function takes one job.
        batch_wait_seconds: how long a batch waits for more jobs, from the claim of its first one: 0
            to 60. Default 0.

    Raises:
        InvalidHandlerError: the function cannot be called with one argument, or a call would not
            run it, as with a generator function, an async generator function or a class.
        InvalidSettingError: naming the argument.
    """
    options = checked_batch(batch, batch_wait_seconds)
    if function is None:
        return functools.partial(
            _job_handler, payload_model=payload_model, retry=retry, batch=options
        )
    return JobHandler(function, payload_model, retry, options)


def _job_handler(
    function: Any, *, payload_model: Any, retry: RetryFunction | None, batch: BatchOptions | None
) -> JobHandler[Any]:
    return JobHandler(function, payload_model, retry, batch)


def _checked_retry(retry: RetryFunction, name: str) -> RetryFunction:
    """Return what decides about retries, if it can be called with a failed attempt."""
    kinds = (retry, getattr(retry, "__call__", None))  # noqa: B004 - asks what kind it is
    is_plain = callable(retry) and not any(
        inspect.iscoroutinefunction(kind) or inspect.isasyncgenfunction(kind) for kind in kinds
    )
    if not is_plain:
        raise InvalidHandlerError(
            f"handler {name}: retry is a plain function of one FailedAttempt, got {quoted(retry)}"
        )
    try:
        with suppress(ValueError):
            inspect.signature(retry).bind(object())
    except TypeError as error:
        raise InvalidHandlerError(
            f"handler {name}: retry cannot be called with one FailedAttempt: {error}"
        ) from None
    return retry


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", repr(function)))


def _refuse_unfinished(function: Any) -> None:
    """Refuse functions and classes whose call with a job would only create an object."""
    kinds = (function, getattr(function, "__call__", None))  # noqa: B004 - asks what kind it is
    name = _name_of(function)
    if isinstance(function, type):
        if not issubclass(function, Awaitable):
            raise InvalidHandlerError(
                f"handler {name} is a class; pass a function, or an instance with __call__"
            )
    elif any(inspect.isasyncgenfunction(kind) for kind in kinds):
        raise InvalidHandlerError(
            f"handler {name} is an async generator function, whose body would never run; it must "
            "not contain yield"
        )
    elif any(inspect.isgeneratorfunction(kind) and not _is_coroutine(kind) for kind in kinds):
        raise InvalidHandlerError(
            f"handler {name} is a generator function, whose body would never run; it must not "
            "contain yield"
        )


def _is_coroutine(function: Any) -> bool:
    """Return whether a generator function is a coroutine made by types.coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)
