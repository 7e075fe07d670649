"""What becomes of a job when an attempt ends: the pure decision."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import Cancel, DeadLetter, Done, InvalidPayloadError, RetryAfter, Snooze
from meshhook.outcomes import AttemptOutcome
from meshhook.queue_config import QueueSettings
from meshhook.worker.verdicts import (
    JobTimeoutError,
    invalid_payload,
    lease_lost,
    meaning_of,
    verdict,
)

SETTINGS = QueueSettings(max_retry_attempts=3, retry_jitter=0)


@given(
    attempt=st.integers(1, 2000),
    limit=st.integers(1, 1000),
    jitter=st.floats(0, 1),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_a_failure_is_retried_until_the_last_attempt(
    attempt: int, limit: int, jitter: float, fraction: float
) -> None:
    """Below the limit a failure is retried within the backoff's bounds; from it on it is final."""
    settings = QueueSettings(max_retry_attempts=limit, retry_jitter=jitter)
    end = verdict(ValueError("x"), attempt=attempt, settings=settings, jitter_fraction=fraction)
    if attempt >= limit:
        assert end.outcome is AttemptOutcome.DEAD_LETTERED
        assert end.delay_seconds == 0
    else:
        assert end.outcome is AttemptOutcome.RETRIED
        ceiling = min(2 ** min(attempt - 1, 60), 300)
        assert ceiling * (1 - jitter) - 0.001 <= end.delay_seconds <= ceiling
    assert end.error_type == "ValueError"


@pytest.mark.parametrize(
    ("ended", "attempt", "outcome", "delay_seconds"),
    [
        (None, 1, AttemptOutcome.SUCCEEDED, 0),
        (Done(), 1, AttemptOutcome.SUCCEEDED, 0),
        (42, 1, AttemptOutcome.SUCCEEDED, 0),
        (RetryAfter(7), 1, AttemptOutcome.RETRIED, 7),
        (RetryAfter(7), 3, AttemptOutcome.DEAD_LETTERED, 0),
        (Snooze(7), 1, AttemptOutcome.SNOOZED, 7),
        (Snooze(7), 3, AttemptOutcome.SNOOZED, 7),
        (DeadLetter("no"), 1, AttemptOutcome.DEAD_LETTERED, 0),
        (Cancel("no"), 1, AttemptOutcome.CANCELLED, 0),
        (KeyError("k"), 3, AttemptOutcome.DEAD_LETTERED, 0),
    ],
)
def test_each_ending(
    ended: object, attempt: int, outcome: AttemptOutcome, delay_seconds: float
) -> None:
    """Each thing that a handler may return or raise has its outcome and delay."""
    end = verdict(ended, attempt=attempt, settings=SETTINGS, jitter_fraction=0.5)
    assert (end.outcome, end.delay_seconds) == (outcome, delay_seconds)


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize(
    ("ended", "is_failure"),
    [
        (ValueError("x"), True),
        (JobTimeoutError("too long"), True),
        (ExceptionGroup("some", [ValueError("x")]), True),
        (RetryAfter(7), True),
        (RetryAfter(7, hold_key=True), False),
        (Snooze(7), False),
        (DeadLetter("no"), False),
        (DeadLetter("no", hold_key=True), False),
        (Cancel("no"), False),
        (InvalidPayloadError("no"), False),
        (None, False),
    ],
)
def test_what_counts_as_a_failure_of_the_key(
    ended: object, attempt: int, *, is_failure: bool
) -> None:
    """Errors and time-outs count, on the last attempt too; what a handler decides does not."""
    end = verdict(ended, attempt=attempt, settings=SETTINGS, jitter_fraction=0.5)
    assert end.is_failure is is_failure


def test_a_dead_letter_may_hold_its_key() -> None:
    """Until somebody resumes it."""
    ended = DeadLetter("gone", hold_key=True)
    end = verdict(ended, attempt=1, settings=SETTINGS, jitter_fraction=0.5)
    assert (end.outcome, end.hold_seconds) == (AttemptOutcome.DEAD_LETTERED, inf)


def test_without_dead_letters_what_is_final_is_archived() -> None:
    """With dlq_enabled false every final failure goes to the archive."""
    settings = QueueSettings(dlq_enabled=False, max_retry_attempts=1)
    ends = [
        verdict(ValueError(), attempt=1, settings=settings, jitter_fraction=0),
        verdict(DeadLetter("no"), attempt=1, settings=settings, jitter_fraction=0),
        invalid_payload("no", settings),
        lease_lost(5, settings),
    ]
    assert {end.outcome for end in ends} == {AttemptOutcome.ARCHIVED}


def test_a_group_of_outcomes_of_one_kind_is_taken_for_one() -> None:
    """It means the one with the longest delay, however deep; any other group is a failure."""
    longest, cancelled = Snooze(9), Cancel("no")
    assert meaning_of(ExceptionGroup("tasks", [Snooze(1), longest])) is longest
    assert meaning_of(ExceptionGroup("outer", [ExceptionGroup("inner", [cancelled])])) is cancelled
    for ended in (ExceptionGroup("tasks", [Snooze(1), ValueError("x")]), ValueError("x"), 42, None):
        assert meaning_of(ended) is ended
