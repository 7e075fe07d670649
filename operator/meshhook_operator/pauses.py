"""Pauses that double: how long something that keeps failing is left alone. Pure."""

from __future__ import annotations

SPREAD = 0.25
"""The share of a pause that may be left out by chance, so that hundreds that failed together are
not tried again together."""
_MOST_DOUBLINGS = 64
"""By then every pause is the longest one; far more would exceed what a float can hold."""


def doubled_seconds(
    doublings: int, *, first_seconds: float, longest_seconds: float, spread: float = 0.0
) -> float:
    """Return how long to wait, in seconds.

    This is min(longest, first * 2 ** doublings) * (1 - 0.25 * spread). It is at most
    `longest_seconds`, and at least three quarters of the shorter one of the two.

    Args:
        doublings: how often the first pause is doubled. Below 0 counts as 0.
        first_seconds: the pause that is not doubled, above 0.
        longest_seconds: the limit of what it doubles to, above 0.
        spread: chance, 0 to 1: how much of the last quarter of the pause is left out. Default 0:
            nothing.
    """
    factor = 2.0 ** min(max(0, doublings), _MOST_DOUBLINGS)
    return min(longest_seconds, first_seconds * factor) * (1.0 - SPREAD * spread)
