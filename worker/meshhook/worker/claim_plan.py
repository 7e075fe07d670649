"""How many messages to claim, and from where: pure decisions of the claimer.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from meshhook.store.claims import EVERYTHING
from meshhook.worker.sweep import Sweep, VtRange

LEAST_AHEAD_SECONDS = 0.1
MOST_AHEAD_SECONDS = 0.5
AHEAD_CLAIMS = 2.0
"""So many claims' time of work is ahead: with half of it left, the next claim is made."""
MAX_CLAIM_MESSAGES = 1_000
MAX_CLAIM_BYTES = 32 * 1024 * 1024
"""How much text a claim should hold at the most, judged by the claims before it."""
LOW_MARGIN = timedelta(milliseconds=100)
SWEEP_SHARE = 0.05
MAX_SWEEP_INTERVAL_SECONDS = 30.0
HOPELESS_SECONDS = 10.0
FIRST_PAST = timedelta(minutes=1)


def claimed_ahead(finished_per_second: float, claim_seconds: float = 0.0) -> int:
    """Return how much unstarted work to have.

    Args:
        finished_per_second: how many jobs finish a second.
        claim_seconds: how long a claim takes. Where that is long, as with a database far away or
            a busy one, more is ahead, so that the handlers need not wait for it.
    """
    ahead_seconds = max(AHEAD_CLAIMS * claim_seconds, LEAST_AHEAD_SECONDS)
    jobs = finished_per_second * min(ahead_seconds, MOST_AHEAD_SECONDS)
    return int(min(jobs, MAX_CLAIM_MESSAGES))


def claim_size(*, free_slots: int, unstarted: int, ahead: int) -> int:
    """Return how many messages to claim now; 0 means not yet.

    Unstarted work stays under what should be ahead, beside what can start at once: slow jobs are
    spread evenly over the fleet, and fast ones come in large batches.

    Args:
        free_slots: how many jobs could start at once.
        unstarted: how many claimed jobs have not started.
        ahead: what `claimed_ahead` says.
    """
    wanted = free_slots + ahead - unstarted
    is_worth_it = wanted > 0 and (unstarted < free_slots or wanted * 2 >= ahead)
    return min(wanted, MAX_CLAIM_MESSAGES) if is_worth_it else 0


@dataclass(slots=True)
class ClaimCap:
    """The most messages that a claim may take, by what became of those before it.

    What cannot be claimed together with others may be claimed alone, and what is large in smaller
    parts.
    """

    _most: int = MAX_CLAIM_MESSAGES
    _mean_bytes: float = 0.0

    def cut(self, wanted: int) -> int:
        """Return how many messages to claim where so many are wanted, at least one."""
        return max(1, min(wanted, self._most, int(MAX_CLAIM_BYTES / max(self._mean_bytes, 1.0))))

    def claimed(self, messages: int, size_bytes: int) -> None:
        """Note a claim, and how much text it held."""
        self._most = min(2 * self._most, MAX_CLAIM_MESSAGES)
        mean = size_bytes / messages
        self._mean_bytes = max(mean, self._mean_bytes + (mean - self._mean_bytes) * 0.2)

    def refused(self) -> bool:
        """Note that a claim failed, and say whether a smaller one may do better."""
        was_larger = self._most > 1
        self._most = 1
        return was_larger


@dataclass(slots=True)
class FinishRate:
    """How many jobs finish a second, forgotten with a half-life of about 0.7 s."""

    per_second: float = 0.0
    _counted: int = 0
    _since: float | None = None

    def update(self, finished: int, now: float) -> None:
        """Take the running total of finished jobs."""
        if self._since is None:
            self._counted, self._since = finished, now
            return
        elapsed = now - self._since
        if elapsed < 0.01:  # noqa: PLR2004 - too short to tell a rate from
            return
        rate = (finished - self._counted) / elapsed
        weight = min(1.0, elapsed)
        self.per_second += (rate - self.per_second) * max(weight, 0.1)
        self._counted, self._since = finished, now


@dataclass(slots=True)
class ClaimWindow:
    """From which `vt` on to look for ready messages.

    Dead index entries of settled messages lie below those that are ready, and pile up while any
    transaction in the database is old. A claim therefore starts just below the smallest `vt` seen
    lately, and a sweep of what lies below finds what was committed late. Sweeps take at most 5
    percent of the time, or one look in 30 seconds.
    """

    low: datetime | None = None
    """Where a claim starts; None until the first message was seen."""
    _sweep: Sweep = field(default_factory=Sweep)
    _next_sweep_at: float = field(default=float("-inf"))

    def sweep_is_due(self, now: float) -> bool:
        """Say whether the next claim should look below."""
        return self.low is None or now >= self._next_sweep_at

    def sweep_range(self) -> VtRange:
        """Return where a sweep looks now. Where it ends before now it finds nothing, as a rule."""
        return self._sweep.next_range(self.low)

    def claim_range(self) -> VtRange:
        """Return where a claim looks that is no sweep."""
        return VtRange(EVERYTHING if self.low is None else self.low)

    def swept(self, swept: VtRange, began_at: float, ended_at: float, *, took_all: bool) -> None:
        """Note a sweep, and whether it took all that was ready there."""
        seconds = ended_at - began_at
        self._sweep.looked(swept, seconds, took_all=took_all)
        pause = min(seconds / SWEEP_SHARE, MAX_SWEEP_INTERVAL_SECONDS)
        self._next_sweep_at = ended_at + pause

    def gave_up(self, swept: VtRange, seconds: float, now: datetime) -> None:
        """Note a sweep that was not answered in time, and that it is `now` by some clock.

        The first look of a worker has no lower end. Where it takes too long, tens of millions of
        dead entries lie there, and so it would the next time: claims then start a minute ago, and
        what lies below is looked at in slices. A clock that is wrong costs only time: what it
        leaves out is found by the slices.
        """
        if self.low is None and swept.to_vt is None and seconds >= HOPELESS_SECONDS:
            self.low = now - FIRST_PAST
            self._sweep.go_in_slices()

    def found(self, oldest_ready_at: datetime) -> None:
        """Note the smallest `vt` of the messages just claimed."""
        self.low = max(oldest_ready_at, EVERYTHING + LOW_MARGIN) - LOW_MARGIN
