"""Estimates: arrival rate, throughput of a replica, and how long a pod takes to become Ready.

Each is an immutable value; an observation returns a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook_operator.scaling.observations import Sample, WorkerReport

ARRIVAL_HALF_LIFE_SECONDS = 20.0
KEPT_RATES = 8
TRUSTED_RATES = 2
SATURATED_SHARE = 0.8
"""Workers with at least this share of their slots in use count as being at full load."""
KEPT_AGES = 60
RUN_TIME_HALF_LIFE_SECONDS = 60.0
SLOWEST_JOBS_PER_SECOND = 1e-3
KEPT_LEADS = 10
FIRST_LEAD_SECONDS = 10.0
"""The lead time until one was measured: that of a container whose image is on the node."""
LONGEST_LEAD_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ArrivalRate:
    """Messages sent per second; the weight of older observations halves every 20 seconds."""

    per_second: float = 0.0

    def observe(self, arrived: int, elapsed_seconds: float) -> ArrivalRate:
        """Take how many arrived since the last observation."""
        weight = 1.0 - 0.5 ** (elapsed_seconds / ARRIVAL_HALF_LIFE_SECONDS)
        seen = arrived / elapsed_seconds
        return ArrivalRate(self.per_second + weight * (seen - self.per_second))


@dataclass(frozen=True, slots=True)
class Sent:
    """How many messages had been sent at recent times, which gives the ages of those that wait.

    Workers take the oldest messages first, so the waiting messages are those sent last.
    """

    moments: tuple[tuple[float, int], ...] = ()
    """Time and total, oldest first."""

    def observe(self, sample: Sample, age_seconds: float) -> Sent:
        """Take a sample, and forget what is older than that age."""
        now, total = sample.sampled_at, sample.enqueued_total
        kept = [m for m in self.moments if now - age_seconds <= m[0] < now and m[1] <= total]
        # The last two may be so close to each other that they say the same.
        if kept[1:] and kept[-1][0] - kept[-2][0] < age_seconds / KEPT_AGES:
            kept.pop()
        return Sent((*kept, (now, total)))

    def waiting(self, ready: float, oldest_seconds: float) -> Iterator[tuple[float, float]]:
        """Return ages, and how many of the ready messages are at least that old."""
        now, total = self.moments[-1]
        for at, sent in self.moments:
            still = ready - (total - sent)
            if now - at <= oldest_seconds and still > 0:
                yield now - at, still


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the workers completed between two samples."""

    jobs_per_second: float
    """All of them together."""
    replica_jobs_per_second: float
    """What one replica completes if it is always busy; an upper bound unless saturated."""
    is_saturated: bool
    """Whether the workers were at full load, so that the observed rate is the maximum."""


def throughput(before: Sample, after: Sample, replicas: int | None) -> Throughput | None:
    """Return the throughput between two samples; None if it cannot be derived.

    Args:
        before: the earlier sample.
        after: the later one.
        replicas: how many were ready in both; None if that changed. Used only if workers report
            nothing.
    """
    return _reported(before, after) if after.workers else _counted(before, after, replicas)


def _reported(before: Sample, after: Sample) -> Throughput | None:
    processed, busy_seconds, slot_seconds, worker_seconds, per_second = 0, 0.0, 0.0, 0.0, 0.0
    for then, now in _pairs(before, after):
        elapsed_seconds = now.seen_at - then.seen_at
        processed += now.processed - then.processed
        busy_seconds += now.busy_seconds - then.busy_seconds
        slot_seconds += elapsed_seconds * now.concurrency
        worker_seconds += elapsed_seconds
        per_second += (now.processed - then.processed) / elapsed_seconds
    if processed <= 0 or busy_seconds <= 0:
        return None
    slots = sum(report.concurrency for report in after.workers)
    if min(before.ready, after.ready) > slots:
        # They take work as fast as they can, though slots may be free between two jobs.
        return Throughput(per_second, processed / worker_seconds, is_saturated=True)
    if_full = processed / busy_seconds * slot_seconds / worker_seconds
    is_saturated = busy_seconds >= SATURATED_SHARE * slot_seconds
    return Throughput(per_second, if_full, is_saturated)


def _pairs(before: Sample, after: Sample) -> Iterator[tuple[WorkerReport, WorkerReport]]:
    """Return the two reports of each worker that has reported again."""
    earlier = {report.worker: report for report in before.workers}
    for report in after.workers:
        then = earlier.get(report.worker)
        if then is not None and report.seen_at > then.seen_at and not report.draining:
            yield then, report


