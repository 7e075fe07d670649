"""Outcomes: what a handler may return or raise."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import Cancel, DeadLetter, Done, RetryAfter, Snooze
from meshhook.delays import MAX_DELAY_SECONDS, delay_in_seconds
from meshhook.errors import InvalidSettingError
from meshhook.outcomes import (
    FINAL_OUTCOMES,
    AttemptOutcome,
    Outcome,
)


@given(st.floats(0, MAX_DELAY_SECONDS))
def test_a_delay_is_seconds_or_a_timedelta(seconds: float) -> None:
    """Both forms give the same seconds."""
    assert delay_in_seconds(seconds) == seconds
    delta = timedelta(seconds=seconds)
    assert delay_in_seconds(delta) == delta.total_seconds()


@pytest.mark.parametrize(
    "delay",
    [
        -1,
        -0.001,
        timedelta(microseconds=-1),
        timedelta(days=367),
        math.nan,
        math.inf,
        -math.inf,
        10**30,
        True,
        None,
        "5",
        Decimal(5),
    ],
)
@pytest.mark.parametrize("outcome", [RetryAfter, Snooze])
def test_a_delay_out_of_range_is_refused(outcome: Callable[[Any], Outcome], delay: Any) -> None:
    """The error has the value received, when the outcome is made and not later."""
    with pytest.raises(InvalidSettingError, match="a delay is"):
        outcome(delay)


def test_whole_numbers_are_seconds() -> None:
    """A delay always becomes a float."""
    assert isinstance(delay_in_seconds(5), float)
    assert delay_in_seconds(timedelta(days=366)) == MAX_DELAY_SECONDS


@pytest.mark.parametrize(
    "outcome",
    [Done(), RetryAfter(1, "later"), Snooze(1), DeadLetter("broken"), Cancel("unwanted")],
    ids=lambda outcome: type(outcome).__name__,
)
def test_an_outcome_can_be_raised_as_well_as_returned(outcome: Outcome) -> None:
    """Each is an exception, and none of them is caught as an error of the library."""
    with pytest.raises(Outcome) as caught:
        raise outcome
    assert caught.value is outcome


def test_reasons_and_types_are_kept() -> None:
    """What a handler says is what the history gets."""
    retry = RetryAfter(2.5, "busy", error_type="TooManyRequests")
    assert (retry.delay_seconds, retry.message, retry.error_type) == (
        2.5,
        "busy",
        "TooManyRequests",
    )
    letter = DeadLetter("gone", error_type="HTTP410")
    assert (letter.message, letter.error_type, str(letter)) == ("gone", "HTTP410", "gone")
    assert (Snooze(1, "night").message, Cancel("unwanted").message) == ("night", "unwanted")


def test_defaults_have_an_error_type() -> None:
    """Outcomes that fail an attempt can be grouped without more ado."""
    assert RetryAfter(1).error_type == "RetryAfter"
    assert DeadLetter("x").error_type == "DeadLetter"


def test_final_outcomes_end_a_job() -> None:
    """A retry, a snooze and a lost lease are followed by another attempt."""
    assert set(AttemptOutcome) - FINAL_OUTCOMES == {"retried", "snoozed", "lost", "replayed"}


async def test_the_history_takes_every_outcome_and_no_other(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    """The check in the database has the values of AttemptOutcome."""
    insert = (
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "values ('jobs', 1, 1, $1, now())"
    )
    await connection.executemany(insert, [(outcome,) for outcome in AttemptOutcome])
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(insert, "finished")


@pytest.mark.parametrize(
    "outcome", [Done(), RetryAfter(2), Snooze(1), DeadLetter("broken"), Cancel()]
)
def test_an_outcome_survives_pickling(outcome: Outcome) -> None:
    """A handler may run in another process and hand its outcome back."""
    copy = pickle.loads(pickle.dumps(outcome))  # noqa: S301 - our own bytes
    assert (type(copy), copy.args, vars(copy)) == (type(outcome), outcome.args, vars(outcome))
