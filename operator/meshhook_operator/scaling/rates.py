"""Estimates: how fast messages arrive, what a replica finishes, how long a pod takes to be Ready.

Each is a frozen value; an observation returns a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook_operator.scaling.observations import Sample

ARRIVAL_HALF_LIFE_SECONDS = 20.0
KEPT_RATES = 8
TRUSTED_RATES = 2
SATURATED_SHARE = 0.8
"""From this share of their slots on, workers run as many jobs as they can."""
SLOWEST_JOBS_PER_SECOND = 1e-3
KEPT_LEADS = 10
FIRST_LEAD_SECONDS = 10.0
"""Taken for the lead until one was measured: a container whose image is on the node."""
LONGEST_LEAD_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ArrivalRate:
    """Messages sent a second; what is older counts half as much every 20 seconds."""

    per_second: float = 0.0

    def observe(self, arrived: int, elapsed_seconds: float) -> ArrivalRate:
        """Take how many arrived since the last observation."""
        weight = 1.0 - 0.5 ** (elapsed_seconds / ARRIVAL_HALF_LIFE_SECONDS)
        seen = arrived / elapsed_seconds
        return ArrivalRate(self.per_second + weight * (seen - self.per_second))


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the workers did between two samples."""

    jobs_per_second: float
    """All of them together."""
    replica_jobs_per_second: float
    """What one replica finishes when it is busy all the time; an upper bound unless saturated."""
    is_saturated: bool
    """The workers ran as much as they could: the rate of a replica is what was seen."""


def throughput(before: Sample, after: Sample, replicas: int | None) -> Throughput | None:
    """Return what was finished between two samples; None if they do not tell.

    Args:
        before: the earlier sample.
        after: the later one.
        replicas: how many were ready in both; None if that changed. It matters only where workers
            report nothing.
    """
    return _reported(before, after) if after.workers else _counted(before, after, replicas)


def _reported(before: Sample, after: Sample) -> Throughput | None:
    earlier = {report.worker: report for report in before.workers}
    processed = 0
    busy = slot_seconds = worker_seconds = per_second = 0.0
    for report in after.workers:
        then = earlier.get(report.worker)
        if then is None or report.draining or report.seen_at <= then.seen_at:
            continue
        elapsed = report.seen_at - then.seen_at
        finished = report.processed - then.processed
        processed += finished
        per_second += finished / elapsed
        busy += report.busy_seconds - then.busy_seconds
        slot_seconds += elapsed * report.concurrency
        worker_seconds += elapsed
    if processed <= 0 or busy <= 0:
        return None
    is_saturated = busy >= SATURATED_SHARE * slot_seconds
    per_replica = (
        processed / worker_seconds
        if is_saturated
        else processed / busy * slot_seconds / worker_seconds
    )
    return Throughput(per_second, per_replica, is_saturated)


def _counted(before: Sample, after: Sample, replicas: int | None) -> Throughput | None:
    if not replicas or before.unfinished is None or after.unfinished is None:
        return None
    finished = (after.enqueued_total - before.enqueued_total) - (
        after.unfinished - before.unfinished
    )
    if finished <= 0 or not (before.ready and after.ready):
        return None
    per_second = finished / (after.sampled_at - before.sampled_at)
    return Throughput(per_second, per_second / replicas, is_saturated=True)


@dataclass(frozen=True, slots=True)
class ReplicaRate:
    """Jobs that a busy replica finishes a second: the median of the last observations.

    What replicas do when they are not full is only an upper bound, since jobs that share a
    processor slow each other down. It may lower the estimate, and never makes one.
    """

    saturated: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds seen since the last saturated observation."""

    @classmethod
    def learned(cls, per_second: float | None) -> ReplicaRate:
        """Return the estimate that an earlier operator had."""
        return cls() if per_second is None else cls(saturated=(per_second,) * TRUSTED_RATES)

    def observe(self, seen: Throughput) -> ReplicaRate:
        """Take what was seen between two samples."""
        rate = seen.replica_jobs_per_second
        if seen.is_saturated:
            return ReplicaRate(saturated=(*self.saturated, rate)[-KEPT_RATES:])
        return replace(self, bounds=(*self.bounds, rate)[-KEPT_RATES:])

    @property
    def per_second(self) -> float | None:
        """The estimate; None until it can be trusted."""
        if len(self.saturated) < TRUSTED_RATES:
            return None
        rate = median(self.saturated)
        if len(self.bounds) >= TRUSTED_RATES:
            rate = min(rate, median(self.bounds))
        return max(rate, SLOWEST_JOBS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Ask:
    """Replicas asked for and not Ready yet."""

    replicas: int
    asked_at: float


@dataclass(frozen=True, slots=True)
class LeadTime:
    """How long it takes from asking for pods until all of them are Ready."""

    measured: tuple[float, ...] = ()
    asks: tuple[Ask, ...] = ()
    """Oldest first, with growing numbers of replicas."""
    observed_at: float | None = None

    @classmethod
    def learned(cls, seconds: float | None) -> LeadTime:
        """Return the estimate that an earlier operator had."""
        return cls() if seconds is None else cls(measured=(seconds,))

    def ask(self, replicas: int, now: float) -> LeadTime:
        """Note how many replicas were decided."""
        asks = tuple(ask for ask in self.asks if ask.replicas < replicas)
        if len(asks) < len(self.asks):
            return replace(self, asks=asks)
        return replace(self, asks=(*asks, Ask(replicas, now)))

    def observe(self, ready_replicas: int, now: float) -> LeadTime:
        """Take how many pods are Ready."""
        # They became Ready at some moment since the last look.
        at = now if self.observed_at is None else (self.observed_at + now) / 2
        done = [max(at - a.asked_at, 0.0) for a in self.asks if a.replicas <= ready_replicas]
        asks = tuple(ask for ask in self.asks if ask.replicas > ready_replicas)
        return LeadTime((*self.measured, *done)[-KEPT_LEADS:], asks, now)

    @property
    def seconds(self) -> float:
        """The time that nine of ten took at most."""
        if not self.measured:
            return FIRST_LEAD_SECONDS
        nine_of_ten = sorted(self.measured)[ceil(0.9 * len(self.measured)) - 1]
        return min(nine_of_ten, LONGEST_LEAD_SECONDS)
