"""The scaling settings of a queue."""

from __future__ import annotations

from dataclasses import dataclass


def default_tick_seconds(target_age_seconds: float) -> float:
    """Return the default interval of ticks: 1 to 5 seconds.

    It is a twelfth of the target age. A longer interval adds to the time that jobs wait, which a
    short target does not allow.
    """
    return min(5.0, max(1.0, target_age_seconds / 12))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimit:
    """A limit on how far the replicas may change within a period.

    The larger of the two numbers applies, so that a percentage does not block a small fleet.

    Raises:
        ValueError: if neither `replicas` nor `percent` is above 0, or the period is not positive.
    """

    replicas: int = 0
    """A number of replicas; 0 sets no limit."""
    percent: int = 0
    """A percentage of the replicas at the start of the period; 0 sets no limit."""
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
        """Return the largest change in a period that began with that many replicas; at least 1."""
        # A percentage of zero would never allow the first replica.
        return max(1, self.replicas, -(-replicas * self.percent // 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSpec:
    """The scaling settings of one queue.

    Raises:
        ValueError: if a value is out of its range; the message names the field.
    """

    max_replicas: int
    """The maximum number of replicas; at least 1."""
    min_replicas: int = 1
    """The minimum number of replicas. With 0 an idle queue has no workers."""
    target_age_seconds: float = 60.0
    """A job should start within this many seconds after it became ready."""
    target_length: int = 10
    """Messages per replica, used until the rate of a replica has been measured."""
    concurrency: int | None = None
    """How many jobs a replica runs at once; None takes it from the workers' reports."""
    drain_seconds: float = 25.0
    """How long a stopping replica has for its running jobs: the pod's grace period minus what the
    worker reserves."""
    tick_seconds: float = 5.0
    """How often `decide` is called; see `default_tick_seconds`."""
    scale_up: StepLimit | None = None
    """A limit on scaling up; None means no limit."""
    scale_down: StepLimit | None = None
    """A limit on scaling down; None means no limit."""
    scale_down_window_seconds: float = 30.0
    """Scale down only to the highest number needed within this many seconds."""
    cooldown_seconds: float = 60.0
    """Scale to zero only after this many seconds without an arrival."""
    fallback_replicas: int | None = None
    """At least this many replicas while the queue cannot be read; None keeps the present number."""
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
