"""When a failed job is tried again: exponential backoff with jitter, as a pure function."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """Exponential backoff with a ceiling and jitter.

    After failed attempt n the ceiling is `base_delay_ms * 2**(n - 1)`, at most `max_delay_ms`;
    the delay is drawn evenly from the top `jitter` share of it. A jitter of 1 is the "full
    jitter" and 0.5 the "equal jitter" of the AWS Architecture Blog, "Exponential Backoff And
    Jitter"; 0 makes the delays exact.

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

    def __post_init__(self) -> None:
        """Check every field."""
        _check_integer("base_delay_ms", self.base_delay_ms, 0, MAX_BACKOFF_MS)
        _check_integer("max_delay_ms", self.max_delay_ms, self.base_delay_ms, MAX_BACKOFF_MS)
        _check_integer("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)
        is_number = isinstance(self.jitter, int | float) and not isinstance(self.jitter, bool)
        if not is_number or not 0 <= self.jitter <= 1:
            message = f"jitter is a number from 0 to 1, got {quoted(self.jitter)}"
            raise InvalidSettingError(message)

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
        }

    def _ceiling_ms(self, attempt: int) -> int:
        exponent = _checked_attempt(attempt) - 1
        if self.base_delay_ms == 0 or exponent >= self.max_delay_ms.bit_length():
            return self.max_delay_ms if self.base_delay_ms else 0
        return min(self.base_delay_ms << exponent, self.max_delay_ms)


def _checked_attempt(attempt: int) -> int:
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
        message = f"attempt is a whole number from 1, got {quoted(attempt)}"
        raise InvalidSettingError(message)
    return attempt


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"{name} is a whole number from {low} to {high}, got {quoted(value)}"
        raise InvalidSettingError(message)
