"""What the simulator says of a trace that is played on the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.scaling.meshhook_policy import MeshHook
from bench.scaling.slots import SlotWorld, run

if TYPE_CHECKING:
    from bench.scaling.jobs import JobTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The figures of a trace in the simulator, as those of the node are defined."""

    late_share: float
    p99_wait_seconds: float
    idle_share: float
    most_replicas: int


def predict(trace: JobTrace) -> Prediction:
    """Play a trace in the simulator, once."""
    world = SlotWorld(trace, seed=1)
    result = run(world, MeshHook(world))
    return Prediction(
        late_share=result.late_share,
        p99_wait_seconds=result.p99_wait_seconds,
        idle_share=result.idle_share,
        most_replicas=result.most_replicas,
    )
