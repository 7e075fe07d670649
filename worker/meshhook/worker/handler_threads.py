"""Threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from meshhook.worker.forks import call_here_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.worker.attempt import Attempt
    from meshhook.worker.held_jobs import HeldJobs


class HandlerThreads:
    """Runs handlers in threads.

    A thread cannot be stopped. One whose attempt is given up keeps its place until it ends.
    """

    def __init__(self, count: int, held_jobs: HeldJobs) -> None:
        """Take how many threads there may be, and what is told of threads that are given up."""
        self._held_jobs = held_jobs
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="meshhook-job")

    async def run(self, function: Callable[[Any], object], attempt: Attempt) -> object:
        """Run a handler, and return what it returned or raised.

        A context variable that it set holds in what it returned to be awaited.
        """
        loop = asyncio.get_running_loop()
        key = attempt.job.key
        # A copy: a thread that was given up may be in it for long.
        context = attempt.context.copy()
        thread = self._threads.submit(context.run, _call, function, attempt.job)
        try:
            result = await asyncio.wrap_future(thread)
        except asyncio.CancelledError:
            if not thread.cancelled() and not thread.done():
                ended = self._held_jobs.thread_ended
                self._held_jobs.running.given_up.add(key)
                thread.add_done_callback(lambda _: loop.call_soon_threadsafe(ended, key))
            raise
        attempt.context = context
        return result

    def shutdown(self) -> None:
        """Start no more; those that run are left alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[[Any], object], job: Any) -> object:
    # Returned and not raised: a future takes no StopIteration, and a coroutine changes it.
    try:
        return call_here_only(function, job)
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its job's alone
        return error
