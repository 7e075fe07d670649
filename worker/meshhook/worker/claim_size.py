"""How many messages to claim: pure decisions of the producer.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_AHEAD_SECONDS = 0.1
MOST_AHEAD_SECONDS = 0.5
AHEAD_CLAIMS = 2.0
"""So many claims' time of work is ahead: with half of it left, the next claim is made."""
MAX_CLAIM_MESSAGES = 1_000
MAX_CLAIM_BYTES = 32 * 1024 * 1024
"""How much text a claim should hold at the most, judged by the claims before it."""


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
