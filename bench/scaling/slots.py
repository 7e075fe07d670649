"""A queue whose jobs have run times of their own, and pods with slots, event by event.

`bench.scaling.world` counts what a fleet completes in a second. Here each job takes one slot of one
pod until it ends, so that jobs may run longer than the target age.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from bench.scaling.contract import Report, Result, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.scaling.contract import Policy
    from bench.scaling.jobs import Job, JobTrace

REPORT_SECONDS = 5
CORDONED_REPORT_SECONDS = 1
CORDON_SECONDS = 6
"""So long after it was told, a pod has reported twice, and the second report tells the truth."""
RESTART_SECONDS = 20
GIVE_UP_SECONDS = 1_800
SENT, ARRIVAL, DUE, END, CUT = range(5)


@dataclass(slots=True, order=True)
class Attempt:
    """A job that waits or runs."""

    due_at: float
    number: int
    job: Job = field(compare=False)
    failures_left: int = field(compare=False)
    is_again: bool = field(default=False, compare=False)
    """It was given back by a pod that stopped, and has started in time before."""
    began_at: float = field(default=0.0, compare=False)


@dataclass(slots=True, eq=False)
class SlotPod:
    """A pod, and what it runs."""

    number: int
    ready_at: float
    running: dict[int, Attempt] = field(default_factory=dict)
    processed: int = 0
    finished_seconds: float = 0.0
    stops_at: float | None = None
    """When it gives its jobs back; None while it is not stopping."""
    report: Report | None = None
    cordoned_at: float | None = None
    """Since when the operator has wanted it to take no more jobs; None if it may."""
    knows: bool = False
    """Whether it takes no more jobs: it learns that with its next report."""

    def busy_seconds(self, now: float) -> float:
        """The running time of all its jobs, including those that still run."""
        return self.finished_seconds + sum(now - each.began_at for each in self.running.values())

    def oldest_seconds(self, now: float) -> float:
        """How long its oldest job has run."""
        return max((now - each.began_at for each in self.running.values()), default=0.0)


class SlotWorld:
    """What a policy looks at and acts on."""

    def __init__(self, trace: JobTrace, *, seed: int) -> None:
        self.trace = trace
        self.slots = trace.concurrency
        self.target_age_seconds = trace.target_age_seconds
        self.min_replicas = trace.min_replicas
        self.max_replicas = trace.max_replicas
        self.now = 0
        self.replicas = 0
        self.is_readable = True
        self.idle_first = True
        """Whether the policy lets idle pods go first, as Kubernetes alone does not."""
        self.pods: list[SlotPod] = []
        self.stopping: list[SlotPod] = []
        self.waiting: deque[Attempt] = deque()
        """Those that may start."""
        self.kept_back: dict[str, deque[Attempt]] = defaultdict(deque)
        """Those that wait for the limit of their key."""
        self._admitted: Counter[str] = Counter()
        """How many of each key with a limit may start or run."""
        self.enqueued = 0
        self.cut = 0
        """Jobs that were given back because their pod stopped."""
        self.busy_stops = 0
        """Pods that were stopped while they ran a job though an idle one was left."""
        self._seed = seed
        self._random = random.Random(f"{trace.name} slots {seed}")
        self._events: list[tuple[float, int, int, object]] = []
        self._number = 0
        self._due: list[float] = []
        for job in trace.jobs:
            attempt = Attempt(job.at, self._next(), job, job.failures)
            if job.ahead_seconds:
                self._at(job.at - job.ahead_seconds, SENT, attempt)
            else:
                self._at(job.at, ARRIVAL, attempt)
        self.scale(self.min_replicas)
        for pod in self.pods:
            pod.ready_at = 0.0

    # --- What a policy sees ----------------------------------------------------------------------

    @property
    def ready_pods(self) -> int:
        """How many pods are Ready."""
        return sum(pod.ready_at <= self.now for pod in self.pods)

    @property
    def refused_pods(self) -> int:
        """How many pods the quota leaves out."""
        return self.replicas - len(self.pods)

    @property
    def ready_jobs(self) -> int:
        """How many jobs wait and may start."""
        return len(self.waiting)

    @property
    def kept_back_jobs(self) -> int:
        """How many jobs wait because as many of their key run as may."""
        return sum(map(len, self.kept_back.values()))

    @property
    def lost_jobs(self) -> int:
        """No pod is lost here."""
        return 0

    @property
    def leased_jobs(self) -> int:
        """How many jobs run, in pods that stop too."""
        return sum(len(pod.running) for pod in (*self.pods, *self.stopping))

    @property
    def oldest_ready_seconds(self) -> float:
        """How long the oldest waiting job has waited."""
        return self.now - self.waiting[0].due_at if self.waiting else 0

    def due_within(self, seconds: float) -> int:
        """How many jobs fall due within that time."""
        return sum(self.now < at <= self.now + seconds for at in self._due)

    def reports(self) -> Iterator[Report]:
        """Return what each pod reported last."""
        for pod in self.pods:
            if pod.report is not None:
                yield pod.report

    def lead_seconds(self, second: float, number: int = 0) -> float:
        """How long a pod takes that is asked for in that second."""
        trace = self.trace
        draw = random.Random(f"{trace.name} lead {self._seed} {second} {number}")
        lead = trace.lead
        share = second / trace.seconds if trace.last_lead else 0.0
        last = trace.last_lead or lead
        shortest = lead.shortest_seconds + share * (last.shortest_seconds - lead.shortest_seconds)
        longest = lead.longest_seconds + share * (last.longest_seconds - lead.longest_seconds)
        seconds = draw.uniform(shortest, longest)
        while draw.random() < trace.failing_share:
            seconds += RESTART_SECONDS
        return seconds

    # --- What happens ----------------------------------------------------------------------------

    def cordon(self, pods: int) -> None:
        """Let so many pods take no more jobs, those that run the least."""
        live = [pod for pod in self.pods if pod.report is not None]
        kept = max(0, len(live) - pods)
        live.sort(key=lambda pod: (pod.cordoned_at is not None, -len(pod.running), pod.number))
        for place, pod in enumerate(live):
            if place < kept:
                pod.cordoned_at = None
            elif pod.cordoned_at is None:
                pod.cordoned_at = float(self.now)

    def scale(self, replicas: int) -> None:
        """Ask for so many pods."""
        self.replicas = replicas
        surplus = len(self.pods) - replicas
        if surplus > 0:
            self.pods.sort(key=self._last_to_go)
            gone, self.pods = self.pods[:surplus], self.pods[surplus:]
            busy = sum(bool(pod.running) for pod in gone)
            idle = sum(not pod.running and pod.ready_at <= self.now for pod in self.pods)
            self.busy_stops += min(busy, idle)
            for pod in gone:
                if pod.running:
                    pod.stops_at = self.now + self.trace.grace_seconds
                    self.stopping.append(pod)
                    self._at(pod.stops_at, CUT, pod)
        self._create()

    def _last_to_go(self, pod: SlotPod) -> tuple[object, ...]:
        if pod.ready_at > self.now:
            return (0, False, 0, 0.0, -pod.ready_at)
        if self.idle_first and pod.report is not None:
            return (
                1,
                pod.cordoned_at is None,
                len(pod.running),
                pod.oldest_seconds(self.now),
                pod.number,
            )
        return (1, False, 0, 0.0, -pod.ready_at)

    def _create(self) -> None:
        quota = self.trace.quota
        most = self.replicas if quota is None else max(0, quota - len(self.stopping))
        number = 0
        while len(self.pods) < min(self.replicas, most):
            ready_at = self.now + self.lead_seconds(self.now, number)
            self.pods.append(SlotPod(self._next(), float(round(ready_at))))
            number += 1

    def play(self, waits: list[tuple[float, float]]) -> None:
        """Let a second pass; add when each job that starts was due, and how long it waited."""
        if self.trace.quota:
            self._create()
        end = self.now + 1
        self._start(self.now, waits)
        while self._events and self._events[0][0] < end:
            at, kind, _, what = heappop(self._events)
            if kind == SENT:
                assert isinstance(what, Attempt)
                self.enqueued += 1
                self._wait_until_due(what)
            elif kind in {ARRIVAL, DUE}:
                assert isinstance(what, Attempt)
                self.enqueued += kind == ARRIVAL
                if kind == DUE:
                    self._due.remove(at)
                self._admit(what)
            elif kind == END:
                assert isinstance(what, tuple)
                self._end(at, *what)
            else:
                assert isinstance(what, SlotPod)
                self._cut(at, what)
            self._start(at, waits)
        for pod in self.pods:
            every = CORDONED_REPORT_SECONDS if pod.knows else REPORT_SECONDS
            is_due = pod.ready_at == self.now or (self.now + pod.number) % every == 0
            if pod.ready_at <= self.now and is_due:
                told_at = pod.cordoned_at
                pod.knows = told_at is not None
                pod.report = Report(
                    worker=str(pod.number),
                    concurrency=self.slots,
                    running=len(pod.running),
                    processed=pod.processed,
                    busy_seconds=pod.busy_seconds(end),
                    oldest_running_seconds=pod.oldest_seconds(end),
                    seen_at=float(end),
                    cordoned=told_at is not None and end > told_at + CORDON_SECONDS,
                )
        self.stopping = [pod for pod in self.stopping if pod.running]

    def _start(self, at: float, waits: list[tuple[float, float]]) -> None:
        while self.waiting:
            free = [
                p
                for p in self.pods
                if p.ready_at <= at and not p.knows and len(p.running) < self.slots
            ]
            if not free:
                return
            attempt = self.waiting.popleft()
            pod = self._random.choice(free)
            attempt.began_at = at
            if not attempt.is_again:
                waits.append((attempt.due_at, at - attempt.due_at))
            pod.running[attempt.number] = attempt
            self._at(at + attempt.job.run_seconds, END, (pod, attempt))

    def _admit(self, attempt: Attempt) -> None:
        """Let an attempt that is due wait for a pod, or for the limit of its key."""
        key = attempt.job.key
        if self._admitted[key] >= self.trace.max_running.get(key, inf):
            self.kept_back[key].append(attempt)
            return
        self._admitted[key] += 1
        self.waiting.append(attempt)

    def _release(self, at: float, key: str) -> None:
        """Let the next attempt of a key wait for a pod: it has not waited for one before."""
        self._admitted[key] -= 1
        if self.kept_back[key]:
            attempt = self.kept_back[key].popleft()
            attempt.due_at = at
            self._admit(attempt)

    def _end(self, at: float, pod: SlotPod, attempt: Attempt) -> None:
        if pod.running.pop(attempt.number, None) is None:
            return
        self._release(at, attempt.job.key)
        pod.processed += 1
        pod.finished_seconds += at - attempt.began_at
        if attempt.failures_left:
            retry_at = attempt.job.retry_at
            due_at = at + self.trace.retry_seconds if retry_at is None else max(at, retry_at)
            again = Attempt(due_at, self._next(), attempt.job, attempt.failures_left - 1)
            self._wait_until_due(again)

    def _wait_until_due(self, attempt: Attempt) -> None:
        self._due.append(attempt.due_at)
        self._at(attempt.due_at, DUE, attempt)

    def _cut(self, at: float, pod: SlotPod) -> None:
        for attempt in pod.running.values():
            self.cut += 1
            again = Attempt(at, self._next(), attempt.job, attempt.failures_left, is_again=True)
            self.waiting.append(again)
        pod.running.clear()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _at(self, at: float, kind: int, what: object) -> None:
        heappush(self._events, (at, kind, self._next(), what))

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to happen."""
        return not self._events and not self.waiting and not self.kept_back_jobs


