"""A queue and its pods, in steps of one second."""

from __future__ import annotations

import random
from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from bench.scaling.contract import Report, Result, quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.scaling.contract import Policy
    from bench.scaling.traces import Trace

REPLICA_RATE = 5.0
SLOTS = 10
LEASE_SECONDS = 30
RESTART_SECONDS = 10
ATTEMPTS = 5
REPORT_SECONDS = 5
GIVE_UP_SECONDS = 1_800
"""So long after the last arrival a queue that is not empty counts as never emptied."""
LEAD_MEDIAN_SECONDS = 6.0
LEAD_SIGMA = 0.35


@dataclass(slots=True, order=True)
class Pod:
    """A pod, Ready from a second on."""

    ready_at: int
    number: int


@dataclass(slots=True)
class Group:
    """Jobs that became ready in the same second and are of one kind."""

    ready_at: int
    count: int
    attempt: int = 1
    fails: bool = False
    is_lost: bool = False
    is_poison: bool = False


class World:
    """What a policy looks at and acts on."""

    def __init__(
        self,
        trace: Trace,
        *,
        seed: int,
        speed: Callable[[int], float],
        target_age_seconds: int,
        max_replicas: int = 100,
    ) -> None:
        self.trace = trace
        self.speed = speed
        self.target_age_seconds = target_age_seconds
        self.min_replicas = trace.min_replicas
        self.max_replicas = max_replicas
        self.now = 0
        self.pods: list[Pod] = []
        self.waiting: deque[Group] = deque()
        self.lost: deque[Group] = deque()
        self.later: list[tuple[int, int, Group]] = []
        self.ready_jobs = 0
        self.kept_back_jobs = 0
        self.leased_by_lost_workers = 0
        self.running = 0
        self.enqueued = 0
        self.served_a_pod = [0.0]
        """What a pod has served that was ready from the beginning on, at each second."""
        self.busy_a_pod = [0.0]
        self._random = random.Random(f"{trace.name} pods {seed}")
        self._number = 0
        self._left_over = 0.0
        self._debt = 0.0

    @property
    def replicas(self) -> int:
        return len(self.pods)

    @property
    def refused_pods(self) -> int:
        """No quota here."""
        return 0

    @property
    def lost_jobs(self) -> int:
        return sum(group.count for group in self.lost)

    @property
    def leased_jobs(self) -> int:
        return self.running + self.leased_by_lost_workers

    def reports(self) -> Iterator[Report]:
        """Return what each pod reported last."""
        for pod in self.pods:
            if pod.ready_at > self.now:
                break
            reported_at = self.now - (self.now + pod.number) % REPORT_SECONDS
            if reported_at <= pod.ready_at:
                continue
            busy = self.busy_a_pod[reported_at] - self.busy_a_pod[pod.ready_at]
            served = self.served_a_pod[reported_at] - self.served_a_pod[pod.ready_at]
            yield Report(
                worker=f"{pod.number}",
                concurrency=SLOTS,
                running=round(self.busy_a_pod[reported_at] - self.busy_a_pod[reported_at - 1]),
                processed=int(served),
                busy_seconds=busy,
                oldest_running_seconds=0.0,
                seen_at=float(reported_at),
            )

    @property
    def ready_pods(self) -> int:
        return bisect_right(self.pods, self.now, key=lambda pod: pod.ready_at)

    @property
    def oldest_ready_seconds(self) -> int:
        return self.now - self.waiting[0].ready_at if self.waiting else 0

    @property
    def is_readable(self) -> bool:
        window = self.trace.unreadable
        if window is None or self.now not in window:
            return True
        is_first_half = self.now < (window.start + window.end) // 2
        return not is_first_half and self._random.random() < 0.5

    def due_within(self, seconds: float) -> int:
        horizon = self.now + seconds
        return sum(g.count for at, _, g in self.later if at <= horizon and not g.is_lost)

    def lead_seconds(self) -> int:
        return max(2, round(LEAD_MEDIAN_SECONDS * exp(self._random.gauss(0, LEAD_SIGMA))))

    def scale(self, replicas: int) -> None:
        while len(self.pods) < replicas:
            self._start(self.now + self.lead_seconds())
        del self.pods[replicas:]

    def cordon(self, pods: int) -> None:
        """Do nothing: no job runs long here."""

    def _start(self, ready_at: int) -> None:
        self._number += 1
        insort(self.pods, Pod(ready_at, self._number))

    def arrive(self) -> None:
        trace, now = self.trace, self.now
        count = trace.arrivals[now] if now < len(trace.arrivals) else 0
        if count:
            fails = count // 10 if trace.failing and now in trace.failing else 0
            self._ready(Group(now, count - fails))
            if fails:
                self._ready(Group(now, fails, fails=True))
            self.enqueued += count
        if now in trace.poison:
            self._ready(Group(now, 1, is_poison=True))
            self.enqueued += 1
        while self.later and self.later[0][0] <= now:
            _, _, group = self.later.pop(0)
            if group.is_lost:
                self.leased_by_lost_workers -= group.count
                self.lost.append(group)
            else:
                self._ready(group)

    def _ready(self, group: Group) -> None:
        group.ready_at = self.now
        if group.count:
            self.waiting.append(group)
            self.ready_jobs += group.count

    def _later(self, seconds: int, group: Group) -> None:
        self._number += 1
        insort(self.later, (self.now + seconds, self._number, group))

    def serve(self, waits: dict[int, int]) -> None:
        pods = self.ready_pods
        rate = REPLICA_RATE * self.speed(self.now)
        able = pods * rate * self._random.gauss(1.0, 0.15 / max(pods, 1) ** 0.5)
        if self.trace.shared_limit and self.now in self.trace.shared_limit[0]:
            able = min(able, self.trace.shared_limit[1])
        able = max(0.0, able)
        budget = able + self._left_over
        used = 0.0
        while pods and self.lost and budget >= 1:
            # A suspect has its replica for itself, all slots of it, while it runs.
            group = self.lost[0]
            budget -= SLOTS
            used += SLOTS
            group.count -= 1
            if not group.count:
                self.lost.popleft()
            if group.is_poison:
                self._crash(group)
        while pods and self.waiting and budget >= 1:
            group = self.waiting[0]
            count = min(group.count, int(budget))
            budget -= count
            used += count
            group.count -= count
            self.ready_jobs -= count
            if group.attempt == 1 and not group.is_poison:
                wait = self.now - group.ready_at
                waits[wait] = waits.get(wait, 0) + count
            if group.fails and group.attempt < ATTEMPTS:
                retried = Group(0, count, attempt=group.attempt + 1, fails=True)
                self._later(2 ** (group.attempt - 1), retried)
            if group.is_poison:
                self._crash(group)
            if not group.count:
                self.waiting.popleft()
        self._left_over = min(budget, 1.0) if self.waiting or self.lost else 0.0
        self._left_over = budget if budget < 0 else self._left_over
        share = min(1.0, used / able) if able else 0.0
        self.running = round(pods * SLOTS * share)
        self.served_a_pod.append(self.served_a_pod[-1] + (used / pods if pods else 0.0))
        self.busy_a_pod.append(self.busy_a_pod[-1] + SLOTS * share)

    def _crash(self, group: Group) -> None:
        del self.pods[0]
        self._start(self.now + RESTART_SECONDS)
        others = Group(0, SLOTS - 1, is_lost=True) if group.attempt == 1 else None
        if others:
            self.leased_by_lost_workers += others.count
            self._later(LEASE_SECONDS, others)
        if group.attempt < ATTEMPTS:
            again = Group(0, 1, attempt=group.attempt + 1, is_lost=True, is_poison=True)
            self.leased_by_lost_workers += 1
            self._later(LEASE_SECONDS, again)


