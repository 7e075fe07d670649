"""A scaler that knows the future: the smoothest service that is never late.

What was served, drawn over time, must stay below what has arrived and above what had arrived one
target age ago. Of all lines between the two, the shortest, a string pulled taut, changes its
slope least; the slope is the number of replicas. Pods are asked for one lead early.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil, floor
from typing import TYPE_CHECKING

from world import REPLICA_RATE

if TYPE_CHECKING:
    from world import World

LEAD_SECONDS = 12
MARGIN = 0.9


class Oracle:
    def __init__(self, world: World) -> None:
        self.plan = _plan(world)

    def act(self, world: World) -> int | None:
        ahead = self.plan[world.now : world.now + LEAD_SECONDS + 1]
        wanted = max(ahead, default=world.min_replicas)
        return max(world.min_replicas, min(wanted, world.max_replicas))


def _plan(world: World) -> list[int]:
    arrivals = world.trace.arrivals
    wait = max(2, int(world.target_age_seconds * MARGIN) - 1)
    arrived = [0, *accumulate(arrivals), *[sum(arrivals)] * wait]
    due = [0] * (wait + 1) + [0, *accumulate(arrivals)][1:]
    seconds = len(due)
    arrived = (arrived + [arrived[-1]] * seconds)[:seconds]
    work = [0.0, *accumulate(REPLICA_RATE * world.speed(t) for t in range(seconds))]
    corners = _taut(work[:seconds], due, arrived)
    plan: list[int] = []
    for (start, low), (end, high) in zip(corners, corners[1:], strict=False):
        slope = (high - low) / (work[end] - work[start])
        few, length = floor(slope + 1e-9), end - start
        many = ceil((slope - few) * length - 1e-9)
        plan += [few + 1] * many + [few] * (length - many)
    return plan


def _taut(x: list[float], low: list[int], high: list[int]) -> list[tuple[int, float]]:
    corners = [(0, 0.0)]
    last = len(x) - 1
    while corners[-1][0] < last:
        start, y = corners[-1]
        steepest, flattest = float("-inf"), float("inf")
        at_steepest = at_flattest = start
        corner = (last, float(low[last]))
        for i in range(start + 1, last + 1):
            up = (low[i] - y) / (x[i] - x[start])
            down = (high[i] - y) / (x[i] - x[start])
            if up > flattest:
                corner = (at_flattest, float(high[at_flattest]))
                break
            if down < steepest:
                corner = (at_steepest, float(low[at_steepest]))
                break
            if up >= steepest:
                steepest, at_steepest = up, i
            if down <= flattest:
                flattest, at_flattest = down, i
        corners.append(corner)
    return corners
