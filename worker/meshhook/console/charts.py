"""The throughput of the last hour, as the points of an SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTES = 60
WIDTH = 600
HEIGHT = 120


@dataclass(frozen=True, slots=True)
class MinuteCount:
    """The attempts of a queue that ended in one minute."""

    minutes_ago: int
    retried: int
    dead_lettered: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a bar, in the units of the SVG."""

    kind: str
    """`ok`, `retry` or `dead`."""
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a chart shows."""

    minutes: tuple[MinuteCount, ...]
    is_reading: bool
    """Whether the older minutes are still to be read, so that they may lack attempts."""
    covered_seconds: float
    """How far back all attempts are counted; less than an hour while they are still read."""

    @property
    def total(self) -> int:
        """All attempts that were counted."""
        return sum(each.attempts for each in self.minutes)

    @property
    def failed(self) -> int:
        """How many of them failed for good."""
        return sum(each.dead_lettered for each in self.minutes)

    @property
    def retried(self) -> int:
        """How many of them are tried again."""
        return sum(each.retried for each in self.minutes)

    @property
    def most(self) -> int:
        """The most attempts of a minute."""
        return max((each.attempts for each in self.minutes), default=0)

    @property
    def per_second(self) -> float | None:
        """The attempts a second, of the minutes that are known; None if none is."""
        if self.covered_seconds <= 0:
            return None
        known = sum(
            each.attempts for each in self.minutes if each.minutes_ago * 60 <= self.covered_seconds
        )
        return known / max(self.covered_seconds, 1.0)


def bars(minutes: Sequence[MinuteCount]) -> list[Bar]:
    """Return the bars of a chart, the oldest minute on the left, failures on top."""
    most = max((each.attempts for each in minutes), default=0)
    result: list[Bar] = []
    slot = WIDTH / MINUTES
    for each in minutes:
        x = (MINUTES - 1 - each.minutes_ago) * slot + slot * 0.12
        other = each.attempts - each.retried - each.dead_lettered
        y = float(HEIGHT)
        for kind, count in (("ok", other), ("retry", each.retried), ("dead", each.dead_lettered)):
            if count <= 0:
                continue
            # What failed is seen, however few.
            height = max(count / most * (HEIGHT - 4), 1.5)
            y = max(y - height, 0.0)
            result.append(
                Bar(kind, round(x, 2), round(y, 2), round(slot * 0.76, 2), round(height, 2))
            )
    return result
