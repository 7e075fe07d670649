"""How an attempt can end. A handler returns or raises one of these; no outcome means done.

An exception that is not an outcome is a failure: the job is retried with backoff, and becomes a
dead letter after its last attempt.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from meshhook.arguments import checked_flag
from meshhook.delays import delay_in_seconds
from meshhook.follow_ups import FollowUp, checked_follow_ups

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


class AttemptOutcome(StrEnum):
    """The outcome of an attempt as the history records it, in `job_attempts.outcome`."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    SNOOZED = "snoozed"
    DEAD_LETTERED = "dead_lettered"
    CANCELLED = "cancelled"
    ARCHIVED = "archived"
    EXPIRED = "expired"
    LOST = "lost"
    REPLAYED = "replayed"


FINAL_OUTCOMES = frozenset(
    {
        AttemptOutcome.SUCCEEDED,
        AttemptOutcome.DEAD_LETTERED,
        AttemptOutcome.CANCELLED,
        AttemptOutcome.ARCHIVED,
        AttemptOutcome.EXPIRED,
    }
)
"""The outcomes that end a job's life in its queue."""


JOB_EXPIRED = "JobExpired"
"""The error type of a job that was not started before its deadline."""
LEASE_LOST = "LeaseLost"
"""The error type of a job whose last attempts ended without an outcome."""


def lease_lost_message(lost_attempts: int) -> str:
    """Return the error message of a job whose last attempts ended without an outcome."""
    return (
        f"the lease ran out with no outcome, {lost_attempts} times: "
        "the job may kill the process that runs it, or block it for good"
    )


class Outcome(Exception):  # noqa: N818 - these are verdicts, returned as often as raised
    """The end of an attempt, decided by the handler."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as it is, whatever the constructor takes."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class Done(Outcome):
    """The job is done: the same as returning nothing, with jobs that follow it if there are any."""

    then: tuple[FollowUp, ...] = ()
    """The jobs to enqueue in the statement that records the outcome."""

    result: Any = None
    """What is kept as the result of the job, if its queue keeps results."""

    def __init__(
        self,
        *reasons: object,
        then: FollowUp | Sequence[FollowUp] = (),
        result: Any = None,
    ) -> None:
        """Take the jobs that follow: all of them are enqueued, or the job has not succeeded.

        They are not enqueued if the job's lease was lost. If one is refused, such as for a queue
        that does not exist, the attempt has failed. Default: none.

        `result` is what a handler without jobs that follow would return. Default: nothing.

        Raises:
            InvalidJobError: if `then` is anything but follow-ups, or more than 1,000.
        """
        super().__init__(*reasons)
        self.then = checked_follow_ups("then", then)
        self.result = result


class RetryAfter(Outcome):
    """The attempt failed; try again after a delay instead of the queue's backoff.

    It spends an attempt: after the last one the job becomes a dead letter.
    """

    hold_key = False
    """Whether the other jobs of the same key wait as long."""

    def __init__(
        self,
        delay: float | timedelta,
        message: str = "the handler asked for a retry",
        *,
        error_type: str = "RetryAfter",
        hold_key: bool = False,
    ) -> None:
        """Take a delay (seconds or a timedelta, 0 to 366 days) and the reason for the history.

        With `hold_key`, the other jobs of the same key wait as long, in a keyed queue: none is
        claimed, and none spends an attempt. Those that run finish.
        """
        super().__init__(message)
        self.delay_seconds = delay_in_seconds(delay)
        self.message = message
        self.error_type = error_type
        self.hold_key = checked_flag("hold_key", hold_key)


class Snooze(Outcome):
    """Put the job off: run it again after a delay. No attempt is spent, and nothing has failed."""

    hold_key = False
    """Whether the other jobs of the same key wait as long."""

    def __init__(
        self, delay: float | timedelta, message: str = "", *, hold_key: bool = False
    ) -> None:
        """Take a delay (seconds or a timedelta, 0 to 366 days) and a reason for the history.

        With `hold_key`, the other jobs of the same key wait as long, as with `RetryAfter`.
        """
        super().__init__(message)
        self.delay_seconds = delay_in_seconds(delay)
        self.message = message
        self.hold_key = checked_flag("hold_key", hold_key)


class DeadLetter(Outcome):
    """Retrying cannot help: move the job to the dead letters now."""

    hold_key = False
    """Whether the key is held from now on, until somebody resumes it."""

    def __init__(
        self, message: str, *, error_type: str = "DeadLetter", hold_key: bool = False
    ) -> None:
        """Take what went wrong, and the error type to group it by.

        With `hold_key`, the other jobs of the same key wait until somebody resumes it, in a keyed
        queue: the destination is gone, or refuses all. A message without a key holds none.
        """
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.hold_key = checked_flag("hold_key", hold_key)


class Cancel(Outcome):
    """The job is no longer wanted: remove it, and keep no dead letter."""

    def __init__(self, message: str = "") -> None:
        """Take the reason for the history."""
        super().__init__(message)
        self.message = message
