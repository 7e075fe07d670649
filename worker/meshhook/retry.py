"""When a failed job is tried again: backoff with jitter, and a job's own policy; pure decisions."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

Backoff: TypeAlias = Literal["exponential", "fixed", "list"]
"""How delays grow: doubled with each failure, always the first one, or as a list says."""
BACKOFFS: tuple[Backoff, ...] = get_args(Backoff)
MAX_DELAYS = 100
"""How many delays a list has at most; the last one counts for all later failures."""
MAX_BACKOFF_MS = 7 * 24 * 3600 * 1000
MAX_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class RetryInfo:
    """What happens after one failed attempt."""

    attempt: int
    """The attempt that failed, counted from 1."""
    max_attempts: int
    """How many attempts a job has in total."""
    remaining_attempts: int
    """How many attempts are left."""
    can_retry: bool
    """Whether the job is tried again."""
    should_move_to_dead_letter: bool
    """Whether that was the last attempt, after which the job becomes a dead letter: the opposite
    of `can_retry`."""
    delay_ms: int | None
    """The longest delay before the next attempt, in milliseconds; None after the last attempt.
    Jitter shortens the actual delay by up to that share."""
    delay_seconds: float | None
    """`delay_ms` in seconds; None after the last attempt."""

    @property
    def next_delay_ms(self) -> int | None:
        """The same as `delay_ms`."""
        return self.delay_ms


@dataclass(frozen=True, slots=True)
class RetryStrategy:
    """A backoff with a ceiling and jitter.

    After failed attempt n the ceiling is `base_delay_ms * 2**(n - 1)`, at most `max_delay_ms`. With
    a fixed backoff it is `base_delay_ms`; with a list it is entry n, or the last one. The delay is
    drawn evenly from the top `jitter` share of it. A jitter of 1 is the "full jitter" and 0.5 the
    "equal jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter"; 0 makes the
    delays exact.

    Raises:
        InvalidSettingError: naming the field, the value received and the range.
    """

    base_delay_ms: int = 1_000
    """The ceiling after the first failure, in milliseconds: 0 to 7 days. Default 1000."""
    max_delay_ms: int = 300_000
    """The highest ceiling, in milliseconds: at least `base_delay_ms`, at most 7 days.
    Default 300000."""
    max_attempts: int = 5
    """How many attempts a job has in total, including the first: 1 to 1000. Default 5."""
    jitter: float = 0.5
    """The share of each delay that is random: 0 to 1. Default 0.5."""
    random_fraction: Callable[[], float] = random.random
    """Where the jitter comes from: returns a float from 0 up to 1."""
    backoff: Backoff = "exponential"
    """How the ceiling grows. Default `exponential`."""
    delays_ms: tuple[int, ...] = ()
    """The ceilings of the backoff `list`, in milliseconds: 1 to 100 of 0 to 7 days. Default:
    none."""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_integer("base_delay_ms", self.base_delay_ms, 0, MAX_BACKOFF_MS)
        _check_integer("max_delay_ms", self.max_delay_ms, self.base_delay_ms, MAX_BACKOFF_MS)
        _check_integer("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)
        _check_jitter(self.jitter)
        _check_backoff(self.backoff)
        if self.delays_ms or self.backoff == "list":
            object.__setattr__(self, "delays_ms", _checked_delays(self.delays_ms))

    def can_retry(self, attempt: int) -> bool:
        """Say whether a job is tried again after failed attempt `attempt` (from 1)."""
        return _checked_attempt(attempt) < self.max_attempts

    def should_move_to_dead_letter(self, attempt: int) -> bool:
        """Say whether failed attempt `attempt` (from 1) was the last one."""
        return not self.can_retry(attempt)

    def get_next_delay(self, attempt: int) -> int:
        """Return the delay after failed attempt `attempt` (from 1), in milliseconds, jittered."""
        ceiling = self._ceiling_ms(attempt)
        return round(ceiling - ceiling * self.jitter * self.random_fraction())

    def get_delay_seconds(self, attempt: int) -> float:
        """Return the delay after failed attempt `attempt` (from 1), in seconds, jittered."""
        return self.get_next_delay(attempt) / 1000

    def get_retry_info(self, attempt: int) -> RetryInfo:
        """Return what happens after failed attempt `attempt` (from 1)."""
        can_retry = self.can_retry(attempt)
        delay_ms = self._ceiling_ms(attempt) if can_retry else None
        return RetryInfo(
            attempt=attempt,
            max_attempts=self.max_attempts,
            remaining_attempts=max(0, self.max_attempts - attempt),
            can_retry=can_retry,
            should_move_to_dead_letter=not can_retry,
            delay_ms=delay_ms,
            delay_seconds=None if delay_ms is None else delay_ms / 1000,
        )

    def get_all_retry_delays(self) -> list[int]:
        """Return every delay of a job that always fails, in milliseconds, without jitter."""
        return [self._ceiling_ms(attempt) for attempt in range(1, self.max_attempts)]

    def get_config(self) -> dict[str, Any]:
        """Return the settings as a dictionary of plain values."""
        return {
            "base_delay_ms": self.base_delay_ms,
            "max_delay_ms": self.max_delay_ms,
            "max_attempts": self.max_attempts,
            "jitter": self.jitter,
            "backoff": self.backoff,
            "delays_ms": self.delays_ms,
        }

    def _ceiling_ms(self, attempt: int) -> int:
        exponent = _checked_attempt(attempt) - 1
        if self.backoff == "list":
            return self.delays_ms[min(exponent, len(self.delays_ms) - 1)]
        if self.backoff == "fixed":
            return self.base_delay_ms
        if self.base_delay_ms == 0 or exponent >= self.max_delay_ms.bit_length():
            return self.max_delay_ms if self.base_delay_ms else 0
        return min(self.base_delay_ms << exponent, self.max_delay_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A job's own policy for its retries. What it leaves out is as the settings of the queue say.

    Raises:
        InvalidSettingError: naming the field, the value received and the range.
    """

    max_attempts: int | None = None
    """How many attempts the job has in total, 1 to 1000. Default: `max_retry_attempts`."""
    backoff: Backoff | None = None
    """`exponential`, `fixed` or `list`. Default: `list` with `delays_ms`, else `retry_backoff`."""
    base_ms: int | None = None
    """The delay after the first failure, in milliseconds: 0 to 7 days. Default:
    `retry_backoff_base_ms`."""
    max_ms: int | None = None
    """The longest delay of an exponential backoff, in milliseconds: 0 to 7 days. Default:
    `retry_backoff_max_ms`, or `base_ms` if that is more."""
    delays_ms: Sequence[int] | None = None
    """The delays of the backoff `list`, in milliseconds: 1 to 100 of 0 to 7 days. The last one
    repeats. Default: `retry_delays_ms`."""
    jitter: float | None = None
    """The share of each delay that is random, 0 to 1. Default: `retry_jitter`."""

    def __post_init__(self) -> None:
        """Check every field that is given."""
        if self.max_attempts is not None:
            _check_integer("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)
        if self.base_ms is not None:
            _check_integer("base_ms", self.base_ms, 0, MAX_BACKOFF_MS)
        if self.max_ms is not None:
            _check_integer("max_ms", self.max_ms, self.base_ms or 0, MAX_BACKOFF_MS)
        if self.jitter is not None:
            _check_jitter(self.jitter)
        if self.backoff is not None:
            _check_backoff(self.backoff)
        if self.delays_ms is not None:
            object.__setattr__(self, "delays_ms", _checked_delays(self.delays_ms))
            if self.backoff not in (None, "list"):
                raise InvalidSettingError(
                    f"delays_ms is for the backoff 'list', got backoff={quoted(self.backoff)}"
                )


def policy_from_header(value: object) -> RetryPolicy:
    """Return the policy in a message's header `meshhook-retry`.

    Raises:
        InvalidSettingError: if it is none.
    """
    names = [field.name for field in fields(RetryPolicy)]
    if not isinstance(value, dict):
        raise InvalidSettingError(f"a retry policy is an object, got {quoted(value)}")
    for name in value:
        if name not in names:
            raise InvalidSettingError(
                f"unknown field {quoted(name)} in a retry policy; it has: {', '.join(names)}"
            )
    found: dict[str, Any] = {
        name: [_whole(each) for each in given] if isinstance(given, list) else _whole(given)
        for name, given in value.items()
    }
    return RetryPolicy(**found)


def header_of_policy(policy: RetryPolicy) -> dict[str, Any]:
    """Return the fields of a policy that are given, as a message's header has them."""
    given = {field.name: getattr(policy, field.name) for field in fields(policy)}
    found = {name: value for name, value in given.items() if value is not None}
    if policy.delays_ms is not None:
        found["delays_ms"] = list(policy.delays_ms)
    return found


def with_policy(strategy: RetryStrategy, policy: RetryPolicy) -> RetryStrategy:
    """Return a queue's strategy with a job's own policy in its place where that says so."""
    base_ms = strategy.base_delay_ms if policy.base_ms is None else policy.base_ms
    max_ms = strategy.max_delay_ms if policy.max_ms is None else policy.max_ms
    if policy.max_ms is not None and policy.base_ms is None:
        base_ms = min(base_ms, max_ms)
    delays_ms = strategy.delays_ms if policy.delays_ms is None else tuple(policy.delays_ms)
    backoff = policy.backoff or ("list" if policy.delays_ms is not None else strategy.backoff)
    if backoff == "list" and not delays_ms:
        # The job asks for a list that the queue does not have, or has no more.
        backoff = strategy.backoff
    return RetryStrategy(
        base_delay_ms=base_ms,
        max_delay_ms=max(base_ms, max_ms),
        max_attempts=policy.max_attempts or strategy.max_attempts,
        jitter=strategy.jitter if policy.jitter is None else policy.jitter,
        random_fraction=strategy.random_fraction,
        backoff=backoff,
        delays_ms=delays_ms,
    )


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt, as the function sees it that decides when a job is retried."""

    attempt: int
    """Which attempt failed, from 1."""
    max_attempts: int
    """How many attempts the job has in total. The function is not asked after the last one."""
    error: BaseException
    """What the handler raised."""
    queue: str
    """The queue of the job."""
    msg_id: int
    """The id of its message."""
    run_id: str | None
    """The run that it belongs to, if any."""
    workflow_id: str | None
    """The workflow that the run belongs to, if any."""
    project_id: str | None
    """The project that the workflow belongs to, if any."""
    enqueued_at: datetime
    """When the job was enqueued, by the database's clock."""


RetryFunction: TypeAlias = "Callable[[FailedAttempt], float | timedelta | None]"
"""Decides when a job is retried after a failed attempt: after a delay in seconds or as a timedelta,
0 to 7 days, or never, as None says: the job then becomes a dead letter."""


def chosen_delay_seconds(chosen: object) -> float | None:
    """Return the delay that a `RetryFunction` returned, in seconds; None means no retry.

    Raises:
        InvalidSettingError: if it is no delay of 0 to 7 days.
    """
    if chosen is None:
        return None
    seconds = chosen.total_seconds() if isinstance(chosen, timedelta) else chosen
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds * 1_000 <= MAX_BACKOFF_MS:  # type: ignore[operator]
        raise InvalidSettingError(
            "a retry function returns seconds or a timedelta of 0 to 7 days, or None for a dead "
            f"letter, got {quoted(chosen)}"
        )
    return float(seconds)  # type: ignore[arg-type]


def _whole(value: Any) -> Any:
    """Return a whole number as such that JSON has as 60000.0: PostgreSQL writes numerics so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_jitter(jitter: object) -> None:
    is_number = isinstance(jitter, int | float) and not isinstance(jitter, bool)
    if not is_number or not 0 <= jitter <= 1:  # type: ignore[operator]
        raise InvalidSettingError(f"jitter is a number from 0 to 1, got {quoted(jitter)}")


def _check_backoff(backoff: object) -> None:
    if not isinstance(backoff, str) or backoff not in BACKOFFS:
        raise InvalidSettingError(f"backoff is one of {', '.join(BACKOFFS)}, got {quoted(backoff)}")


def _checked_delays(delays_ms: object) -> tuple[int, ...]:
    if not isinstance(delays_ms, list | tuple) or not 1 <= len(delays_ms) <= MAX_DELAYS:
        raise InvalidSettingError(
            f"delays_ms is a list of 1 to {MAX_DELAYS} whole numbers, got {quoted(delays_ms)}"
        )
    for delay_ms in delays_ms:
        _check_integer("delays_ms", delay_ms, 0, MAX_BACKOFF_MS)
    return tuple(delays_ms)


def _checked_attempt(attempt: int) -> int:
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
        message = f"attempt is a whole number from 1, got {quoted(attempt)}"
        raise InvalidSettingError(message)
    return attempt


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"{name} is a whole number from {low} to {high}, got {quoted(value)}"
        raise InvalidSettingError(message)
