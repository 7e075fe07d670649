"""What arrives, second by second, and what goes wrong meanwhile. A trace and a seed give the same
numbers always.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

SECONDS = 7_200


@dataclass(frozen=True, slots=True)
class Window:
    """From the first second to before the last."""

    start: int
    end: int

    def __contains__(self, second: int) -> bool:
        return self.start <= second < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The load of one run."""

    name: str
    arrivals: tuple[int, ...]
    """Jobs that arrive in each second."""
    is_steady: bool
    """Its load changes slowly, or rarely: here the cost of a scaler is compared."""
    min_replicas: int = 1
    failing: Window | None = None
    """Every tenth job that arrives then fails all its attempts."""
    poison: tuple[int, ...] = ()
    """Seconds in which a job arrives that kills the process that runs it."""
    unreadable: Window | None = None
    """Every other read of the queue fails then, and for the first half all do."""
    shared_limit: tuple[Window, float] | None = None
    """All replicas together finish no more than so many times the mean arrivals."""


def traces(seed: int) -> tuple[Trace, ...]:
    """Return every trace."""
    return (
        _trace("step", seed, lambda t: 80 if 1_800 <= t < 5_400 else 5, is_steady=True),
        _trace("diurnal", seed, lambda t: 1 + 30 * (1 + math.sin(t / 573 - 1.5)), is_steady=True),
        _trace("sawtooth", seed, lambda t: 100 * (t % 900) / 900, is_steady=True),
        _trace("bursty", seed, _bursty(seed), is_steady=True),
        _trace("spike", seed, lambda _t: 4, spikes=600),
        _sparse(seed),
        _trace(
            "poison",
            seed,
            lambda _t: 30,
            is_steady=True,
            failing=Window(1_800, 3_600),
            poison=tuple(range(1_950, 5_400, 211)),
        ),
        _trace(
            "slow database",
            seed,
            lambda t: 40 if 1_000 <= t < 6_000 else 20,
            is_steady=True,
            unreadable=Window(2_400, 3_000),
            shared_limit=(Window(3_600, 4_800), 48.0),
        ),
    )


def _trace(name, seed, rate, *, spikes: int = 0, is_steady: bool = False, **more) -> Trace:
    random_ = random.Random(f"{name} {seed}")
    counts = [_poisson(random_, rate(t)) for t in range(SECONDS)]
    if spikes:
        for start in range(0, SECONDS, 1_200):
            counts[start + 300 + random_.randrange(60)] += spikes
    return Trace(name=name, arrivals=tuple(counts), is_steady=is_steady, **more)


def _bursty(seed: int):
    random_ = random.Random(f"bursts {seed}")
    rates, rate = [], 5
    for _ in range(SECONDS):
        if random_.random() < 1 / 180:
            rate = random_.choice((1, 5, 20, 60, 120))
        rates.append(rate)
    return rates.__getitem__


def _sparse(seed: int) -> Trace:
    random_ = random.Random(f"sparse {seed}")
    counts = tuple(20 if random_.random() < 1 / 400 else 0 for _ in range(SECONDS))
    return Trace(name="sparse", arrivals=counts, is_steady=False, min_replicas=0)


def _poisson(random_: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(random_.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), random_.random(), 0
    while product > limit:
        product *= random_.random()
        count += 1
    return count
