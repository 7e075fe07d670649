"""Percentiles of the last seconds, in bounded memory and to three significant figures."""

from __future__ import annotations

import math
from collections import Counter, deque

# Neighbouring buckets differ by 0.1%, which is finer than three figures.
_GROWTH = math.log(1.001)
_LEAST_MS = 0.001


class Latencies:
    """A histogram a second, for as many seconds as the window has."""

    def __init__(self, window_seconds: int) -> None:
        """Take the length of the window."""
        self._window_seconds = window_seconds
        self._seconds: deque[tuple[int, Counter[int]]] = deque()

    def add(self, milliseconds: float, now: float) -> None:
        """Count one latency at a moment, in seconds of any steady clock."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, Counter()))
            self._forget(now)
        self._seconds[-1][1][_bucket(milliseconds)] += 1

    def percentiles(self, shares: tuple[float, ...], now: float) -> list[float]:
        """Return the latencies, in ms, that these shares of the window do not exceed; or zeros."""
        self._forget(now)
        merged: Counter[int] = Counter()
        for _, counts in self._seconds:
            merged.update(counts)
        total = merged.total()
        ordered = sorted(merged.items())
        return [_at(ordered, share * total) for share in shares]

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - self._window_seconds:
            self._seconds.popleft()


def _bucket(milliseconds: float) -> int:
    return round(math.log(max(milliseconds, _LEAST_MS)) / _GROWTH)


def _at(ordered: list[tuple[int, int]], rank: float) -> float:
    seen = 0
    for bucket, count in ordered:
        seen += count
        if seen >= rank:
            return float(f"{math.exp(bucket * _GROWTH):.3g}")
    return 0.0
