"""What the scaler remembers from one tick to the next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What took a while to measure and is worth keeping over a restart."""

    replica_jobs_per_second: float | None = None
    """What one busy replica finishes; None if it was never measured."""
    lead_seconds: float | None = None
    """From asking for a pod to its being Ready; None if it was never measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerState:
    """The memory of one queue's scaler. Opaque to callers: pass back what `decide` returned."""

    started_at: float
    """When this operator began to look at the queue, on its own clock."""

    @classmethod
    def begin(cls, now: float, learned: Learned | None = None) -> ScalerState:
        """Return the memory of a scaler that has seen nothing yet.

        Nothing is scaled down until a scale-down window has passed, and nothing goes to zero until
        a cooldown has: an operator that was restarted cannot know what it missed.

        Args:
            now: seconds of the operator's clock.
            learned: what the last operator had learned, if it is known.
        """
        raise NotImplementedError
