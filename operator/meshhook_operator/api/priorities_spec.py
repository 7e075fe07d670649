"""`spec.priorities`: whether messages have priorities, and within which time each is to start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from meshhook.priorities import PRIORITY_NAMES
from meshhook.queue_config import QueueSettings
from meshhook_operator.api.fields import Part, rules

_DEFAULTS = dict(zip(PRIORITY_NAMES, QueueSettings().priority_target_seconds, strict=True))

_Seconds = Annotated[float, Field(ge=0.1, le=604_800)]


class PriorityTargetsSpec(Part):
    """Within how many seconds jobs of each priority are to start."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.urgent <= self.high", "urgent is more than high"),
            ("self.high <= self.normal", "high is more than normal"),
            ("self.normal <= self.low", "normal is more than low"),
        )
    )

    urgent: _Seconds = _DEFAULTS["urgent"]
    """That of urgent jobs. Default 5."""
    high: _Seconds = _DEFAULTS["high"]
    """That of high jobs, at least that of urgent ones. Default 15."""
    normal: _Seconds = _DEFAULTS["normal"]
    """That of normal jobs, at least that of high ones. Default 60."""
    low: _Seconds = _DEFAULTS["low"]
    """That of low jobs, at least that of normal ones. Default 600."""

    @property
    def in_order(self) -> list[float]:
        """All four, the most urgent first."""
        return [getattr(self, name) for name in PRIORITY_NAMES]


class PrioritiesSpec(Part):
    """Priorities: urgent jobs go first, and low ones do not starve."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.enabled || !(has(self.targetSeconds) || has(self.urgentSlots))",
                "the other fields need enabled: true",
            )
        )
    )

    enabled: bool = True
    """Whether messages have priorities. True builds an index of the queue's table while it is in
    use; false drops it. Default true."""
    target_seconds: PriorityTargetsSpec | None = None
    """Within how many seconds jobs of each priority are to start: what workers aim at, and what the
    scaler plans for. Absent: left as it is, at first 5, 15, 60 and 600."""
    urgent_slots: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """How many slots of each worker are kept for urgent jobs at least, half of them at the most.
    Workers keep more, up to a quarter, while many urgent jobs run; with 0, none. Absent: left as it
    is, at first 1."""

    @property
    def settings(self) -> dict[str, Any]:
        """What is declared, by the names in `queue_config`."""
        targets = self.target_seconds and self.target_seconds.in_order
        declared = {"priority_target_seconds": targets, "urgent_slots": self.urgent_slots}
        return {"prioritized": self.enabled} | {
            name: value for name, value in declared.items() if value is not None
        }
