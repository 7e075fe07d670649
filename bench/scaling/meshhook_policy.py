"""The operator's own decision, imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.scaling.world import SLOTS, World
from meshhook_operator.scaling import (
    Decision,
    Failure,
    Fleet,
    Sample,
    ScalerState,
    ScalingSpec,
    WorkerReport,
    decide,
    default_tick_seconds,
    lookahead_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT_CAP = 10_000
REPORT_SECONDS = 5


class MeshHook:
    """Ticks like the operator; a message wakes a queue that has no replica."""

    def __init__(self, world: World) -> None:
        self.spec = ScalingSpec(
            min_replicas=world.min_replicas,
            max_replicas=world.max_replicas,
            target_age_seconds=world.target_age_seconds,
            tick_seconds=default_tick_seconds(world.target_age_seconds),
        )
        self.state = ScalerState.begin(0.0)
        self.created_at = 0.0
        self.next_tick = 0.0
        self.decision: Decision | None = None

    def act(self, world: World) -> int | None:
        wakes = not world.pods and world.ready_jobs > 0
        if world.now < self.next_tick and not wakes:
            return None
        self.next_tick = max(self.next_tick, world.now) + self.spec.tick_seconds
        fleet = Fleet(
            replicas=len(world.pods), ready_replicas=world.ready_pods, created_at=self.created_at
        )
        sample = self._sample(world) if world.is_readable else Failure(reason="Slow", message="")
        self.decision, self.state = decide(self.spec, sample, fleet, self.state, float(world.now))
        return self.decision.desired_replicas

    def _sample(self, world: World) -> Sample:
        return Sample(
            sampled_at=float(world.now),
            ready=min(world.ready_jobs, COUNT_CAP),
            ready_is_capped=world.ready_jobs > COUNT_CAP,
            lost=sum(group.count for group in world.lost),
            due_soon=world.due_within(lookahead_seconds(self.spec, self.state)),
            leased=world.running + world.leased_by_lost_workers,
            oldest_ready_seconds=float(world.oldest_ready_seconds),
            enqueued_total=world.enqueued,
            workers=tuple(_reports(world)),
        )


def _reports(world: World) -> Iterator[WorkerReport]:
    for pod in world.pods:
        if pod.ready_at > world.now:
            break
        reported_at = world.now - (world.now + pod.number) % REPORT_SECONDS
        if reported_at <= pod.ready_at:
            continue
        served = world.served_a_pod[reported_at] - world.served_a_pod[pod.ready_at]
        busy = world.busy_a_pod[reported_at] - world.busy_a_pod[pod.ready_at]
        yield WorkerReport(
            worker=f"{pod.number}",
            concurrency=SLOTS,
            running=SLOTS,
            processed=int(served),
            busy_seconds=busy,
            seen_at=float(reported_at),
        )
