"""How many messages to claim: pure decisions of the producer.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_AHEAD_SECONDS = 0.1
MOST_AHEAD_SECONDS = 0.5
AHEAD_CLAIMS = 2.0
"""How much work to have ahead, in durations of a claim. At half of it the next claim starts."""
TURNS_AHEAD_CLAIMS = 10.0
"""The same in a queue with keys or priorities, if that is less than `LEAST_AHEAD_SECONDS`."""
MAX_CLAIM_MESSAGES = 1_000
MAX_BATCHED_AHEAD = 2 * MAX_CLAIM_MESSAGES
"""How many jobs of batches to have ahead at most: with one claim, batches would run out of them
before the next. Other jobs take longer than a claim of as many."""
MAX_CLAIM_BYTES = 32 * 1024 * 1024
"""How much text a claim should return at most, estimated from earlier claims."""


def claimed_ahead(
    finished_per_second: float,
    claim_seconds: float = 0.0,
    *,
    has_turns: bool = False,
    batch_jobs: int = 1,
) -> int:
    """Return how many unstarted jobs to have ahead.

    Args:
        finished_per_second: how many jobs finish per second.
        claim_seconds: how long a claim takes. If that is long, as with a remote or busy database,
            more is claimed ahead so that handlers need not wait.
        has_turns: whether the queue is keyed or has priorities. Then less is claimed ahead where
            claims are quick, because a job of another key or band is not seen before the next
            claim. Default false.
        batch_jobs: how many jobs start together. Only whole batches are claimed ahead: where a
            batch takes long that is none, and its jobs are claimed once there is a slot for them,
            together. Part of a batch would start as a small one. Default 1.
    """
    least_seconds = LEAST_AHEAD_SECONDS
    if has_turns:
        least_seconds = min(TURNS_AHEAD_CLAIMS * claim_seconds, least_seconds)
    ahead_seconds = max(AHEAD_CLAIMS * claim_seconds, least_seconds)
    jobs = finished_per_second * min(ahead_seconds, MOST_AHEAD_SECONDS)
    ahead = int(min(jobs, MAX_CLAIM_MESSAGES if batch_jobs == 1 else MAX_BATCHED_AHEAD))
    return ahead - ahead % batch_jobs


def claim_size(*, free_slots: int, unstarted: int, ahead: int) -> int:
    """Return how many messages to claim now; 0 means not yet.

    Beyond the free slots, unstarted jobs stay below `ahead`. So slow jobs spread evenly over the
    fleet, and fast jobs come in large batches.

    Args:
        free_slots: how many jobs could start now.
        unstarted: how many claimed jobs have not started.
        ahead: what `claimed_ahead` returned.
    """
    wanted = free_slots + ahead - unstarted
    is_worth_it = wanted > 0 and (unstarted < free_slots or wanted * 2 >= ahead)
    return min(wanted, MAX_CLAIM_MESSAGES) if is_worth_it else 0


@dataclass(slots=True)
class ClaimCap:
    """The largest number of messages that a claim may take, adapted to earlier claims.

    After a failed claim, messages are claimed one at a time. Large messages are claimed in smaller
    batches.
    """

    _most: int = MAX_CLAIM_MESSAGES
    _mean_bytes: float = 0.0

    def cut(self, wanted: int) -> int:
        """Return how many messages to claim, at least one, if so many are wanted."""
        return max(1, min(wanted, self._most, int(MAX_CLAIM_BYTES / max(self._mean_bytes, 1.0))))

    def claimed(self, messages: int, size_bytes: int) -> None:
        """Note a claim and how much text it returned."""
        self._most = min(2 * self._most, MAX_CLAIM_MESSAGES)
        mean = size_bytes / messages
        self._mean_bytes = max(mean, self._mean_bytes + (mean - self._mean_bytes) * 0.2)

    def refused(self) -> bool:
        """Note that a claim failed. Returns whether a smaller one may succeed."""
        was_larger = self._most > 1
        self._most = 1
        return was_larger


@dataclass(slots=True)
class FinishRate:
    """How many jobs finish per second, smoothed with a half-life of about 0.7 s."""

    per_second: float = 0.0
    _counted: int = 0
    _since: float | None = None

    def update(self, finished: int, now: float) -> None:
        """Note how many jobs have finished so far."""
        if self._since is None:
            self._counted, self._since = finished, now
            return
        elapsed = now - self._since
        if elapsed < 0.01:  # noqa: PLR2004 - too short to measure a rate
            return
        rate = (finished - self._counted) / elapsed
        weight = min(1.0, elapsed)
        self.per_second += (rate - self.per_second) * max(weight, 0.1)
        self._counted, self._since = finished, now
