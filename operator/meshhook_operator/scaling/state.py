"""What the scaler remembers from one tick to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from meshhook_operator.scaling.band_memory import BandMemory
from meshhook_operator.scaling.guards import Gain, NeedWindow, Steps
from meshhook_operator.scaling.rates import (
    ArrivalRate,
    LeadTime,
    ReplicaRate,
    RunTime,
    Sent,
    Starts,
)

if TYPE_CHECKING:
    from meshhook_operator.scaling.observations import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Measurements that take a while, and are therefore kept over a restart."""

    replica_jobs_per_second: float | None = None
    """What one busy replica completes; None if never measured."""
    lead_seconds: float | None = None
    """How long a new pod takes to become Ready; None if never measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerState:
    """The memory of one queue's scaler. Opaque to callers: pass back what `decide` returned."""

    started_at: float
    """When this operator first read the queue, on its own clock."""
    seeing_since: float | None = None
    """Since when every read has succeeded; None while reads fail."""
    failures: int = 0
    active: int | None = None
    """How many replicas the last decision let take jobs; None before the first, and while nothing
    may be written."""
    desired: int | None = None
    """How many replicas it asked for in all."""
    previous: Sample | None = None
    ready_replicas: int | None = None
    backlog: float = 0.0
    last_arrival_at: float | None = None
    due_until: float | None = None
    """When what was last seen to fall due soon is due: until then the last replica stays."""
    arrivals: ArrivalRate = field(default_factory=ArrivalRate)
    sent: Sent = field(default_factory=Sent)
    bands: tuple[BandMemory, ...] = ()
    """What is remembered of the bands of a queue with priorities; empty without priorities."""
    band: int | None = None
    """The number of the band that needed the most when the queue was last read."""
    rate: ReplicaRate = field(default_factory=ReplicaRate)
    replica_jobs_per_second: float | None = None
    """What a busy replica completes, from `rate` or `run_time`; None until known."""
    run_time: RunTime = field(default_factory=RunTime)
    starts: Starts = field(default_factory=Starts)
    lead: LeadTime = field(default_factory=LeadTime)
    needs: NeedWindow = field(default_factory=NeedWindow)
    steps: Steps = field(default_factory=Steps)
    gain: Gain = field(default_factory=Gain)

    @classmethod
    def begin(cls, now: float, learned: Learned | None = None) -> ScalerState:
        """Return the memory of a scaler that has observed nothing yet.

        Nothing is scaled down until a scale-down window has passed, and nothing is scaled to zero
        until a cooldown has, since a restarted operator cannot know what it missed.

        Args:
            now: seconds of the operator's clock.
            learned: what the previous operator had measured, if known.
        """
        learned = learned or Learned()
        return cls(
            started_at=now,
            rate=ReplicaRate.learned(learned.replica_jobs_per_second),
            replica_jobs_per_second=learned.replica_jobs_per_second,
            lead=LeadTime.learned(learned.lead_seconds),
        )

    def elsewhere(self) -> ScalerState:
        """Return the memory for a queue that is in another database from now on.

        Counts of the two databases are not compared.
        """
        return replace(self, previous=None, sent=Sent(), bands=(), starts=Starts())

    @property
    def learned(self) -> Learned:
        """What to keep over a restart, with two significant digits."""
        rate = self.replica_jobs_per_second
        return Learned(
            replica_jobs_per_second=None if rate is None else float(f"{rate:.2g}"),
            lead_seconds=float(f"{self.lead.seconds:.2g}") if self.lead.measured else None,
        )
