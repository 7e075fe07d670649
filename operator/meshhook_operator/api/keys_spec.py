"""`spec.keys`: whether messages have keys, and how many jobs of each may run or start."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from meshhook.queue_config import LIMIT_NAMES
from meshhook_operator.api.fields import Part, rules

MAX_OVERRIDES = 1_000

_Limit = Annotated[int, Field(ge=0, le=1_000_000)]
_Pause = Annotated[float, Field(ge=0.1, le=86_400)]

_FIELDS = (
    "path",
    "ordered",
    "onDeadLetter",
    "maxRunning",
    "maxRunningPerKey",
    "maxStarts",
    "maxStartsPerKey",
    "startsPeriodSeconds",
    "breaker",
    "overrides",
)
_RULE = f"self.enabled || !({' || '.join(f'has(self.{name})' for name in _FIELDS)})"

_PAUSES_RULE = (
    "!has(self.pauseSeconds) || !has(self.maxPauseSeconds) || "
    "self.pauseSeconds <= self.maxPauseSeconds"
)


class KeyOverride(Part):
    """What holds for one key; give at least one of weight, maxRunning and maxStarts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.weight) || has(self.maxRunning) || has(self.maxStarts)",
                "give weight, maxRunning or maxStarts",
            )
        )
    )

    key: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
    """The key; the empty one is that of messages without a key."""
    weight: Annotated[float, Field(ge=0.001, le=1_000)] | None = None
    """How many jobs of it run for each job of a key with weight 1. Absent: left as it is."""
    max_running: _Limit | None = None
    """How many of its jobs run at once; 0 means as many as of each key. Absent: left as it is."""
    max_starts: _Limit | None = None
    """How many of its jobs start in a period; 0 means as many as of each key. Absent: left as it
    is."""


class BreakerSpec(Part):
    """The circuit breaker of each key."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                _PAUSES_RULE,
                "pauseSeconds is more than maxPauseSeconds",
            )
        )
    )

    failures: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """After how many failures in a row of a key its breaker opens; 0 means never. Absent: left as
    it is."""
    pause_seconds: _Pause | None = None
    """How long a breaker stays open before its first probe, in seconds. It doubles with each probe
    that fails. Absent: left as it is, at first 30."""
    max_pause_seconds: _Pause | None = None
    """The longest pause between two probes, in seconds. Absent: left as it is, at first 600."""


class KeysSpec(Part):
    """Keys, which share a queue among tenants or destinations."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                _RULE,
                "the other fields need enabled: true",
            )
        )
    )

    enabled: bool = True
    """Whether messages have keys, which workers serve in fair shares. True builds two indexes of
    the queue's table while it is in use; false drops them, and removes the limits and the order of
    the queue. Default true."""
    path: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,7}$")] | None
    ) = None
    """Where in the body the key is, such as payload.customer. To change it, disable the keys first.
    Absent: left as it is, at first the header x-pgmq-group."""
    ordered: bool | None = None
    """Whether one job of each key runs at a time, in the order of msg_id. Absent: left as it is."""
    on_dead_letter: Literal["continue", "block"] | None = None
    """What a dead letter does to its key, if keys are ordered: with block, no job of the key starts
    until it is replayed or deleted, or the key is resumed. Absent: left as it is."""
    max_running: _Limit | None = None
    """How many jobs of the queue run at once, on all workers together; 0 means any number. Absent:
    left as it is."""
    max_running_per_key: _Limit | None = None
    """How many jobs of each key run at once, on all workers together; 0 means any number. Absent:
    left as it is."""
    max_starts: _Limit | None = None
    """How many jobs of the queue start in a period; 0 means any number. Absent: left as it is."""
    max_starts_per_key: _Limit | None = None
    """How many jobs of each key start in a period; 0 means any number. Absent: left as it is."""
    starts_period_seconds: Annotated[float, Field(ge=0.1, le=86_400)] | None = None
    """The period of maxStarts and maxStartsPerKey, in seconds. Absent: left as it is, at first
    1."""
    breaker: BreakerSpec | None = None
    """The circuit breaker of each key: after failures in a row, its jobs wait. Absent: left as it
    is."""
    overrides: Annotated[
        list[KeyOverride],
        Field(
            default_factory=list,
            max_length=MAX_OVERRIDES,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"],
            },
        ),
    ]
    """What holds for single keys instead. A key that is taken off the list keeps what it has; to
    remove that, run meshhook keys set."""

    @property
    def place(self) -> dict[str, Any]:
        """The settings that the indexes depend on, by their names in `queue_config`."""
        if not self.enabled:
            return {"keyed": False, "ordered": False, "on_dead_letter": "continue"}
        declared = {
            "key_path": self.path,
            "ordered": self.ordered,
            "on_dead_letter": self.on_dead_letter,
        }
        return {"keyed": True} | {n: value for n, value in declared.items() if value is not None}

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that are declared, by their names in `queue_config`; None is any number."""
        breaker = self.breaker or BreakerSpec()
        declared = {name: getattr(self, name) for name in LIMIT_NAMES} | {
            "breaker_failures": breaker.failures,
            "breaker_pause_seconds": breaker.pause_seconds,
            "breaker_max_pause_seconds": breaker.max_pause_seconds,
        }
        if not self.enabled:
            return {name: None for name in declared if not name.endswith("_seconds")}
        return {name: value or None for name, value in declared.items() if value is not None}
