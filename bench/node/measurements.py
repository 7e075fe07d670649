"""The figures of a trace, from what was noted while it was played. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.node.observations import Load, Observations, PodLife
    from bench.scaling.jobs import JobTrace

AT_ONCE_SECONDS = 1.0
"""Pods that are stopped within this time are stopped by the same decision."""

KNOWN_SECONDS = 6.0
"""Workers say every 5 seconds what they run: what has held for longer, the operator can know."""
MOSTLY = 0.9

Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is published of a trace.

    Attributes:
        jobs: how many were stored.
        lost: how many of them neither succeeded, nor are in the queue or among the dead letters.
        unfinished: how many were in the queue or had become dead letters when it was given up.
        late_share: of all jobs, those whose first recorded attempt started later than the target
            age after they were due, or never.
        p99_wait_seconds: until that start; a job that never started counts until the end.
        longest_wait_seconds: the same of the job that waited longest.
        retries: attempts after a failure.
        late_retry_share: of these, those that started later than the target age after their due
            time.
        longest_retry_wait_seconds: of these; 0 if there were none.
        most_replicas: of the Deployment.
        scale_events: how often they changed.
        replica_seconds: of the Deployment, while jobs arrived.
        ready_seconds: of all pods, while jobs arrived.
        idle_share: of these, those in which a pod ran no job.
        busy_slot_share: the slots of ready pods that ran a job, of all their slots.
        lead_median_seconds: from a pod's creation until it was Ready; None if no pod was started.
        lead_p90_seconds: the same, of nine in ten pods.
        stops: pods that were stopped before the last job had ended.
        busy_stops: those that ran a job at that moment.
        busy_stops_beside_idle: those of them beside which a pod that ran none was left.
        wrong_stops: pods that were stopped after having been busy for the last 6 s, beside one that
            had run no job in that time and was left.
        interrupted: runs that ended because their pod did.
        lost_attempts: attempts whose worker vanished.
        load: what the machine did meanwhile.
    """

    jobs: int
    lost: int
    unfinished: int
    late_share: float
    p99_wait_seconds: float
    longest_wait_seconds: float
    retries: int
    late_retry_share: float
    longest_retry_wait_seconds: float
    most_replicas: int
    scale_events: int
    replica_seconds: float
    ready_seconds: float
    idle_share: float
    busy_slot_share: float
    lead_median_seconds: float | None
    lead_p90_seconds: float | None
    stops: int
    busy_stops: int
    busy_stops_beside_idle: int
    wrong_stops: int
    interrupted: int
    lost_attempts: int
    load: Load


