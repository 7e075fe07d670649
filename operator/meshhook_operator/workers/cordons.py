"""Choosing the pods whose workers claim no more jobs, so that they become idle and can be removed.

Jobs spread over all pods of a queue. With jobs that run for long, every pod is always a bit busy,
and none could be removed without cutting a job off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from meshhook_operator.workers.pod_work import PodWork

LEAST_SECONDS = 30.0
"""How long a cordon lasts at least, unless it is renewed."""
LASTS_TICKS = 4
"""For how many ticks it lasts at least."""
MOST_SECONDS = 3_600.0


def cordon_seconds(tick_seconds: float) -> float:
    """Return how long a cordon should last: it is renewed after half of that time."""
    return min(MOST_SECONDS, max(LEAST_SECONDS, LASTS_TICKS * tick_seconds))


def choose_cordons(
    pods: Mapping[str, PodWork], active_replicas: int, *, may_add: bool
) -> frozenset[str]:
    """Return the pods whose workers should claim nothing. Pure, and stable from tick to tick.

    Pods that claim now go on first, and of these the busiest: those with the oldest jobs. When more
    are needed, the busiest of the cordoned ones claim again: idle ones are about to be removed. If
    fewer pods report than are to claim, all of them claim.

    Args:
        pods: what the pods of the Deployment do, by name.
        active_replicas: how many pods are to claim.
        may_add: whether pods may be cordoned that are not yet. Otherwise those that are stay so as
            long as they are not needed: they may be about to be removed.
    """
    live = [name for name, work in pods.items() if work.cordon_seconds]
    by_use = sorted(live, key=lambda name: (pods[name].is_asked, *_idleness(pods[name]), name))
    surplus = by_use[max(0, active_replicas) :]
    return frozenset(name for name in surplus if may_add or pods[name].is_asked)


def must_write(
    pods: Mapping[str, PodWork], chosen: Collection[str], lasting_seconds: float
) -> bool:
    """Return whether the database must be told: a cordon begins, ends, or is to be renewed. Pure.

    Args:
        pods: as for `choose_cordons`.
        chosen: what it returned.
        lasting_seconds: how long a cordon lasts.
    """
    return any(
        min(work.cordon_seconds, default=lasting_seconds) < lasting_seconds / 2
        if name in chosen
        else work.is_asked
        for name, work in pods.items()
    )


def _idleness(work: PodWork) -> tuple[float, int]:
    return -work.oldest_running_seconds, -work.running
