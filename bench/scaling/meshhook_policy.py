"""The operator's own decision, imported."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from meshhook_operator.reconciliation.admission import Admission
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
    from bench.scaling.contract import Queue

COUNT_CAP = 10_000
QUOTA = "Pods are refused: exceeded quota."


class MeshHook:
    """Ticks like the operator; a message wakes a queue that has no replica."""

    def __init__(self, world: Queue) -> None:
        self.spec = ScalingSpec(
            min_replicas=world.min_replicas,
            max_replicas=world.max_replicas,
            target_age_seconds=world.target_age_seconds,
            tick_seconds=default_tick_seconds(world.target_age_seconds),
        )
        self.state = ScalerState.begin(0.0)
        self.admission = Admission()
        self.created_at = 0.0
        self.next_tick = 0.0
        self.decision: Decision | None = None

    def act(self, world: Queue) -> int | None:
        wakes = not world.replicas and world.ready_jobs > 0
        if world.now < self.next_tick and not wakes:
            return None
        self.next_tick = max(self.next_tick, world.now) + self.spec.tick_seconds
        fleet = Fleet(
            replicas=world.replicas,
            ready_replicas=world.ready_pods,
            created_at=self.created_at,
            pods_failing=QUOTA if world.refused_pods else None,
        )
        sample = self._sample(world) if world.is_readable else Failure(reason="Slow", message="")
        self.decision, self.state = decide(self.spec, sample, fleet, self.state, float(world.now))
        world.cordon(self.decision.desired_replicas - self.decision.active_replicas)
        return self.decision.desired_replicas

    def _sample(self, world: Queue) -> Sample:
        self.admission, sample = self.admission.observe(self._read(world))
        return sample

    def _read(self, world: Queue) -> Sample:
        return Sample(
            sampled_at=float(world.now),
            ready=min(world.ready_jobs, COUNT_CAP),
            ready_is_capped=world.ready_jobs > COUNT_CAP,
            lost=world.lost_jobs,
            due_soon=world.due_within(lookahead_seconds(self.spec, self.state)),
            leased=world.leased_jobs,
            oldest_ready_seconds=float(world.oldest_ready_seconds),
            enqueued_total=world.enqueued,
            kept_back=min(world.kept_back_jobs, COUNT_CAP),
            behind_limits=min(world.kept_back_jobs, COUNT_CAP),
            kept_back_is_capped=world.kept_back_jobs >= COUNT_CAP,
            workers=tuple(WorkerReport(**asdict(report)) for report in world.reports()),
        )