def _counted(before: Sample, after: Sample, replicas: int | None) -> Throughput | None:
    if not replicas or before.unfinished is None or after.unfinished is None:
        return None
    arrived = after.enqueued_total - before.enqueued_total
    finished = arrived - (after.unfinished - before.unfinished)
    if finished <= 0 or not (before.ready and after.ready):
        return None
    per_second = finished / (after.sampled_at - before.sampled_at)
    return Throughput(per_second, per_second / replicas, is_saturated=True)


@dataclass(frozen=True, slots=True)
class RunTime:
    """The mean running time of a job; the weight of older observations halves every minute."""

    busy_seconds: float = 0.0
    processed: float = 0.0

    def observe(self, before: Sample, after: Sample) -> RunTime:
        """Take the reports of the workers in two samples."""
        pairs = list(_pairs(before, after))
        if not pairs:
            return self
        weight = 0.5 ** ((after.sampled_at - before.sampled_at) / RUN_TIME_HALF_LIFE_SECONDS)
        busy = sum(now.busy_seconds - then.busy_seconds for then, now in pairs)
        processed = sum(now.processed - then.processed for then, now in pairs)
        return RunTime(self.busy_seconds * weight + busy, self.processed * weight + processed)

    @property
    def seconds(self) -> float | None:
        """The mean; None before the first report."""
        if self.busy_seconds <= 0:
            return None
        return self.busy_seconds / self.processed if self.processed >= 1 else self.busy_seconds


@dataclass(frozen=True, slots=True)
class ReplicaRate:
    """Jobs that a busy replica completes per second: the median of the last observations.

    The rate of replicas below full load is only an upper bound, since jobs that share a processor
    slow each other down. It can lower an estimate, but does not make one.
    """

    saturated: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds seen since the last saturated observation."""

    @classmethod
    def learned(cls, per_second: float | None) -> ReplicaRate:
        """Return the estimate of an earlier operator."""
        return cls() if per_second is None else cls(saturated=(per_second,) * TRUSTED_RATES)

    def observe(self, seen: Throughput) -> ReplicaRate:
        """Take the throughput between two samples."""
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
        if self.bound:
            rate = min(rate, self.bound)
        return max(rate, SLOWEST_JOBS_PER_SECOND)

    @property
    def bound(self) -> float:
        """The upper bound observed since replicas were last at full load; 0 if there is none."""
        return median(self.bounds) if len(self.bounds) >= TRUSTED_RATES else 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Replicas that were asked for and are not Ready yet."""

    replicas: int
    asked_at: float


@dataclass(frozen=True, slots=True)
class LeadTime:
    """How long it takes until all pods that were asked for are Ready."""

    measured: tuple[float, ...] = ()
    asks: tuple[Ask, ...] = ()
    """Oldest first, with increasing numbers of replicas."""
    observed_at: float | None = None

    @classmethod
    def learned(cls, seconds: float | None) -> LeadTime:
        """Return the estimate of an earlier operator."""
        return cls() if seconds is None else cls(measured=(seconds,))

    def ask(self, replicas: int, ready_replicas: int, now: float) -> LeadTime:
        """Note how many replicas were decided on while that many pods were Ready."""
        asks = tuple(ask for ask in self.asks if ask.replicas < replicas)
        if len(asks) == len(self.asks) and replicas > ready_replicas:
            asks = (*asks, Ask(replicas, now))
        return replace(self, asks=asks)

    def observe(self, ready_replicas: int, now: float) -> LeadTime:
        """Take how many pods are Ready."""
        # They became Ready at some time since the last observation.
        at = now if self.observed_at is None else (self.observed_at + now) / 2
        done = [max(at - a.asked_at, 0.0) for a in self.asks if a.replicas <= ready_replicas]
        asks = tuple(ask for ask in self.asks if ask.replicas > ready_replicas)
        return LeadTime((*self.measured, *done)[-KEPT_LEADS:], asks, now)

    @property
    def seconds(self) -> float:
        """The 90th percentile of the measured times."""
        if not self.measured:
            return FIRST_LEAD_SECONDS
        nine_of_ten = sorted(self.measured)[ceil(0.9 * len(self.measured)) - 1]
        return min(nine_of_ten, LONGEST_LEAD_SECONDS)
