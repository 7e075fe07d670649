"""Estimates: arrival rate, throughput of a replica, and how long a pod takes to become Ready.

Each is an immutable value; an observation returns a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, sqrt
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook_operator.scaling.observations import Sample, WorkerReport

ARRIVAL_HALF_LIFE_SECONDS = 20.0
CHANGE_INTERVALS = 4
KEPT_RATES = 8
TRUSTED_RATES = 2
LAST_RATES = 3
SATURATED_SHARE = 0.8
"""Workers with at least this share of their slots in use count as being at full load."""
KEPT_AGES = 60
RUN_TIME_HALF_LIFE_SECONDS = 60.0
RUN_TIME_HALF_LIFE_RUNS = 2.0
LATE_HALF_LIFE_SECONDS = 10.0
LONGEST_REMEMBERED_SECONDS = 3_600.0
SLOWEST_JOBS_PER_SECOND = 1e-3
LONG_RUN_SECONDS = 5.0
"""From this running time on, it gives the rate of a replica: workers report that often."""
BOUND_HALF_LIFE_SECONDS = 30.0
KEPT_LEADS = 10
FIRST_LEAD_SECONDS = 10.0
"""The lead time until one was measured: that of a container whose image is on the node."""
LONGEST_LEAD_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class ArrivalRate:
    """Messages sent per second, with less weight for older observations."""

    per_second: float = 0.0

    def observe(
        self, arrived: int, elapsed_seconds: float, half_life_seconds: float
    ) -> ArrivalRate:
        """Take how many arrived since the last observation.

        Args:
            arrived: how many.
            elapsed_seconds: since then.
            half_life_seconds: in which the weight of older observations halves.
        """
        weight = 1.0 - 0.5 ** (elapsed_seconds / half_life_seconds)
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

    def expected_per_second(self, average: float) -> float:
        """Return what to expect next, from the average and the last four intervals.

        A lasting rise or fall shows there before the average follows. Many messages at once do not
        mean that as many follow: for a rise only the two intervals with the fewest count. Of n
        random arrivals, two standard deviations are about 2 * sqrt(n).
        """
        last = self.moments[-1 - CHANGE_INTERVALS :]
        if len(last) <= CHANGE_INTERVALS:
            return average
        steps = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(last)]
        fewest = sorted(steps, key=lambda step: step[1] / step[0])[: CHANGE_INTERVALS // 2]
        few, some = sum(count for _, count in fewest), sum(count for _, count in steps)
        least = (few - 2.0 * sqrt(few)) / sum(seconds for seconds, _ in fewest)
        most = (some + 2.0 * sqrt(some + 1.0)) / sum(seconds for seconds, _ in steps)
        return min(max(average, least), most)

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
    if busy_seconds <= 0:
        return None
    slots = sum(report.concurrency for report in after.workers)
    if min(before.ready, after.ready) > slots:
        # They take work as fast as they can, though slots may be free between two jobs.
        return Throughput(per_second, processed / worker_seconds, is_saturated=True)
    if processed <= 0:
        return None  # not at full load: nothing may have been there to complete
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
    """The mean running time of a job: the time that all jobs ran, divided by those that ended.

    Jobs that still run count with the time they have run so far. Before any has ended, the estimate
    is the time of all of them together, and so grows as long as none ends. The weight of older
    observations halves every minute, or in twice the running time if that is longer.

    Long jobs that have taken the slots of short ones show sooner: if fewer jobs have ended lately
    than the mean can explain, the lowest running time that can explain it counts.
    """

    busy_seconds: float = 0.0
    processed: float = 0.0
    late_busy_seconds: float = 0.0
    """The same of the last seconds."""
    late_processed: float = 0.0

    def observe(self, before: Sample, after: Sample) -> RunTime:
        """Take the reports of the workers in two samples."""
        pairs = list(_pairs(before, after))
        if not pairs:
            return self
        half_life = max(RUN_TIME_HALF_LIFE_SECONDS, RUN_TIME_HALF_LIFE_RUNS * (self.seconds or 0.0))
        elapsed_seconds = after.sampled_at - before.sampled_at
        weight = 0.5 ** (elapsed_seconds / half_life)
        busy = sum(now.busy_seconds - then.busy_seconds for then, now in pairs)
        processed = sum(now.processed - then.processed for then, now in pairs)
        late = 0.5 ** (elapsed_seconds / LATE_HALF_LIFE_SECONDS)
        return RunTime(
            self.busy_seconds * weight + busy,
            self.processed * weight + processed,
            self.late_busy_seconds * late + busy,
            self.late_processed * late + processed,
        )

    @property
    def seconds(self) -> float | None:
        """The mean; None before the first report."""
        if self.busy_seconds <= 0:
            return None
        mean = self.busy_seconds / self.processed if self.processed >= 1 else self.busy_seconds
        # Of so many ends at most two standard deviations more were to be expected.
        most_ends = self.late_processed + 2.0 * sqrt(self.late_processed + 1.0)
        return min(max(mean, self.late_busy_seconds / most_ends), LONGEST_REMEMBERED_SECONDS)


@dataclass(frozen=True, slots=True)
class Starts:
    """How many jobs had been started at recent times, which gives the ages of those that run."""

    moments: tuple[tuple[float, float], ...] = ()
    """Time and total, oldest first. The total only counts from some time on."""

    def observe(self, before: Sample, after: Sample, keep_seconds: float) -> Starts:
        """Take the reports of the workers in two samples; forget what is older than that."""
        earlier = {report.worker: report for report in before.workers}
        started = 0.0
        for report in after.workers:
            then = earlier.get(report.worker)
            began = (then.processed + then.running) if then else 0
            started += max(0, report.processed + report.running - began)
        now = after.sampled_at
        total = self.moments[-1][1] if self.moments else 0.0
        kept = [moment for moment in self.moments if now - keep_seconds <= moment[0] < now]
        if kept[1:] and kept[-1][0] - kept[-2][0] < keep_seconds / KEPT_AGES:
            kept.pop()
        return Starts((*kept, (now, total + started)))

    def within(self, seconds: float) -> float | None:
        """Return how many jobs were started within the last so many seconds; None if unknown."""
        if not self.moments:
            return None
        now, total = self.moments[-1]
        earlier = [started for at, started in self.moments if now - at >= seconds]
        return total - earlier[-1] if earlier else None


@dataclass(frozen=True, slots=True)
class ReplicaRate:
    """Jobs that a busy replica completes per second: the median of the last observations.

    The rate of replicas below full load is only an upper bound, since jobs that share a processor
    slow each other down. It lowers an estimate at once. It raises one slowly: the longer replicas
    have been below full load, the less is what they completed at full load worth. If they are then
    too few, they are soon at full load, and the estimate is that of full load again.
    """

    saturated: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds seen since the last saturated observation."""
    below_seconds: float = 0.0
    """How long they have been seen."""

    @classmethod
    def learned(cls, per_second: float | None) -> ReplicaRate:
        """Return the estimate of an earlier operator."""
        return cls() if per_second is None else cls(saturated=(per_second,) * TRUSTED_RATES)

    def observe(self, seen: Throughput, elapsed_seconds: float) -> ReplicaRate:
        """Take the throughput between two samples."""
        rate = seen.replica_jobs_per_second
        if seen.is_saturated:
            return ReplicaRate(saturated=(*self.saturated, rate)[-KEPT_RATES:])
        return replace(
            self,
            bounds=(*self.bounds, rate)[-KEPT_RATES:],
            below_seconds=self.below_seconds + elapsed_seconds,
        )

    @property
    def per_second(self) -> float | None:
        """The estimate; None until it can be trusted."""
        if len(self.saturated) < TRUSTED_RATES:
            return None
        rate = max(median(self.saturated), SLOWEST_JOBS_PER_SECOND)
        if self.bound:
            raised = (self.bound / rate) ** (
                1.0 - 0.5 ** (self.below_seconds / BOUND_HALF_LIFE_SECONDS)
            )
            rate = min(rate * raised, self.bound)
        return max(rate, SLOWEST_JOBS_PER_SECOND)

    @property
    def latest(self) -> float | None:
        """The most that replicas at full load have completed in the last few observations."""
        return max(self.saturated[-LAST_RATES:], default=None)

    @property
    def bound(self) -> float:
        """The upper bound observed since replicas were last at full load; 0 if there is none."""
        return median(self.bounds) if len(self.bounds) >= TRUSTED_RATES else 0.0


def busy_rate(rate: ReplicaRate, run_time: RunTime, slots: int | None) -> float | None:
    """Return how many jobs a busy replica completes per second; None until that is known.

    Where jobs run long, few end between two samples, and none at first: how long they run tells
    more than how many ended.

    Args:
        rate: what was completed.
        run_time: how long jobs run.
        slots: how many a replica runs at once; None if unknown.
    """
    measured, run_seconds = rate.per_second, run_time.seconds
    if slots is None or run_seconds is None or run_seconds < LONG_RUN_SECONDS:
        return measured
    return slots / run_seconds


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