def figures(trace: JobTrace, seen: Observations) -> Figures:
    """Return the figures of a trace."""
    waits = _waits(trace, seen)
    retry_waits = _retry_waits(seen)
    busy = _busy_spans(seen)
    ready_seconds, idle_seconds, busy_slot_seconds = _use(trace.seconds, seen.pods, busy)
    stops = [_Stop.of(pod, seen.pods, busy) for pod in seen.pods if _is_scaled_down(pod, seen)]
    leads = sorted(
        pod.ready - pod.created for pod in seen.pods if pod.ready is not None and pod.ready > 0
    )
    succeeded = {each.job for each in seen.attempts if each.outcome == "succeeded"}
    target = trace.target_age_seconds
    return Figures(
        jobs=seen.sent,
        lost=max(0, seen.sent - len(succeeded) - seen.left - seen.dead_letters),
        unfinished=seen.left + seen.dead_letters,
        late_share=_share(sum(wait > target for wait in waits), seen.sent),
        p99_wait_seconds=quantile(waits, 0.99) or 0.0,
        longest_wait_seconds=waits[-1] if waits else 0.0,
        retries=len(retry_waits),
        late_retry_share=_share(sum(wait > target for wait in retry_waits), len(retry_waits)),
        longest_retry_wait_seconds=retry_waits[-1] if retry_waits else 0.0,
        most_replicas=max((count for _, count in seen.replicas), default=0),
        scale_events=sum(second > 0 for second, _ in seen.replicas),
        replica_seconds=_replica_seconds(trace.seconds, seen.replicas),
        ready_seconds=ready_seconds,
        idle_share=_share(idle_seconds, ready_seconds),
        busy_slot_share=_share(busy_slot_seconds, ready_seconds * trace.concurrency),
        lead_median_seconds=quantile(leads, 0.5),
        lead_p90_seconds=quantile(leads, 0.9),
        stops=len(stops),
        busy_stops=sum(stop.was_busy for stop in stops),
        busy_stops_beside_idle=sum(stop.was_busy and stop.idle_were_left for stop in stops),
        wrong_stops=sum(stop.was_wrong for stop in stops),
        interrupted=len(seen.interruptions),
        lost_attempts=sum(each.outcome == "lost" for each in seen.attempts),
        load=seen.load,
    )


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return what so large a share of ordered values does not exceed; None if there are none."""
    return ordered[ceil(share * len(ordered)) - 1] if ordered else None


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _waits(trace: JobTrace, seen: Observations) -> list[float]:
    """Return how long each job waited for its first recorded attempt, the shortest first."""
    first: dict[int, tuple[float, float]] = {}
    for each in seen.attempts:
        if each.started is not None and (
            each.job not in first or each.started < first[each.job][1]
        ):
            first[each.job] = each.enqueued, each.started
    waits = []
    for number, job in enumerate(trace.jobs[: seen.sent]):
        enqueued, started = first.get(number, (job.at, seen.seconds))
        due = max(enqueued, job.at) if job.ahead_seconds else enqueued
        waits.append(max(0.0, started - due))
    return sorted(waits)


def _retry_waits(seen: Observations) -> list[float]:
    """Return how long each attempt after a failure waited once it was due, the shortest first."""
    starts: dict[int, list[float]] = defaultdict(list)
    for each in seen.attempts:
        if each.started is not None:
            starts[each.job].append(each.started)
    waits = []
    for each in seen.attempts:
        if each.outcome == "retried" and each.retry_at is not None:
            later = [start for start in starts[each.job] if start >= each.finished]
            waits.append(max(0.0, min(later, default=seen.seconds) - each.retry_at))
    return sorted(waits)


def _busy_spans(seen: Observations) -> dict[str, list[Span]]:
    """Return when each pod ran jobs, a span for each run."""
    busy: dict[str, list[Span]] = defaultdict(list)
    for each in seen.attempts:
        if each.pod is not None and each.started is not None:
            busy[each.pod].append((each.started, each.finished))
    for broken in seen.interruptions:
        busy[broken.pod].append((broken.started, broken.ended))
    return busy


def _use(
    until: float, pods: Iterable[PodLife], busy: dict[str, list[Span]]
) -> tuple[float, float, float]:
    """Return seconds in which pods were ready, ran no job, and slots that ran one, until a time."""
    ready_seconds = idle_seconds = slot_seconds = 0.0
    for pod in pods:
        if pod.ready is None:
            continue
        start, end = max(0.0, pod.ready), min(until, _end(pod))
        if end <= start:
            continue
        spans = clipped(busy.get(pod.name, ()), start, end)
        ready_seconds += end - start
        idle_seconds += end - start - covered(spans)
        slot_seconds += sum(ended - begun for begun, ended in spans)
    return ready_seconds, idle_seconds, slot_seconds


def clipped(spans: Iterable[Span], start: float, end: float) -> list[Span]:
    """Return the parts of spans between two times."""
    return [
        (max(start, begun), min(end, ended))
        for begun, ended in spans
        if begun < end and ended > start
    ]


def covered(spans: Iterable[Span]) -> float:
    """Return how long at least one of the spans lasts."""
    total, reached = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        if ended > reached:
            total += ended - max(begun, reached)
            reached = ended
    return total


def _end(pod: PodLife) -> float:
    return min(each for each in (pod.stopped, pod.gone, float("inf")) if each is not None)


def _is_scaled_down(pod: PodLife, seen: Observations) -> bool:
    return pod.stopped is not None and 0 <= pod.stopped <= seen.seconds


@dataclass(frozen=True, slots=True)
class _Stop:
    """A pod that was stopped."""

    was_busy: bool
    idle_were_left: bool
    was_wrong: bool

    @classmethod
    def of(cls, pod: PodLife, pods: Iterable[PodLife], busy: dict[str, list[Span]]) -> _Stop:
        moment = pod.stopped or 0.0
        left = [
            other
            for other in pods
            if other.created <= moment and _end(other) > moment + AT_ONCE_SECONDS
        ]

        def is_busy(one: PodLife) -> bool:
            return any(begun <= moment < ended for begun, ended in busy.get(one.name, ()))

        def busy_share(one: PodLife) -> float:
            since = moment - KNOWN_SECONDS
            return covered(clipped(busy.get(one.name, ()), since, moment)) / KNOWN_SECONDS

        return cls(
            was_busy=is_busy(pod),
            idle_were_left=not all(is_busy(other) for other in left),
            was_wrong=is_busy(pod)
            and busy_share(pod) >= MOSTLY
            and any(not is_busy(other) and not busy_share(other) for other in left),
        )


def _replica_seconds(until: float, replicas: Sequence[tuple[float, int]]) -> float:
    ends = [second for second, _ in replicas[1:]] + [until]
    return (
        sum(
            count * max(0.0, min(until, end) - max(0.0, second))
            for (second, count), end in zip(replicas, ends, strict=True)
        )
        if replicas
        else 0.0
    )
