"""A process whose only purpose is to run a worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

from meshhook.worker.forks import call_here_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.worker.worker import Worker

NEW_OBJECTS = 10_000
"""After how many new objects the garbage collector runs."""


class LoopThreads(ThreadPoolExecutor):
    """The threads behind `asyncio.to_thread` in a worker's event loop. Handlers may block them.

    Such a thread outlives a cancelled attempt, and would delay a normal exit.
    """

    def __init__(self) -> None:
        """Use as many threads as asyncio does by default."""
        super().__init__(thread_name_prefix="meshhook-loop")
        self._under_way: set[Future[Any]] = set()

    @classmethod
    def install(cls) -> LoopThreads:
        """Make them the threads of the running event loop, and return them."""
        threads = cls()
        asyncio.get_running_loop().set_default_executor(threads)
        return threads

    def submit(self, *arguments: Any, **keywords: Any) -> Future[Any]:
        """Run something in a thread."""
        future = super().submit(_call, *arguments, **keywords)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    @property
    def are_busy(self) -> bool:
        """Whether one of them is working."""
        return any(future.running() for future in list(self._under_way))


def _call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return call_here_only(function, *arguments, **keywords)
    except StopIteration as error:
        # Whoever awaited it would wait for ever.
        raise RuntimeError("a function in a thread raised StopIteration") from error


def leave_program_alone() -> None:
    """Let the garbage collector look only at objects made from now on.

    A claim of a thousand jobs makes tens of thousands of short-lived objects. With the default
    thresholds, each claim would make the collector walk over them and over the whole program dozens
    of times. Call it once, after all imports.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


async def run_worker_process(worker: Worker) -> None:
    """Run a worker as the only purpose of this process, until a signal.

    Exits at once with code 0 if a job that was given up, or one of its threads, would keep the
    process alive.

    Raises:
        QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
    """
    leave_program_alone()
    threads = LoopThreads.install()
    await worker.run()
    if worker.has_stuck_jobs or threads.are_busy:
        end_process(0)


def end_process(code: int) -> NoReturn:
    """Exit at once, whatever still runs. Buffered output is written first."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
