"""Two scalers that nobody can have: one that knows what runs, and one that knows what comes."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.scaling.slots import SlotWorld

HOLD_SECONDS = 30


class Prompt:
    """Asks at once for a slot for each job that is there, and keeps it for half a minute.

    It cannot foresee anything: what is late with it is owed to the time that pods take.
    """

    def __init__(self, world: SlotWorld) -> None:
        self.needs: list[tuple[int, int]] = []
        self.slots = world.slots

    def act(self, world: SlotWorld) -> int | None:
        need = ceil((world.ready_jobs + world.leased_jobs) / self.slots)
        self.needs = [(at, n) for at, n in self.needs if at > world.now - HOLD_SECONDS]
        self.needs.append((world.now, need))
        most = max(n for _, n in self.needs)
        idle = sum(not pod.running for pod in world.pods if pod.ready_at <= world.now)
        kept = max(most, world.replicas - idle)
        return max(world.min_replicas, min(kept, world.max_replicas))
