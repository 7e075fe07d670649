"""Calling handlers that take payloads in place of jobs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from meshhook.worker.batch_ends import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshhook.jobs import Job


def called_with_payload(function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Return a function that takes a job, and calls one with its payload."""
    if is_async:

        async def call_async(job: Job[Any]) -> Any:
            return await function(job.payload)

        return functools.update_wrapper(call_async, function, updated=())

    def call(job: Job[Any]) -> Any:
        return function(job.payload)

    return functools.update_wrapper(call, function, updated=())


def called_with_payloads(function: Callable[..., Any], *, is_async: bool) -> Callable[..., Any]:
    """Return a function that takes a list of jobs, and calls one with their payloads."""
    if is_async:

        async def call_async(jobs: Iterable[Job[Any]]) -> Any:
            payloads = [job.payload for job in jobs]
            listed = payloads.copy()
            return _of_jobs(await function(listed), payloads, listed)

        return functools.update_wrapper(call_async, function, updated=())

    def call(jobs: Iterable[Job[Any]]) -> Any:
        payloads = [job.payload for job in jobs]
        listed = payloads.copy()
        return _of_jobs(function(listed), payloads, listed)

    return functools.update_wrapper(call, function, updated=())


def _of_jobs(result: Any, payloads: list[Any], listed: list[Any]) -> Any:
    """Return what a handler returned, with a list of ends in the order of the jobs.

    Args:
        result: what it returned.
        payloads: the payloads in this order.
        listed: the list of them that it was called with, which it may have sorted.
    """
    if not isinstance(result, list | tuple) or len(result) != len(payloads):
        return result
    return in_order(result, payloads, listed)
