"""What the simulator says of a trace that is played on the node."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from bench.scaling.meshhook_policy import MeshHook
from bench.scaling.slots import SlotWorld, run

if TYPE_CHECKING:
    from bench.scaling.contract import Result
    from bench.scaling.jobs import JobTrace

SEEDS = (1, 2, 3)
"""The jobs are the same with each; how long pods take to be Ready differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The figures of a trace in the simulator, as those of the node are defined.

    Of several runs: the largest share of late jobs, wait and number of replicas, and the mean idle
    share.
    """

    late_share: float
    p99_wait_seconds: float
    idle_share: float
    most_replicas: int


def predict(trace: JobTrace) -> Prediction | None:
    """Play a trace in the simulator, against the operator's own decision."""
    results = [_play(trace, seed) for seed in SEEDS] if trace.jobs else []
    if not results:
        return None
    return Prediction(
        late_share=max(result.late_share for result in results),
        p99_wait_seconds=max(result.p99_wait_seconds for result in results),
        idle_share=mean(result.idle_share for result in results),
        most_replicas=max(result.most_replicas for result in results),
    )


def _play(trace: JobTrace, seed: int) -> Result:
    world = SlotWorld(trace, seed=seed)
    return run(world, MeshHook(world))
