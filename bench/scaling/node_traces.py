"""The traces that are played on a real node as well: five minutes each, at most 14 replicas.

A name gives the same jobs always.
"""

from __future__ import annotations

import random
from itertools import chain
from typing import TYPE_CHECKING

from bench.scaling.jobs import Job, JobTrace, Lead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SECONDS = 300
SLOW_LEAD = Lead(27, 48)
HALF_OF_90_SECONDS = Lead(27, 45)
HALVES_AT = 150
HEAVY_TAIL = 1.3
"""The exponent of the Pareto distribution."""
LONGEST_SECONDS = 90.0


def node_traces() -> tuple[JobTrace, ...]:
    """Return every trace, those that take longest first."""
    return (*_long(), *_slow_pods(), *_short())


def _short() -> Iterator[JobTrace]:
    yield _trace(
        "ramp",
        "2 to 50 a second of 0.5 s",
        _poisson("ramp", lambda t: 2 + 48 * t / SECONDS, 0.5),
        concurrency=4,
    )
    yield _trace(
        "spike from zero",
        "600 of 1 s at once, twice; no replica before",
        chain(_at_once(40, 600, 1.0), _at_once(200, 600, 1.0)),
        concurrency=10,
        min_replicas=0,
    )
    yield _trace(
        "scheduled batch",
        "3 a second of 1 s; 400 sent ahead that fall due at once, twice",
        chain(
            _poisson("scheduled batch", lambda _t: 3, 1.0),
            _at_once(100, 400, 1.0, ahead_seconds=95),
            _at_once(220, 400, 1.0, ahead_seconds=90),
        ),
        concurrency=4,
    )
    yield _trace(
        "rate halves",
        "16 a second of 0.5 s, from the middle on of 1 s",
        _poisson("rate halves", lambda _t: 16, lambda t: 0.5 if t < HALVES_AT else 1.0),
        concurrency=4,
    )
    yield _trace(
        "steady",
        "20 a second of 0.8 s",
        _poisson("steady", lambda _t: 20, 0.8),
        concurrency=4,
        is_steady=True,
    )
    yield _trace(
        "retries together",
        "10 a second of 2 s; of two outages all fall due again at once",
        (_failing_in_outages(job) for job in _poisson("retries", lambda _t: 10, 2.0)),
        concurrency=10,
    )


def _long() -> Iterator[JobTrace]:
    yield _trace(
        "60 s jobs",
        "0.3 a second of 60 s",
        _evenly("60 s jobs", 0.3, 60.0),
        concurrency=4,
        target_age_seconds=60,
        is_steady=True,
    )
    yield _trace(
        "40 s jobs",
        "0.25 a second of 40 s",
        _evenly("40 s jobs", 0.25, 40.0),
        concurrency=1,
        max_replicas=14,
        is_steady=True,
    )
    yield _trace(
        "mixed",
        "8 a second of 0.5 s, 0.25 a second of 40 s",
        chain(_poisson("mixed", lambda _t: 8, 0.5), _evenly("mixed, long", 0.25, 40.0)),
        concurrency=4,
        is_steady=True,
    )
    yield _trace(
        "heavy-tailed",
        "4 a second of 1 to 90 s, 3 s on average",
        _heavy_tailed(),
        concurrency=4,
        is_steady=True,
    )
    yield _trace(
        "ending together",
        "1 a second of 0.5 s; 24 of 60 s at once, twice",
        chain(
            _poisson("ending together", lambda _t: 1, 0.5),
            _at_once(20, 24, 60.0),
            _at_once(170, 24, 60.0),
        ),
        concurrency=4,
    )


def _slow_pods() -> Iterator[JobTrace]:
    for target_age_seconds, lead in ((30, SLOW_LEAD), (90, HALF_OF_90_SECONDS)):
        yield _trace(
            f"slow pods, {target_age_seconds} s",
            "6 a second of 1 s, then 36",
            _poisson("slow pods", lambda t: 6 if t < 90 else 36, 1.0),
            concurrency=10,
            target_age_seconds=target_age_seconds,
            lead=lead,
        )


def _trace(
    name: str,
    about: str,
    jobs: Iterable[Job],
    *,
    concurrency: int,
    target_age_seconds: int = 30,
    min_replicas: int = 1,
    max_replicas: int = 12,
    is_steady: bool = False,
    lead: Lead | None = None,
) -> JobTrace:
    return JobTrace(
        name=name,
        about=about,
        jobs=tuple(sorted(jobs, key=lambda job: job.at)),
        concurrency=concurrency,
        target_age_seconds=target_age_seconds,
        seconds=SECONDS,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        is_steady=is_steady,
        lead=lead or Lead(3, 6),
    )


def _poisson(
    seed: str, rate: Callable[[float], float], run: float | Callable[[float], float]
) -> Iterator[Job]:
    """Yield jobs that arrive independently of each other, so many a second."""
    random_ = random.Random(seed)
    at = 0.0
    while True:
        at += random_.expovariate(rate(at))
        if at >= SECONDS:
            return
        yield Job(round(at, 3), run(at) if callable(run) else run)


def _evenly(seed: str, rate: float, run_seconds: float) -> Iterator[Job]:
    """Yield jobs at equal distances, each a little early or late."""
    random_ = random.Random(seed)
    for number in range(int(rate * SECONDS)):
        yield Job(round((number + random_.random()) / rate, 3), run_seconds)


def _at_once(
    second: int, count: int, run_seconds: float, *, ahead_seconds: float = 0.0
) -> Iterator[Job]:
    for _ in range(count):
        yield Job(second, run_seconds, ahead_seconds=ahead_seconds)


def _heavy_tailed() -> Iterator[Job]:
    random_ = random.Random("heavy-tailed run times")

    def run_seconds(_at: float) -> float:
        return round(min(LONGEST_SECONDS, random_.paretovariate(HEAVY_TAIL)), 2)

    return _poisson("heavy-tailed", lambda _t: 4, run_seconds)


def _failing_in_outages(job: Job) -> Job:
    for start, end, retry_at in ((40, 80, 120), (170, 190, 230)):
        if start <= job.at < end:
            return Job(job.at, job.run_seconds, failures=1, retry_at=retry_at)
    return job
