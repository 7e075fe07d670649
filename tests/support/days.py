"""Days of UTC, by which the history is divided: a test must not begin on one and end on another."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

NEAR_SECONDS = 15
"""What a test that counts days may take, on a machine that does much else."""


def seconds_until_a_day_has_begun(now: datetime) -> float:
    """Return how long the day of UTC still lasts if midnight is near, else 0."""
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    rest_seconds = (midnight - now).total_seconds()
    return rest_seconds if rest_seconds <= NEAR_SECONDS else 0.0
