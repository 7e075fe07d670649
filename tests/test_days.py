"""Tests of the history do not begin just before midnight."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from support.days import NEAR_SECONDS, seconds_until_a_day_has_begun


@pytest.mark.parametrize(
    ("before_midnight", "expected"),
    [
        (timedelta(hours=24), 0.0),
        (timedelta(hours=5), 0.0),
        (timedelta(seconds=NEAR_SECONDS, microseconds=1), 0.0),
        (timedelta(seconds=NEAR_SECONDS), NEAR_SECONDS),
        (timedelta(seconds=2.5), 2.5),
        (timedelta(microseconds=1), 1e-6),
    ],
)
def test_the_end_of_a_day_is_waited_for(before_midnight: timedelta, expected: float) -> None:
    """Only if it is near: at midnight itself a day has just begun."""
    now = datetime(2027, 1, 1, tzinfo=UTC) - before_midnight
    assert seconds_until_a_day_has_begun(now) == expected
