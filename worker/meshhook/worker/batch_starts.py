"""When jobs that wait for a slot start as a batch."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from meshhook.worker.batch_options import BatchOptions
    from meshhook.worker.fair_turns import FairTurns
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.priority_turns import PriorityTurns

LEAST_PAUSE_SECONDS = 0.001


class BatchStarts:
    """Says how many batches of one queue can start, and looks again when the next one is due.

    A batch starts once it is full, or once its first job was claimed `wait_seconds` ago. Until then
    its jobs are like any others that have not started: a worker that stops gives them back at once.
    A job whose earlier attempt was lost may have killed its process, so it starts at once, alone.
    """

    def __init__(self, options: BatchOptions, look_again: Callable[[], None]) -> None:
        """Take the options, and what to call when a batch has waited long enough."""
        self.options = options
        self._look_again = look_again
        self._timer: asyncio.TimerHandle | None = None
        self._hurried_at = -inf

    def hurry(self) -> None:
        """Let the jobs that were claimed before now wait for no more."""
        self._hurried_at = time.monotonic()
        self._look_again()

    def due(self, waiting: deque[HeldJob] | FairTurns | PriorityTurns, first: HeldJob) -> int:
        """Return how many batches can start now.

        If none can, it looks again when one is due.

        Args:
            waiting: the jobs that wait for a slot, at least one.
            first: the one that starts next.
        """
        if first.job.lost_attempts:
            return len(waiting)
        options = self.options
        full, rest = divmod(len(waiting), options.jobs)
        if not rest:
            return full
        if not options.wait_seconds:
            return full + 1
        # All of them are looked at only where they are fewer than a batch.
        oldest = first.claimed_at if full else min([each.claimed_at for each in waiting])
        left_seconds = oldest + options.wait_seconds - time.monotonic()
        if left_seconds <= 0 or oldest <= self._hurried_at:
            return full + 1
        self._look_in(max(left_seconds, LEAST_PAUSE_SECONDS))
        return full

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            # It was for a job that started before an older one, since it was more urgent.
            self._timer.cancel()
        self._timer = loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._look_again()
