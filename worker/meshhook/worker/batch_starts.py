"""When jobs that wait for a slot start as a batch."""

from __future__ import annotations

import asyncio
import time
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
        if left_seconds <= 0:
            return full + 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                max(left_seconds, LEAST_PAUSE_SECONDS), self._on_time
            )
        return full

    def _on_time(self) -> None:
        self._timer = None
        self._look_again()
