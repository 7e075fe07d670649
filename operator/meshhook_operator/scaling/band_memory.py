"""What the scaler remembers of the bands of a queue with priorities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from meshhook_operator.scaling.band_demand import BandDemand
from meshhook_operator.scaling.rates import ARRIVAL_HALF_LIFE_SECONDS, ArrivalRate, Sent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshhook_operator.scaling.observations import Band, Sample

_SHORTEST_STAY_SECONDS = 1.0
"""A job is at least so long in the queue, for the estimate of the shares."""


@dataclass(frozen=True, slots=True)
class BandMemory:
    """Of one band: all arrivals of the queue, over the time that its target asks for."""

    arrivals: ArrivalRate = field(default_factory=ArrivalRate)
    sent: Sent = field(default_factory=Sent)
    share: float | None = None
    """The part of the arrivals that are of this band; None until that is known."""


def remember_sent(
    bands: tuple[BandMemory, ...], sample: Sample, *, arrivals: ArrivalRate, sent: Sent
) -> tuple[BandMemory, ...]:
    """Take what was sent until now.

    Args:
        bands: what is remembered of them.
        sample: with the bands of the queue.
        arrivals: of the queue, where nothing is remembered of its bands.
        sent: the same.
    """
    if len(bands) != len(sample.bands):
        bands = (BandMemory(arrivals, sent),) * len(sample.bands)
    return tuple(
        replace(memory, sent=memory.sent.observe(sample, band.target_seconds))
        for memory, band in zip(bands, sample.bands, strict=True)
    )


def remember_arrivals(
    bands: tuple[BandMemory, ...],
    before: Sample,
    after: Sample,
    *,
    arrived: int,
    run_seconds: float,
    half_life_seconds: Callable[[float], float],
) -> tuple[BandMemory, ...]:
    """Take what arrived between two samples.

    The shares are those of the earlier sample, as far as it says something: then more messages in
    one band never lower what another one asks for.

    Args:
        bands: what is remembered of them.
        before: the earlier sample.
        after: the later one.
        arrived: how many messages arrived in between.
        run_seconds: how long a job runs.
        half_life_seconds: how long to average arrivals over, for a target in seconds.
    """
    elapsed_seconds = after.sampled_at - before.sampled_at
    is_known = bool(bands) and bands[0].share is not None
    seen = shares(before.bands, run_seconds)
    if seen is None and not is_known:
        seen = shares(after.bands, run_seconds)
    weight = 1.0 - 0.5 ** (elapsed_seconds / ARRIVAL_HALF_LIFE_SECONDS) if is_known else 1.0
    found = []
    for number, (memory, band) in enumerate(zip(bands, after.bands, strict=True)):
        share = memory.share
        if seen is not None:
            share = (1.0 - weight) * (share or 0.0) + weight * seen[number]
        half_life = half_life_seconds(band.target_seconds)
        arrivals = memory.arrivals.observe(arrived, elapsed_seconds, half_life)
        found.append(replace(memory, arrivals=arrivals, share=share))
    return tuple(found)


def shares(bands: Sequence[Band], run_seconds: float) -> list[float] | None:
    """Return which part of the arrivals is of each band; None if none has any message.

    By Little's law a band has as many messages in the queue as arrive while one of them waits and
    runs.
    """
    rates = [
        (band.ready + band.running)
        / (band.oldest_ready_seconds + max(run_seconds, _SHORTEST_STAY_SECONDS))
        for band in bands
    ]
    total = sum(rates)
    return [rate / total for rate in rates] if total else None


def band_demands(
    bands: tuple[BandMemory, ...], sample: Sample, backlog: float
) -> tuple[BandDemand, ...]:
    """Return the demand of each band.

    Args:
        bands: what is remembered of them, with the sample.
        sample: the queue, read just now.
        backlog: its ready messages, an estimate where they were not counted to the end.
    """
    ready = [float(band.ready) for band in sample.bands]
    capped = [number for number, band in enumerate(sample.bands) if band.is_capped]
    if capped:
        ready[capped[-1]] += max(0.0, backlog - sum(ready))
    return tuple(
        BandDemand(
            target_seconds=band.target_seconds,
            ready=ready[number],
            aged=ready[number] if band.is_capped and band.aged >= band.ready else band.aged,
            due_soon=band.due_soon,
            waiting=_waiting(memory, number, sample.bands, ready),
            arrivals_per_second=memory.arrivals.per_second,
            expected_per_second=memory.sent.expected_per_second(memory.arrivals.per_second),
            share=memory.share or 0.0,
        )
        for number, (memory, band) in enumerate(zip(bands, sample.bands, strict=True))
    )


def _waiting(
    memory: BandMemory, number: int, bands: Sequence[Band], ready: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """Return ages, and how many of the ready messages of a band are at least that old.

    Of what was sent since, no more can be of this band than its share, nor than what the others
    that wait leave of it.
    """
    now, total = memory.sent.moments[-1]
    share = 1.0 if memory.share is None else memory.share
    found = []
    for at, sent in memory.sent.moments:
        age, since = now - at, total - sent
        others = sum(
            ready[other] * min(1.0, age / band.oldest_ready_seconds if age else 0.0)
            for other, band in enumerate(bands)
            if other != number and band.oldest_ready_seconds
        )
        still = ready[number] - max(0.0, min(since * share, since - others))
        if age <= bands[number].oldest_ready_seconds and still > 0:
            found.append((age, still))
    return tuple(found)
