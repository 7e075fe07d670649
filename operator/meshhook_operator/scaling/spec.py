"""What the user asks of the scaler."""

from __future__ import annotations

from dataclasses import dataclass


def default_tick_seconds(target_age_seconds: float) -> float:
    """Return how often to look at a queue whose spec does not say: 1 to 5 seconds.

    A tick is a twelfth of the target age: looking late is waiting, and a short target leaves no
    time to wait.
    """
    return min(5.0, max(1.0, target_age_seconds / 12))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimit:
    """A cap on how far the replicas may move within a period.

    Of the two ways to say it the larger applies, so that a percentage does not stop a small fleet.

    Raises:
        ValueError: if neither `replicas` nor `percent` is above 0, or the period is not positive.
    """

    replicas: int = 0
    """So many replicas; 0 says nothing."""
    percent: int = 0
    """So many percent of the replicas at the beginning of the period; 0 says nothing."""
    period_seconds: float = 15.0

    def __post_init__(self) -> None:
        if self.replicas < 0 or self.percent < 0 or self.replicas + self.percent == 0:
            raise ValueError(
                f"a step limit needs replicas or percent above 0, got replicas={self.replicas} "
                f"and percent={self.percent}; leave the limit out to have none"
            )
        if self.period_seconds <= 0:
            raise ValueError(f"period_seconds must be above 0, got {self.period_seconds}")

    def step(self, replicas: int) -> int:
        """Return how many may come or go within a period that began at that many; at least 1."""
        # A percentage of nothing would never let the first one come.
        return max(1, self.replicas, -(-replicas * self.percent // 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSpec:
    """The scaling settings of one queue.

    Raises:
        ValueError: if a value is out of its range; the message names the field.
    """

    max_replicas: int
    """Never more replicas than this; at least 1."""
    min_replicas: int = 1
    """Never fewer; 0 lets the workers of an idle queue go."""
    target_age_seconds: float = 60.0
    """A job should start within so many seconds after it became ready."""
    target_length: int = 10
    """Messages a replica, used until the rate of a replica was measured."""
    concurrency: int | None = None
    """How many jobs a replica runs at once; None takes it from the workers' reports."""
    drain_seconds: float = 25.0
    """How long a replica that is told to stop has for its running jobs: the pod's grace period
    less what the worker keeps for itself."""
    tick_seconds: float = 5.0
    """How often `decide` is called; see `default_tick_seconds`."""
    scale_up: StepLimit | None = None
    """A cap on steps up; None leaves them free."""
    scale_down: StepLimit | None = None
    """A cap on steps down; None leaves them free."""
    scale_down_window_seconds: float = 30.0
    """Down only to the most that was needed within so many seconds."""
    cooldown_seconds: float = 60.0
    """To zero only after so many seconds without an arrival."""
    fallback_replicas: int | None = None
    """At least so many replicas while the queue cannot be read; None holds what is there."""
    fallback_after_failures: int = 3
    """How many reads in a row must fail before `fallback_replicas` counts."""

    def __post_init__(self) -> None:
        if self.max_replicas < 1:
            raise ValueError(f"max_replicas must be at least 1, got {self.max_replicas}")
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"min_replicas must be 0 to max_replicas ({self.max_replicas}), "
                f"got {self.min_replicas}"
            )
        for name in ("target_age_seconds", "target_length", "tick_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in (
            "drain_seconds",
            "scale_down_window_seconds",
            "cooldown_seconds",
            "fallback_replicas",
        ):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("concurrency", "fallback_after_failures"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
