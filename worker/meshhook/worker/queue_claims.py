"""Claims of one queue for its producer: where they look, how large they are, what they tell."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from meshhook.errors import UncertainCommitError
from meshhook.store.claims import EVERYTHING, Claim, ClaimClass, claim
from meshhook.store.unread_messages import read_left_out
from meshhook.worker.claim_size import ClaimCap
from meshhook.worker.claim_window import ClaimWindow, VtRange
from meshhook.worker.priority_claims import PriorityClaims
from meshhook.worker.visibility import Visibility

if TYPE_CHECKING:
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.wakeups import Wakeups

CLAIM_WEIGHT = 0.2
MAX_KEY_WINDOWS = 40
"""At how many times 256 keys a claim of a queue with limits looks before it comes back empty."""


class Taken(NamedTuple):
    """What one claim took."""

    claim: Claim
    asked_at: float
    """When the database was asked for the leases, by the monotonic clock."""
    limit: int
    """How many messages it could have taken."""

    @property
    def is_full(self) -> bool:
        """Whether it took as many messages as it could."""
        return len(self.claim.jobs) == self.limit


class QueueClaims:
    """Claims jobs of one queue, and remembers what the next claim should know."""

    def __init__(
        self, *, connection: WorkerConnection, queue: QueueContext, wakeups: Wakeups
    ) -> None:
        """Take where to claim, the queue, and what is told how much was found."""
        self._connection = connection
        self._queue = queue
        self._wakeups = wakeups
        self._window = ClaimWindow()
        self._priorities = PriorityClaims(connection=connection, queue=queue)
        self._visibility = Visibility()
        self._from_key: str | None = None
        self.cap = ClaimCap()
        """The largest number of messages that a claim may take."""
        self.seconds = 0.0
        """How long a claim takes, smoothed."""
        self.is_held_back = False
        """Whether limits kept the last claim from taking what is ready."""

    def seconds_to_sweep(self, now: float) -> float | None:
        """Return when an idle producer should sweep next; None: its next claim is soon enough."""
        window = self._priorities if self._queue.config.prioritized else self._window
        return window.seconds_to_sweep(now)

    async def claim(self, limit: int, *, only_urgent: bool = False) -> Taken:
        """Claim up to so many messages.

        Args:
            limit: how many.
            only_urgent: whether to claim urgent ones only, in a queue with priorities. Default
                false.

        Raises:
            UncertainCommitError: the messages may be leased until their leases expire.
            DatabaseError: nothing was claimed.
        """
        if self._queue.config.prioritized:
            return await self._claim_by_priority(limit, only_urgent=only_urgent)
        if self._window.sweep_is_due(time.monotonic()):
            sweep = self._window.sweep_range()
            began_at = time.monotonic()
            try:
                taken = await self._claim_from(sweep, limit)
            except UncertainCommitError:
                seconds = time.monotonic() - began_at
                self._window.gave_up(sweep, seconds, datetime.now(UTC))
                raise
            self._window.swept(sweep, began_at, time.monotonic(), took_all=_took_all(taken))
            if taken.claim.jobs or sweep.to_vt is None:
                return taken
        began_at = time.monotonic()
        taken = await self._claim_from(self._window.claim_range(), limit)
        self._window.claimed(time.monotonic() - began_at)
        return taken

    async def _claim_by_priority(self, limit: int, *, only_urgent: bool) -> Taken:
        claimed, began_at, drained_from, is_of_all = await self._priorities.claim(
            limit, only_urgent=only_urgent
        )
        self.is_held_back = False
        self._note_claim(claimed, began_at)
        if is_of_all:
            self._wakeups.note_claim(len(claimed.jobs))
        if drained_from is not None:
            self._visibility.drained(drained_from.timestamp(), claimed.jobs, began_at)
        return Taken(claimed, began_at, limit)

    async def _claim_from(self, vt_range: VtRange, limit: int) -> Taken:
        config, tables, metrics = self._queue.config, self._queue.tables, self._queue.metrics
        began_at = time.monotonic()
        # A whole look at the past also finds leases that are shorter than those of workers.
        is_whole = vt_range == VtRange(EVERYTHING)
        later_from = EVERYTHING if is_whole else self._window.later_from
        with metrics.operation("claim"):
            for _ in range(MAX_KEY_WINDOWS if config.is_limited else 1):
                claimed = await claim(
                    self._connection,
                    tables,
                    lease_seconds=float(config.visibility_timeout_seconds),
                    limit=limit,
                    max_attempts=config.max_retry_attempts,
                    from_vt=vt_range.from_vt,
                    to_vt=vt_range.to_vt,
                    keys=config.keys,
                    is_limited=config.is_limited,
                    from_key=self._from_key,
                    later_from=None if config.is_limited else later_from,
                )
                self._from_key = claimed.next_key
                if claimed.first_later is not None:
                    self._window.found_later(claimed.first_later)
                # Keys that are at their limit may hide others.
                if claimed.jobs or claimed.next_key is None:
                    break
            seconds = time.monotonic() - began_at
            await read_left_out(self._connection, tables, claimed.unread, seconds)
        self.is_held_back = (
            config.is_limited and not claimed.jobs and (claimed.oldest_due is not None)
        )
        if self.is_held_back:
            metrics.claim_was_limited()
        if claimed.jobs:
            self._window.found(claimed.oldest_due or claimed.jobs[0].ready_at)
        self._note_claim(claimed, began_at)
        taken = Taken(claimed, began_at, limit)
        if vt_range.to_vt is not None:
            return taken
        self._wakeups.note_claim(len(claimed.jobs))
        # With limits, what is ready may stay where it is.
        if _took_all(taken) and not config.is_limited:
            self._visibility.drained(vt_range.from_vt.timestamp(), claimed.jobs, began_at)
        return taken

    def _note_claim(self, claimed: Claim, began_at: float) -> None:
        """Note how long a claim took, and what it found."""
        metrics = self._queue.metrics
        metrics.claimed(len(claimed.jobs))
        if claimed.jobs:
            ended_at = time.monotonic()
            self.seconds += (ended_at - began_at - self.seconds) * CLAIM_WEIGHT
            self.cap.claimed(len(claimed.jobs), sum([len(job.body) for job in claimed.jobs]))
            self._visibility.correct(claimed.jobs, ended_at)
            if claimed.new_losses:
                metrics.attempts("lost", claimed.new_losses)


def _took_all(taken: Taken) -> bool:
    # A claim of suspects leaves healthy messages behind.
    return not taken.is_full and taken.claim.claim_class is ClaimClass.HEALTHY
