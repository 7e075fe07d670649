"""The decision of one tick."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook_operator.scaling.decision import Decision
    from meshhook_operator.scaling.observations import Failure, Fleet, Sample
    from meshhook_operator.scaling.spec import ScalingSpec
    from meshhook_operator.scaling.state import ScalerState


def lookahead_seconds(spec: ScalingSpec, state: ScalerState) -> float:
    """Return how far ahead `Sample.due_soon` should count: until a pod asked for now is Ready."""
    raise NotImplementedError


def decide(
    spec: ScalingSpec, sample: Sample | Failure, fleet: Fleet, state: ScalerState, now: float
) -> tuple[Decision, ScalerState]:
    """Return how many replicas a queue should have, and what to remember for the next tick.

    It may be called at any moment, also between ticks, as when a message wakes an idle queue. The
    replicas decided last count as the present ones, not what the Deployment says: when somebody
    else changes them, the next decision puts them back.

    Args:
        spec: what the user asks for.
        sample: the queue, read just now; a `Failure` if it could not be read. A sample that is not
            newer than the last one counts as a failure.
        fleet: the worker Deployment.
        state: what `decide` returned last, or `ScalerState.begin`.
        now: seconds of the operator's clock.
    """
    raise NotImplementedError
