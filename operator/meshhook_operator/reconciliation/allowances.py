"""Allowances: how often something may be done, so that what flickers floods nothing."""

from __future__ import annotations


class Allowance:
    """A budget: a number at once, and one more with each period that passes."""

    def __init__(self, most: int, period_seconds: float) -> None:
        """Take how many there are at once, and how many seconds one more takes."""
        self._most = most
        self._period_seconds = period_seconds
        self._left = float(most)
        self._taken_at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one from the budget, and return whether there was one."""
        passed = max(0.0, now - self._taken_at)
        self._taken_at = now
        self._left = min(self._most, self._left + passed / self._period_seconds)
        if self._left < 1:
            return False
        self._left -= 1
        return True
