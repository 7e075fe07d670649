"""A scaler that knows the future: the smoothest service that is never late.

What was served, drawn over time, must stay below what has arrived and above what had arrived one
target age ago. Of all lines between the two, the shortest, a string pulled taut, changes its
slope least; the slope is the number of replicas. Pods are asked for one lead early.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil, floor
from typing import TYPE_CHECKING

from bench.scaling.world import ATTEMPTS, LEASE_SECONDS, REPLICA_RATE, RESTART_SECONDS, SLOTS

if TYPE_CHECKING:
    from bench.scaling.world import World

LOOK_SECONDS = 3
LEAD_SECONDS = 8
MARGIN = 0.85
LATE_SHARE = 0.75
"""From this share of the target age on there is one replica more than planned: replicas do not run
at exactly their mean rate."""


class Oracle:
    """Follows a plan that was made before the first job came."""

    def __init__(self, world: World) -> None:
        self.plan = _plan(world)

    def act(self, world: World) -> int | None:
        ahead = self.plan[world.now : world.now + LEAD_SECONDS + 1]
        wanted = max(ahead, default=world.min_replicas)
        if world.oldest_ready_seconds > LATE_SHARE * world.target_age_seconds:
            wanted = max(wanted + 1, len(world.pods))
        return max(world.min_replicas, min(wanted, world.max_replicas))


def _plan(world: World) -> list[int]:
    """Whole replicas, changed only when the string must bend by one."""
    arrivals = _work(world)
    wait = max(2, int(world.target_age_seconds * MARGIN) - 1)
    total = sum(arrivals)
    # A moment of idleness is no reason to change.
    idle = wait // 8 + 1
    high = [0, *[*accumulate(arrivals)][idle:], *[total] * (wait + idle)]
    low = [0] * (wait + 1) + [*accumulate(arrivals)]
    rates = [REPLICA_RATE * world.speed(t) for t in range(len(high))]
    work = [0.0, *accumulate(rates)]
    plan: list[int] = []
    served, replicas, stride = 0.0, 0, max(1, wait // 20)
    for t in range(len(low) - 1):
        if t % LOOK_SECONDS == 0 or not low[t + 1] <= served + replicas * rates[t] <= high[t + 1]:
            slope = _slope(t, served, work, low, high, stride)
            if slope >= replicas + 1 or served + replicas * rates[t] < low[t + 1]:
                replicas = ceil(slope - 1e-9)
            elif slope <= replicas - 1 or served + replicas * rates[t] > high[t + 1]:
                replicas = floor(slope + 1e-9)
        served = min(served + replicas * rates[t], float(high[t + 1]))
        plan.append(replicas)
    return plan


def _slope(  # noqa: PLR0917 - two lines, and where to look
    start: int, served: float, work: list[float], low: list[int], high: list[int], stride: int
) -> float:
    """Return the slope of the string where it leaves that point."""
    steepest, flattest = float("-inf"), float("inf")
    for t in range(start + 1, len(low), stride):
        length = work[t] - work[start]
        rise, fall = (low[t] - served) / length, (high[t] - served) / length
        if rise > flattest:
            return flattest
        if fall < steepest:
            return steepest
        steepest, flattest = max(steepest, rise), min(flattest, fall)
    return max(steepest, 0.0)


def _work(world: World) -> list[int]:
    """What arrives, retries and the cost of crashes included."""
    trace = world.trace
    work = [*trace.arrivals, *[0] * 600]
    for second, count in enumerate(trace.arrivals):
        if trace.failing and second in trace.failing:
            for delay in (1, 3, 7, 15):
                work[second + delay] += count // 10
    for second in trace.poison:
        work[second + LEASE_SECONDS] += SLOTS * (SLOTS - 1)
        for attempt in range(ATTEMPTS):
            lost = SLOTS + round(REPLICA_RATE * RESTART_SECONDS)
            work[second + LEASE_SECONDS * attempt] += lost
    return work
