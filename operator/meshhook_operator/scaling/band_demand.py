"""The demand of a queue with priorities, band by band: what is served before the jobs of each.

Workers serve the most urgent band first, and within a band the oldest. Aged jobs of lower bands get
up to a quarter of the claims all the same. docs/scaling.md explains the terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshhook.priorities import AGED_SHARE, Priority
from meshhook.queue_config import AGED_PART

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook_operator.scaling.targets import Demand


@dataclass(frozen=True, slots=True, kw_only=True)
class BandDemand:
    """The work of one band alone."""

    target_seconds: float
    ready: float
    aged: float
    """Those of the ready messages that get a part of the claims."""
    due_soon: int
    waiting: tuple[tuple[float, float], ...]
    """Ages in seconds, and how many of the ready messages are at least that old."""
    arrivals_per_second: float
    """Of all bands together, averaged as its target asks for."""
    expected_per_second: float
    """The same of what is expected to arrive next."""
    share: float
    """The part of the arrivals that are of this band, 0 to 1."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no work now, and none is expected."""
        return not (self.ready or self.due_soon or self.share)


def demand_by_band(demand: Demand) -> Iterator[tuple[int, float, Demand]]:
    """Yield each band that has work: its number, its target in seconds, and what it waits for.

    That is what is more urgent, itself, and the aged jobs that are served meanwhile. A queue
    without any work is that of normal jobs.
    """
    bands = demand.bands
    numbers = [each for each, band in enumerate(bands) if not band.is_empty]
    for number in numbers or [Priority.NORMAL]:
        band, more_urgent, lower = bands[number], bands[:number], bands[number + 1 :]
        before = sum(each.ready for each in more_urgent)
        aged = sum(each.aged for each in lower)
        share_before = sum(each.share for each in more_urgent)
        is_last = all(each.is_empty for each in lower)
        share = 1.0 if is_last else min(1.0, share_before + band.share)
        yield (
            number,
            band.target_seconds,
            replace(
                demand,
                bands=(),
                ready=_with_aged(before + band.ready, aged),
                due_soon=(
                    demand.due_soon
                    if is_last
                    else sum(each.due_soon for each in (*more_urgent, band))
                ),
                waiting=tuple(
                    (old, _with_aged(_ahead_of(still, old, before, band), aged))
                    for old, still in band.waiting
                ),
                arrivals_per_second=band.arrivals_per_second * share,
                expected_per_second=band.expected_per_second * share,
                ahead_per_second=band.expected_per_second * min(1.0, share_before),
            ),
        )


def _ahead_of(still: float, old: float, before: float, band: BandDemand) -> float:
    """Return how many start until those of a band that are that old have, these among them."""
    if old < AGED_PART * band.target_seconds:
        return before + still
    return min(before + still, still / AGED_SHARE)


def _with_aged(jobs: float, aged: float) -> float:
    """Return how many start until those jobs have, with the aged ones of lower bands."""
    return jobs + min(aged, jobs * AGED_SHARE / (1.0 - AGED_SHARE))
