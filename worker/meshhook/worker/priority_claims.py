"""Claims of a queue with priorities, for its producer."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from meshhook.errors import UncertainCommitError
from meshhook.priorities import Priority
from meshhook.store.claims import claim_by_priority
from meshhook.store.unread_messages import read_left_out
from meshhook.worker.priority_windows import PriorityLook, PriorityWindows

if TYPE_CHECKING:
    from meshhook.store.claims import Claim
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.queue_context import QueueContext


class PriorityClaim(NamedTuple):
    """A claim that was made, and where it looked."""

    claimed: Claim
    began_at: float
    """When the leases were asked for, by the monotonic clock."""
    drained_from: datetime | None
    """From which `vt` on it took all that was ready in each band; None if it left some."""
    is_of_all: bool
    """Whether it looked for all that is ready now, and not only at a part."""


class PriorityClaims:
    """Claims by priority, and remembers where to look in each band."""

    def __init__(self, *, connection: WorkerConnection, queue: QueueContext) -> None:
        """Take where to claim, and the queue."""
        self._connection = connection
        self._queue = queue
        self._windows = PriorityWindows()

    async def claim(self, limit: int, *, only_urgent: bool) -> PriorityClaim:
        """Claim up to so many messages.

        Args:
            limit: how many.
            only_urgent: whether to claim urgent ones only.
        """
        last = Priority.URGENT if only_urgent else Priority.LOW
        began_at = time.monotonic()
        look = self._windows.next_look(limit, last, began_at)
        claimed = await self._look(look, began_at)
        if look.is_slice and not claimed.jobs:
            began_at = time.monotonic()
            look = self._windows.next_look(limit, last, began_at, sweeps=False)
            claimed = await self._look(look, began_at)
        is_of_all = not look.is_slice and not only_urgent
        took_all = is_of_all and self._windows.took_all(look, claimed)
        drained_from = self._windows.drained_from(look) if took_all else None
        return PriorityClaim(claimed, began_at, drained_from, is_of_all)

    def seconds_to_sweep(self, now: float) -> float | None:
        """Return when an idle producer should sweep next; None: its next claim is soon enough."""
        return self._windows.seconds_to_sweep(now)

    async def _look(self, look: PriorityLook, began_at: float) -> Claim:
        config, tables = self._queue.config, self._queue.tables
        try:
            with self._queue.metrics.operation("claim"):
                claimed = await claim_by_priority(
                    self._connection,
                    tables,
                    lease_seconds=float(config.visibility_timeout_seconds),
                    limit=look.limit,
                    max_attempts=config.max_retry_attempts,
                    aged_seconds=config.aged_seconds,
                    most_aged=look.most_aged,
                    ranges=look.ranges,
                    last=look.last,
                )
                seconds = time.monotonic() - began_at
                await read_left_out(self._connection, tables, claimed.unread, seconds)
        except UncertainCommitError:
            seconds = time.monotonic() - began_at
            self._windows.gave_up(look, seconds, datetime.now(UTC))
            raise
        self._windows.looked(look, claimed, began_at, time.monotonic())
        return claimed
