"""A worker as what a process is there for."""

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
"""After how many new objects the garbage collector looks at the youngest."""


class LoopThreads(ThreadPoolExecutor):
    """The threads behind `asyncio.to_thread` in a worker's loop, which handlers may block.

    Such a thread outlives the attempt that was cancelled, and would hold up a normal exit.
    """

    def __init__(self) -> None:
        """Have as many threads as asyncio's own."""
        super().__init__(thread_name_prefix="meshhook-loop")
        self._under_way: set[Future[Any]] = set()

    @classmethod
    def install(cls) -> LoopThreads:
        """Make them those of the loop that runs, and return them."""
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
        """Whether one of them is at work."""
        return any(future.running() for future in list(self._under_way))


def _call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return call_here_only(function, *arguments, **keywords)
    except StopIteration as error:
        # Whoever waits for it in an event loop would wait for ever.
        raise RuntimeError("a function in a thread raised StopIteration") from error


def leave_program_alone() -> None:
    """Let the collector look at what jobs make, and no longer at what the program is made of.

    A claim of a thousand jobs makes tens of thousands of objects that live for a moment. With the
    default thresholds each claim has the collector walk over them, and over the program, dozens
    of times. Call it once, when all is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


async def run_worker_process(worker: Worker) -> None:
    """Run a worker as what a process is there for: until a signal.

    Leaves the process at once, with 0, where a job that was given up, or a thread of one, would
    keep it from ending.

    Raises:
        QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
    """
    leave_program_alone()
    threads = LoopThreads.install()
    await worker.run()
    if worker.has_stuck_jobs or threads.are_busy:
        end_process(0)


def end_process(code: int) -> NoReturn:
    """End this process at once with an exit code, whatever runs; what was printed is written."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