def run(world: World, policy: Policy[World]) -> Result:
    """Play the trace, and on until the queue is empty and the pods are at their minimum."""
    waits: dict[int, int] = {}
    replica_seconds = events = most = 0
    history = []
    seconds = len(world.trace.arrivals)
    while world.now < seconds + GIVE_UP_SECONDS:
        world.arrive()
        world.serve(waits)
        wanted = policy.act(world)
        if wanted is not None and wanted != len(world.pods):
            events += 1
            world.scale(wanted)
        replica_seconds += len(world.pods)
        most = max(most, len(world.pods))
        if world.now % 10 == 0:
            history.append((world.now, len(world.pods), world.ready_jobs))
        world.now += 1
        is_empty = not (world.waiting or world.lost or world.later)
        if world.now >= seconds and is_empty and len(world.pods) <= world.min_replicas:
            break
    never = sum(group.count for group in world.waiting if group.attempt == 1)
    if never:
        waits[GIVE_UP_SECONDS] = waits.get(GIVE_UP_SECONDS, 0) + never
    jobs = sum(waits.values())
    late = sum(count for wait, count in waits.items() if wait > world.target_age_seconds)
    return Result(
        late_share=late / jobs,
        p99_wait_seconds=quantile(waits, 0.99),
        replica_seconds=replica_seconds,
        scale_events=events,
        most_replicas=most,
        jobs=jobs,
        history=history,
    )
