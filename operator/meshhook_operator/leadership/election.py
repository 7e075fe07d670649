"""What to do with a Lease, given its last known version. Pure.

As in Kubernetes' own client, times in the record are never compared with a clock: it may be
another machine's. A holder is alive as long as its record keeps changing, by one's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook_operator.cluster.leases import LeaseRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How a Lease is held. `renew < deadline < duration`."""

    duration_seconds: float
    """How long others wait after its last change before they take it."""
    deadline_seconds: float
    """How long its holder acts after its last renewal. What is left until others may take it is
    for requests that are under way, and for clocks that run at different speeds."""
    renew_seconds: float
    """How often its holder renews it."""
    look_seconds: float
    """How often others look at it, and how soon a failed renewal is tried again."""


class Step(Enum):
    """What to do with a Lease now."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def next_step(record: LeaseRecord | None, *, identity: str, seen_seconds_ago: float) -> Step:
    """Return what to do.

    Args:
        record: the Lease; None if there is none.
        identity: who asks.
        seen_seconds_ago: how long ago this version was first seen, on one's own clock.
    """
    if record is None:
        return Step.CREATE
    if record.holder == identity:
        return Step.RENEW
    if not record.holder or seen_seconds_ago >= record.duration_seconds:
        return Step.TAKE
    return Step.WAIT
