"""Scaling decisions as sentences for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook_operator.scaling import Limit

if TYPE_CHECKING:
    from meshhook_operator.scaling import Decision

LIMITS = {
    Limit.MAX_REPLICAS: "maxReplicas is reached; the signals call for more replicas.",
    Limit.MIN_REPLICAS: "minReplicas is reached; the signals call for fewer replicas.",
    Limit.SCALE_UP_LIMIT: "The scaleUp limit is reached; the signals call for more replicas.",
    Limit.SCALE_DOWN_LIMIT: "The scaleDown limit is reached; the signals call for fewer replicas.",
    Limit.SCALE_DOWN_WINDOW: (
        "Fewer replicas are needed now, but more were needed within scaleDown.windowSeconds."
    ),
    Limit.COOLDOWN: (
        "There is no work now; the last replica stays until cooldownSeconds have passed."
    ),
    Limit.ROLLOUT: "Fewer replicas are needed now, but a rollout is in progress.",
    Limit.STARTING: (
        "Fewer replicas are needed now, but the operator has just started: it waits for a whole "
        "scaleDown.windowSeconds."
    ),
    Limit.SOURCE_UNAVAILABLE: "The queue cannot be read, so nothing is scaled down.",
    Limit.NO_THROUGHPUT_GAIN: (
        "The last increases did not complete more jobs: something else is the bottleneck, such as "
        "a database or a service that the jobs share. The signals call for more replicas."
    ),
    Limit.PODS_FAILING: (
        "The signals call for more replicas, but pods do not start, so no more are asked for."
    ),
    Limit.PAUSED: "Scaling is paused.",
    Limit.CONFLICT: "Something else also scales the Deployment.",
}
"""What each limit means. A limit that is missing here is told by its reason alone."""


def scaling_sentence(decision: Decision) -> str:
    """Return why the replicas are what a decision says."""
    if decision.conflict is not None:
        return decision.conflict
    if decision.limit is Limit.PODS_FAILING and decision.pods_failing:
        return f"{LIMITS[decision.limit]} {decision.pods_failing}"
    if decision.limit is not None:
        return LIMITS.get(decision.limit, f"The replicas are limited: {decision.limit}.")
    if decision.signal is None:
        return "There is no work to do now."
    return f"The signal {decision.signal} asks for the most replicas."
