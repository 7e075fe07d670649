"""The settings of a queue: one row of `meshhook.queue_config`, checked."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from meshhook.delays import MAX_DELAY_SECONDS
from meshhook.errors import InvalidQueueNameError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import validate_key_path, validate_queue_name
from meshhook.priorities import PRIORITY_NAMES, Priority
from meshhook.retry import MAX_ATTEMPTS, MAX_BACKOFF_MS, MAX_DELAYS, Backoff, RetryStrategy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
_EARLY = re.compile(r"-infinity|.* BC")
_LATE = re.compile(r"infinity|[0-9]{5,}-.*")


def _nearest(value: Any) -> Any:
    """Return the time in a text of PostgreSQL, or the nearest one that Python can represent."""
    if not isinstance(value, str):
        return value
    if _EARLY.fullmatch(value):
        return _EARLIEST
    if _LATE.fullmatch(value):
        return _LATEST
    try:
        return min(max(datetime.fromisoformat(value), _EARLIEST), _LATEST)
    except (TypeError, ValueError):
        return value


_Moment = Annotated[datetime, BeforeValidator(_nearest)]
_Days = Annotated[int, Field(ge=1, le=36_500)]
_LIMITS = ("max_running", "max_running_per_key", "max_starts", "max_starts_per_key")
_Running = Annotated[int, Field(ge=1, le=1_000_000)]
_PauseSeconds = Annotated[float, Field(ge=0.1, le=86_400)]
LookupId: TypeAlias = Literal["run_id", "workflow_id", "project_id"]
LOOKUP_IDS: tuple[LookupId, ...] = get_args(LookupId)
"""The ids by which messages can be looked up."""
_TargetSeconds = Annotated[float, Field(ge=0.1, le=604_800)]
_BackoffMs = Annotated[int, Field(ge=0, le=MAX_BACKOFF_MS)]


AGED_PART = 0.8
"""The part of its target after which a job is aged."""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where the key of a queue's messages is."""

    path: str | None = None
    """The path in the body; None means the header `x-pgmq-group`."""


def _checked_path(path: str) -> str:
    try:
        return validate_key_path(path)
    except InvalidSettingError as error:
        raise ValueError(str(error).partition(", got ")[0]) from None


def _checked_queue(name: str) -> str:
    try:
        return validate_queue_name(name)
    except InvalidQueueNameError as error:
        raise ValueError(str(error)) from None


def _checked_lookups(names: Any) -> Any:
    """Return ids in their order, from text with commas between them, a list or None."""
    if names is None:
        return ()
    if isinstance(names, str):
        names = [each.strip() for each in names.split(",")]
    if not isinstance(names, list | tuple) or any(each not in LOOKUP_IDS for each in names):
        message = f"these are {', '.join(LOOKUP_IDS)}, with commas between them, or none"
        raise ValueError(message)
    return tuple(each for each in LOOKUP_IDS if each in names)


def _listed_delays(delays: Any) -> Any:
    """Return delays from text with commas between them, a list or None."""
    if delays is None:
        return ()
    if isinstance(delays, str):
        return [each.strip() for each in delays.split(",")]
    return delays


def _checked_targets(seconds: Any) -> Any:
    """Return the targets of the bands, from text with commas between them or a list."""
    if isinstance(seconds, str):
        seconds = [each.strip() for each in seconds.split(",")]
    if not isinstance(seconds, list | tuple) or len(seconds) != len(Priority):
        names = ", ".join(PRIORITY_NAMES)
        raise ValueError(f"these are four numbers with commas between them, for {names}")
    return tuple(seconds)


def _in_order(seconds: tuple[float, ...]) -> tuple[float, ...]:
    if list(seconds) != sorted(seconds):
        raise ValueError("no band has a longer target than one that is less urgent")
    return seconds