def run(world: SlotWorld, policy: Policy[SlotWorld]) -> Result:
    """Play the trace, and on until the queue is empty and the pods are at their minimum."""
    waits: list[tuple[float, float]] = []
    replica_seconds = idle_seconds = ready_seconds = events = most = 0
    history = []
    while world.now < world.trace.seconds + GIVE_UP_SECONDS:
        world.play(waits)
        wanted = policy.act(world)
        if wanted is not None and wanted != world.replicas:
            events += 1
            world.scale(wanted)
        replica_seconds += len(world.pods) + len(world.stopping)
        ready = [pod for pod in world.pods if pod.ready_at <= world.now]
        if world.now < world.trace.seconds:
            ready_seconds += len(ready) + len(world.stopping)
            idle_seconds += sum(not pod.running for pod in ready)
        most = max(most, world.replicas)
        if world.now % 10 == 0:
            history.append((world.now, world.replicas, world.ready_jobs))
        world.now += 1
        is_over = world.now >= world.trace.seconds and world.is_done
        if is_over and world.replicas <= world.min_replicas:
            break
    waits += [(each.due_at, inf) for each in world.waiting if not each.is_again]
    age = world.target_age_seconds
    late = [(due_at, wait) for due_at, wait in waits if wait > age]
    by_seconds: dict[int, int] = {}
    for _, wait in waits:
        second = GIVE_UP_SECONDS if wait == inf else int(wait)
        by_seconds[second] = by_seconds.get(second, 0) + 1
    return Result(
        late_share=len(late) / len(waits),
        p99_wait_seconds=quantile(by_seconds, 0.99),
        replica_seconds=replica_seconds,
        scale_events=events,
        most_replicas=most,
        jobs=len(waits),
        history=history,
        idle_share=idle_seconds / max(ready_seconds, 1),
        cut=world.cut,
        busy_stops=world.busy_stops,
    )
