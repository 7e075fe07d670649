"""What arrives, second by second, and what goes wrong meanwhile.

A name and a seed give the same numbers always.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECONDS = 7_200
DEPARTURES = Path(__file__).with_name("departures.txt")
JOBS_A_DEPARTURE = 100


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
    about: str
    arrivals: tuple[int, ...]
    """Jobs that arrive in each second."""
    is_steady: bool
    """Most of it changes slowly: here the costs of scalers are compared."""
    min_replicas: int = 1
    failing: Window | None = None
    """Every tenth job that arrives then fails all its attempts."""
    poison: tuple[int, ...] = ()
    """Seconds in which a job arrives that kills the process that runs it."""
    unreadable: Window | None = None
    """No read of the queue succeeds in the first half, and every other one in the second."""
    shared_limit: tuple[Window, float] | None = None
    """All replicas together finish no more jobs a second than that."""


def traces(seed: int) -> tuple[Trace, ...]:
    """Return every trace."""
    return (
        _random(
            "step",
            "5 a second, then 80, then 5",
            seed,
            lambda t: 80 if 1_800 <= t < 5_400 else 5,
        ),
        _random(
            "diurnal",
            "1 to 61 a second and back, twice",
            seed,
            lambda t: 1 + 30 * (1 + math.sin(t / 573 - 1.5)),
        ),
        _random(
            "sawtooth", "0 to 100 a second, eight times", seed, lambda t: 100 * (t % 900) / 900
        ),
        _random("bursty", "1 to 120 a second, anew every 3 minutes", seed, _jumps(seed)),
        _departures(seed),
        _spikes(seed),
        _sparse(seed),
        _random(
            "poison",
            "30 a second; jobs that kill their worker, and for half an hour a tenth that fails",
            seed,
            lambda _t: 30,
            failing=Window(1_800, 3_600),
            poison=tuple(range(1_950, 5_400, 211)),
        ),
        _random(
            "slow database",
            "20 or 40 a second; 5 minutes without any reading, 20 with 48 a second at most",
            seed,
            lambda t: 40 if 1_000 <= t < 6_000 else 20,
            unreadable=Window(2_400, 3_000),
            shared_limit=(Window(3_600, 4_800), 48.0),
        ),
    )


def _random(name: str, about: str, seed: int, rate: Callable[[int], float], **more: Any) -> Trace:
    random_ = random.Random(f"{name} {seed}")
    arrivals = tuple(_poisson(random_, rate(t)) for t in range(SECONDS))
    return Trace(name=name, about=about, arrivals=arrivals, is_steady=True, **more)


def _jumps(seed: int) -> Callable[[int], float]:
    random_ = random.Random(f"jumps {seed}")
    rates, rate = [], 5
    for _ in range(SECONDS):
        if random_.random() < 1 / 180:
            rate = random_.choice((1, 5, 20, 60, 120))
        rates.append(rate)
    return rates.__getitem__


def _spikes(seed: int) -> Trace:
    random_ = random.Random(f"spike {seed}")
    arrivals = [_poisson(random_, 4) for _ in range(SECONDS)]
    for start in range(300, SECONDS, 1_200):
        arrivals[start + random_.randrange(60)] += 600
    return Trace(
        name="spike",
        about="4 a second, and 600 at once every 20 minutes",
        arrivals=tuple(arrivals),
        is_steady=False,
    )


def _sparse(seed: int) -> Trace:
    random_ = random.Random(f"sparse {seed}")
    arrivals = tuple(20 if random_.random() < 1 / 400 else 0 for _ in range(SECONDS))
    return Trace(
        name="sparse",
        about="20 at once every 7 minutes or so; no replica between them",
        arrivals=arrivals,
        is_steady=False,
        min_replicas=0,
    )


def _departures(seed: int) -> Trace:
    """Return a real day in two hours: of each flight that left, a hundred clients are told."""
    random_ = random.Random(f"departures {seed}")
    arrivals = [0] * SECONDS
    a_minute = SECONDS // (24 * 60)
    for minute, flights in enumerate(_numbers(DEPARTURES.read_text(encoding="utf-8"))):
        for _ in range(flights):
            arrivals[minute * a_minute + random_.randrange(a_minute)] += JOBS_A_DEPARTURE
    return Trace(
        name="departures",
        about="the flights of a real day in 2 hours, 100 jobs for each",
        arrivals=tuple(arrivals),
        is_steady=True,
    )


def _numbers(text: str) -> Iterable[int]:
    for line in text.splitlines():
        if not line.startswith("#"):
            yield from map(int, line.split())


def _poisson(random_: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(random_.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), random_.random(), 0
    while product > limit:
        product *= random_.random()
        count += 1
    return count
