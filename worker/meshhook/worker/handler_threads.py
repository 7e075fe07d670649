"""Threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from meshhook.worker.forks import call_here_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.worker.attempt import HandlerCall
    from meshhook.worker.held_jobs import HeldJobs


class HandlerThreads:
    """Runs handlers in threads.

    A thread cannot be stopped. If its attempt is given up, it takes a slot until it ends.
    """

    def __init__(self, count: int, held_jobs: HeldJobs) -> None:
        """Take the maximum number of threads, and where to count those that are given up."""
        self._held_jobs = held_jobs
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="meshhook-job")

    async def run(
        self, function: Callable[[Any], object], argument: object, call: HandlerCall
    ) -> object:
        """Run a handler, and return what it returned or raised.

        If it returned an awaitable, that sees the context variables which the handler set.

        Args:
            function: the handler.
            argument: what it takes: a job, or several.
            call: what is recorded about it.
        """
        loop = asyncio.get_running_loop()
        # A copy, because a thread that was given up may use it for a long time.
        context = call.context.copy()
        thread = self._threads.submit(context.run, _call, function, argument)
        call.is_in_thread = True
        try:
            result = await asyncio.wrap_future(thread)
        except asyncio.CancelledError:
            if not thread.cancelled() and not thread.done():
                ended = self._held_jobs.thread_ended
                keys = call.keys
                self._held_jobs.running.give_up(keys)
                thread.add_done_callback(lambda _: loop.call_soon_threadsafe(ended, keys))
            raise
        finally:
            call.is_in_thread = False
        call.context = context
        return result

    def shutdown(self) -> None:
        """Start no more threads; running ones are left alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[[Any], object], argument: object) -> object:
    # Returned rather than raised: a future cannot hold StopIteration, and a coroutine replaces it.
    try:
        return call_here_only(function, argument)
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises concerns only its job
        return error