class QueueSettings(BaseModel):
    """The settings of a queue, with the defaults of a new one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    visibility_timeout_seconds: Annotated[int, Field(ge=1, le=43_200)] = 30
    """How long a lease lasts, in seconds; it is extended while the job runs. Default 30."""
    max_retry_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 5
    """How many attempts a job has in total, including the first. Default 5."""
    retry_backoff_base_ms: _BackoffMs = 1_000
    """The delay after the first failure, in milliseconds. Default 1000."""
    retry_backoff_max_ms: _BackoffMs = 300_000
    """The longest delay, in milliseconds. Default 300000."""
    retry_jitter: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of each delay that is random, 0 to 1. Default 0.5."""
    retry_backoff: Backoff = "exponential"
    """How the delays grow: `exponential`, doubled with each failure; `fixed`, always
    `retry_backoff_base_ms`; `list`, as `retry_delays_ms` says. Default `exponential`."""
    retry_delays_ms: Annotated[
        tuple[_BackoffMs, ...], BeforeValidator(_listed_delays), Field(max_length=MAX_DELAYS)
    ] = ()
    """The delays of the backoff `list`, in milliseconds, up to 100; the last one repeats. Default
    none."""
    max_retries_per_second: Annotated[float, Field(ge=0.001, le=1_000_000)] | None = None
    """How many retries of the queue start in a second, on all workers together, with the same
    delay: more are put off until there is room, and none is lost. A second's worth, or one, may
    come at once. None, the default, means any number."""
    job_expiry_seconds: Annotated[float, Field(ge=0.001, le=MAX_DELAY_SECONDS)] | None = None
    """How long after it was enqueued a job may start, in seconds, up to 366 days; then it expires.
    None, the default, means for ever."""
    on_expiry: Literal["archive", "dead_letter"] = "archive"
    """What becomes of the message of a job that expires. With `archive`, the default, it moves to
    the archive; with `dead_letter` it becomes a dead letter, if the queue has them."""
    job_timeout_seconds: Annotated[float, Field(gt=0, le=604_800)] | None = 300.0
    """How long one attempt may run, in seconds; None means for ever. Default 300."""
    dlq_enabled: bool = True
    """Whether jobs that failed for good become dead letters; otherwise they are archived."""
    dlq_retention_days: _Days | None = None
    """How long dead letters are kept, in days; None, the default, means for ever."""
    archive_retention_days: _Days | None = None
    """How long archived messages are kept, in days; None, the default, means for ever."""
    history_retention_days: _Days = 7
    """How long attempts are kept, in days. Default 7."""
    max_payload_bytes: Annotated[int, Field(ge=1_024, le=104_857_600)] = 1_048_576
    """The longest message, in bytes of JSON, that the library enqueues. Default 1 MiB."""
    paused: bool = False
    """Whether the queue is paused: workers claim nothing, and running jobs finish."""
    results: bool = False
    """Whether what handlers return is kept, up to 64 KiB of JSON a job, as long as the history.
    Default false."""
    keep_bodies_days: _Days | None = None
    """How long body and headers of jobs that succeeded or were cancelled are kept, in days, so that
    they can be replayed; None, the default, means that none are kept."""
    encryption: Literal["accept", "require"] = "accept"
    """What becomes of messages that are not encrypted. With `accept`, the default, they run; with
    `require`, producers without keys refuse to enqueue them, and workers make dead letters of those
    of other clients."""
    lookup_by: Annotated[tuple[LookupId, ...], BeforeValidator(_checked_lookups)] = ()
    """By which of `run_id`, `workflow_id` and `project_id` messages are found through an index.
    Default none: a search by them reads the queue from the newest message down."""
    prioritized: bool = False
    """Whether messages have priorities, and the most urgent go first. Default false. Not for keyed
    queues."""
    priority_target_seconds: Annotated[
        tuple[_TargetSeconds, _TargetSeconds, _TargetSeconds, _TargetSeconds],
        BeforeValidator(_checked_targets),
        AfterValidator(_in_order),
    ] = (5.0, 15.0, 60.0, 600.0)
    """Within how many seconds jobs of each band are to start: urgent, high, normal, low. A job that
    has waited for 0.8 of it gets a part of the claims, whatever is more urgent. Default 5, 15, 60,
    600."""
    urgent_slots: Annotated[int, Field(ge=0, le=10_000)] = 1
    """How many slots of each worker are kept for urgent jobs at least, half of them at the most.
    Workers keep more, up to a quarter, while many urgent jobs run; with 0, none. Default 1. Only in
    queues with priorities."""
    keyed: bool = False
    """Whether messages have keys, which workers serve in fair shares. Default false."""
    key_path: Annotated[str, AfterValidator(_checked_path)] | None = None
    """Where in the body the key is, such as `payload.customer`; None, the default, means the
    header `x-pgmq-group`."""
    ordered: bool = False
    """Whether one job of each key runs at a time, in the order of `msg_id`. Default false. Only for
    keyed queues."""
    dead_letter_follow_up: Annotated[str, AfterValidator(_checked_queue)] | None = None
    """The queue in which a job is enqueued for each job that becomes a dead letter; None, the
    default, means none. Not the queue itself."""
    on_dead_letter: Literal["continue", "block"] = "continue"
    """What a dead letter does to its key, if keys are ordered. With `continue`, the default, the
    next job starts; with `block` none does until the dead letter is replayed or deleted, or the key
    is resumed."""
    max_running: _Running | None = None
    """How many jobs of the queue run at once, on all workers together; None, the default, means any
    number. Only for keyed queues."""
    max_running_per_key: _Running | None = None
    """How many jobs of each key run at once, on all workers together, unless the key has a limit of
    its own; None, the default, means any number. Only for keyed queues."""
    max_starts: _Running | None = None
    """How many jobs of the queue start in each `starts_period_seconds`; None, the default, means
    any number. Only for keyed queues."""
    max_starts_per_key: _Running | None = None
    """How many jobs of each key start in each `starts_period_seconds`, unless the key has a rate of
    its own; None, the default, means any number. Only for keyed queues."""
    starts_period_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 1.0
    """The period of `max_starts` and `max_starts_per_key`, in seconds. Default 1."""
    breaker_failures: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """After how many failures in a row the circuit breaker of a key opens; None, the default, means
    never. Only for keyed queues."""
    breaker_pause_seconds: _PauseSeconds = 30.0
    """How long a breaker stays open before its first probe, in seconds. It doubles with each probe
    that fails. Default 30."""
    breaker_max_pause_seconds: _PauseSeconds = 600.0
    """The longest pause between two probes, in seconds. Default 600."""

    @model_validator(mode="after")
    def _base_at_most_max(self) -> QueueSettings:
        if self.retry_backoff_base_ms > self.retry_backoff_max_ms:
            message = (
                f"retry_backoff_base_ms ({self.retry_backoff_base_ms}) is more than "
                f"retry_backoff_max_ms ({self.retry_backoff_max_ms})"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _list_has_delays(self) -> QueueSettings:
        if self.retry_backoff == "list" and not self.retry_delays_ms:
            message = (
                "retry_backoff (list) needs delays: set retry_delays_ms=1000,5000,60000, or "
                "retry_backoff=exponential"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _pause_at_most_max(self) -> QueueSettings:
        if self.breaker_pause_seconds > self.breaker_max_pause_seconds:
            message = (
                f"breaker_pause_seconds ({self.breaker_pause_seconds:g}) is more than "
                f"breaker_max_pause_seconds ({self.breaker_max_pause_seconds:g})"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _keys_or_priorities(self) -> QueueSettings:
        if self.keyed and self.prioritized:
            message = (
                "prioritized (true) is not for keyed queues: set keyed=false, or prioritized=false "
                "and use a queue for each priority"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _only_of_keyed(self) -> QueueSettings:
        if self.ordered and not self.keyed:
            raise ValueError("ordered (true) is for keyed queues: set keyed=true, or ordered=false")
        if self.on_dead_letter != "continue" and not self.ordered:
            message = (
                f"on_dead_letter ({self.on_dead_letter}) is for ordered keys: set ordered=true, or "
                "on_dead_letter=continue"
            )
            raise ValueError(message)
        if self.on_dead_letter != "continue" and not self.dlq_enabled:
            message = (
                f"on_dead_letter ({self.on_dead_letter}) needs dead letters: set dlq_enabled=true, "
                "or on_dead_letter=continue"
            )
            raise ValueError(message)
        for name in (*_LIMITS, "breaker_failures"):
            if not self.keyed and (limit := getattr(self, name)) is not None:
                message = f"{name} ({limit}) is for keyed queues: set keyed=true, or {name}=none"
                raise ValueError(message)
        return self

    @property
    def keys(self) -> KeyPlace | None:
        """Where the keys of messages are; None if they have none."""
        return KeyPlace(self.key_path) if self.keyed else None

    @property
    def body_key_path(self) -> str | None:
        """Where in the body the keys of messages are; None if they are not there."""
        return self.key_path if self.keyed else None

    @property
    def requires_encryption(self) -> bool:
        """Whether messages that are not encrypted are refused."""
        return self.encryption == "require"

    @property
    def is_limited(self) -> bool:
        """Whether its keys are ordered, or the queue or any key has a limit."""
        has_limit = any(getattr(self, name) is not None for name in _LIMITS)
        return self.keyed and (self.ordered or has_limit)

    @property
    def aged_seconds(self) -> tuple[float, ...]:
        """After how many seconds a job of each band is aged: it then gets a part of the claims."""
        return tuple(seconds * AGED_PART for seconds in self.priority_target_seconds)

    @property
    def has_breakers(self) -> bool:
        """Whether failures in a row of a key are counted."""
        return self.keyed and self.breaker_failures is not None

    @property
    def keeps_bodies(self) -> bool:
        """Whether bodies of finished jobs are kept."""
        return self.keep_bodies_days is not None

    def retry_strategy(self, random_fraction: Callable[[], float] = random.random) -> RetryStrategy:
        """Return the retry strategy that these settings describe.

        Args:
            random_fraction: where the jitter comes from: returns a float from 0 up to 1.
        """
        return RetryStrategy(
            base_delay_ms=self.retry_backoff_base_ms,
            max_delay_ms=self.retry_backoff_max_ms,
            max_attempts=self.max_retry_attempts,
            jitter=self.retry_jitter,
            random_fraction=random_fraction,
            backoff=self.retry_backoff,
            delays_ms=self.retry_delays_ms,
        )


class QueueConfig(QueueSettings):
    """The settings of one queue, as stored in its row in the database."""

    # A newer version may add columns while workers of this one run.
    model_config = ConfigDict(extra="ignore")

    queue: str
    """The queue."""
    created_at: _Moment
    """When the row was created; the nearest time that Python can represent."""
    has_key_limits: bool = False
    """Whether any key has a limit of its own, is held, or has an open breaker, where that was
    read."""
    updated_at: _Moment
    """When it was last changed; the nearest time that Python can represent."""

    @property
    def is_limited(self) -> bool:
        """Whether its keys are ordered, or the queue or any key has a limit."""
        return super().is_limited or (self.keyed and self.has_key_limits)

    @classmethod
    def from_row(cls, queue: str, row: str) -> QueueConfig:
        """Return the settings in a queue's row of `meshhook.queue_config`, given as JSON.

        Raises:
            InvalidSettingError: naming queue, setting and value, if the row breaks a constraint
                that was removed from the table.
        """
        try:
            return cls.model_validate_json(row)
        except ValidationError as error:
            message = (
                f"queue {quoted(queue)} has a wrong row in meshhook.queue_config: "
                f"{_problem(error)}. Change it with SQL"
            )
            raise InvalidSettingError(message) from None


SETTING_NAMES: tuple[str, ...] = tuple(QueueSettings.model_fields)
"""The names of all settings of a queue."""
KEY_PLACE_NAMES = ("keyed", "key_path", "ordered", "on_dead_letter")
"""Those that need indexes or triggers of the queue's tables, which only its owner can make."""
LIMIT_NAMES = (*_LIMITS, "starts_period_seconds")
"""Those that limit how many jobs run at once, or start in a period."""
BREAKER_NAMES = ("breaker_failures", "breaker_pause_seconds", "breaker_max_pause_seconds")
"""Those of the circuit breakers of keys."""
PRIORITY_SETTING_NAMES = ("prioritized", "priority_target_seconds", "urgent_slots")
"""Those of priorities; `prioritized` needs an index of the queue's table."""
LOOKUP_NAMES = ("lookup_by",)
"""Those that need indexes of the queue's table by which messages are found."""
RETRY_NAMES = (
    "retry_backoff",
    "retry_delays_ms",
    "job_expiry_seconds",
    "on_expiry",
    "dead_letter_follow_up",
    "max_retries_per_second",
)
"""Those of failures and deadlines that are written by a statement of their own."""
KEPT_NAMES = ("keep_bodies_days",)
"""Those of the bodies of finished jobs."""
ENCRYPTION_NAMES = ("encryption",)
"""Those that protect payloads, which not everybody may change who may change others."""
KEY_SETTING_NAMES = (*KEY_PLACE_NAMES, *LIMIT_NAMES, *BREAKER_NAMES)
"""Those that are for keyed queues."""


def changed_settings(current: QueueSettings, changes: Mapping[str, Any]) -> QueueSettings:
    """Return the settings of `current` with `changes` made.

    Values may be strings, as a command line gives them; the text `none` stands for None.

    Raises:
        InvalidSettingError: naming the setting, the value received and the rule.
    """
    unknown = sorted(set(changes) - set(SETTING_NAMES))
    if unknown:
        message = f"unknown setting {quoted(unknown[0])}; a queue has: {', '.join(SETTING_NAMES)}"
        raise InvalidSettingError(message)
    values = {name: getattr(current, name) for name in SETTING_NAMES}
    for name, value in changes.items():
        is_none = isinstance(value, str) and value.strip().lower() in ("none", "null")
        values[name] = None if is_none else value
    try:
        return QueueSettings.model_validate(values)
    except ValidationError as error:
        raise InvalidSettingError(_problem(error)) from None


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return f"{name}={quoted(first['input'])}: {reason}" if name else reason
