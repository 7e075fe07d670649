"""KEDA's postgresql scaler, and the HorizontalPodAutoscaler that it drives.

From Kubernetes, pkg/controller/podautoscaler: `GetExternalPerPodMetricReplicas` (an average value
a pod, ceil(value / target), nothing within a tolerance of 0.1 of the present replicas, pods that
are not ready counted too), then `stabilizeRecommendationWithBehaviors` (down: the most of 300 s;
up: no window), then `convertDesiredReplicasWithBehaviorRate` (up: 100% or 4 pods in 15 s,
whichever is more; down: free), every 15 s. From KEDA, pkg/scaling/executor: `RequestScale`
(from zero to one as soon as a poll, each 30 s, finds something; to zero when no poll found anything
for 300 s). Between one and the maximum the HPA asks the scaler itself, so the polling interval
does not matter there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING

from bench.scaling.world import REPLICA_RATE

if TYPE_CHECKING:
    from bench.scaling.contract import Queue
    from bench.scaling.slots import SlotWorld

SYNC_SECONDS = 15
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaSettings:
    """The settings of a ScaledObject; the defaults are KEDA's and Kubernetes'."""

    target: float
    """targetQueryValue: jobs a replica."""
    polling_seconds: int = 30
    cooldown_seconds: int = 300
    scale_down_window_seconds: int = 300
    scale_up_percent: int = 100
    scale_up_pods: int = 4


class Keda:
    """What KEDA does between no replica and one, and its HorizontalPodAutoscaler above."""

    def __init__(self, settings: KedaSettings) -> None:
        self.settings = settings
        self.active_at = 0
        self.recommended: list[tuple[int, int]] = []
        self.raised: list[tuple[int, int]] = []

    def act(self, world: Queue) -> int | None:
        settings, now, current = self.settings, world.now, world.replicas
        lowest = max(1, world.min_replicas)
        if now % settings.polling_seconds == 0 and world.is_readable:
            jobs = self.query(world)
            if jobs:
                self.active_at = now
                if not current:
                    return lowest
            elif not world.min_replicas and now - self.active_at > settings.cooldown_seconds:
                self.recommended.clear()
                return 0 if current else None
        if not current:
            return lowest if world.min_replicas else None
        if now % SYNC_SECONDS or not world.is_readable:
            return None
        return self._sync(world, current, lowest)

    @staticmethod
    def query(world: Queue) -> int:
        """The count of an expert's query: what is ready and what runs."""
        waiting = world.ready_jobs + world.kept_back_jobs
        return waiting + world.lost_jobs + world.leased_jobs

    def _sync(self, world: Queue, current: int, lowest: int) -> int:
        settings, now = self.settings, world.now
        jobs = self.query(world)
        ratio = jobs / (settings.target * current)
        desired = current if abs(ratio - 1) <= TOLERANCE else ceil(jobs / settings.target)
        window = settings.scale_down_window_seconds
        self.recommended = [(at, n) for at, n in self.recommended if at > now - window]
        self.recommended.append((now, desired))
        # Up: the lowest of a window of 0 seconds, which is the newest. Down: the highest.
        if desired < current:
            desired = min(current, max(n for _, n in self.recommended))
        desired = max(lowest, min(desired, world.max_replicas))
        if desired > current:
            self.raised = [(at, n) for at, n in self.raised if at > now - SYNC_SECONDS]
            base = current - sum(n for _, n in self.raised)
            highest = max(
                base + settings.scale_up_pods, ceil(base * (1 + settings.scale_up_percent / 100))
            )
            desired = max(current, min(desired, highest))
            self.raised.append((now, desired - current))
        return desired


def by_default(_world: Queue) -> Keda:
    """Nobody tuned anything; 10 jobs a replica."""
    return Keda(KedaSettings(target=10))


def tuned(world: Queue) -> Keda:
    """Tuned by one who knows the rate of a replica, and lets half of the target age wait."""
    return _tuned(world, 0.5, 60)


def in_hindsight(world: Queue, tuning: int) -> Keda:
    """One of many tunings, of which the best may be taken for each trace when it is over."""
    return _tuned(world, *TUNINGS[tuning])


def long_jobs_in_hindsight(world: SlotWorld, tuning: int) -> Keda:
    """One of many tunings for jobs of any length: so many jobs a slot, those that run included."""
    jobs_a_slot, window_seconds = LONG_JOB_TUNINGS[tuning]
    world.idle_first = False
    return _of_target(world.slots * jobs_a_slot, window_seconds)


LONG_JOB_TUNINGS = tuple(product((0.5, 0.7, 0.85, 1.0, 1.25, 1.6, 2.5), (60, 300)))
TUNINGS = tuple(product((0.125, 0.25, 0.5, 0.75), (60, 300)))


def _tuned(world: Queue, share: float, window_seconds: int) -> Keda:
    return _of_target(REPLICA_RATE * world.target_age_seconds * share, window_seconds)


def _of_target(target: float, window_seconds: int) -> Keda:
    return Keda(
        KedaSettings(
            target=target,
            polling_seconds=5,
            cooldown_seconds=60,
            scale_down_window_seconds=window_seconds,
            scale_up_percent=900,
        ),
    )
