"""Jobs that run longer than they may wait, and pods that take longer to be Ready than that.

A name and a seed give the same jobs always.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.scaling.jobs import Job, JobTrace, Lead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 7_200
QUICK = Lead(3, 6)
MAX_REPLICAS = 100


def long_traces(seed: int, target_age_seconds: int) -> tuple[JobTrace, ...]:
    """Return every trace, for that target age."""

    def trace(
        name: str,
        about: str,
        rate: Callable[[float], float],
        run: Callable[[random.Random, float], float],
        *,
        concurrency: int,
        batches: tuple[int, int, float, int] | None = None,
        is_steady: bool = True,
        lead: Lead = QUICK,
        last_lead: Lead | None = None,
        failing_share: float = 0.0,
        quota: int | None = None,
    ) -> JobTrace:
        draw = random.Random(f"{name} jobs {seed}")
        jobs = [*_arrivals(draw, rate, run)]
        if batches is not None:
            every, count, run_seconds, failures = batches
            jobs += [
                Job(at + draw.random(), run_seconds * draw.uniform(0.95, 1.05), failures)
                for at in range(every // 2, SECONDS, every)
                for _ in range(count)
            ]
        return JobTrace(
            name=name,
            about=about,
            jobs=tuple(sorted(jobs, key=lambda job: job.at)),
            concurrency=concurrency,
            target_age_seconds=target_age_seconds,
            seconds=SECONDS,
            min_replicas=1,
            max_replicas=MAX_REPLICAS,
            is_steady=is_steady,
            lead=lead,
            last_lead=last_lead,
            failing_share=failing_share,
            quota=quota,
            retry_seconds=120.0,
        )

    hump = _step(0.25, 1.0)
    return (
        trace("40 s", "0.25 a second, then 1, then 0.25", hump, _about(40), concurrency=4),
        trace("60 s", "0.3 a second, one a replica", _flat(0.3), _about(60), concurrency=1),
        trace("600 s", "0.05 a second, two a replica", _flat(0.05), _about(600), concurrency=2),
        trace(
            "mixed",
            "4 a second: 1 s, and every twentieth 120 s",
            _flat(4.0),
            lambda draw, _at: 120.0 if draw.random() < 0.05 else draw.uniform(0.5, 1.5),
            concurrency=10,
        ),
        trace(
            "heavy tail",
            "1 a second; half run less than 5 s, one in a hundred more than 3 minutes",
            _flat(1.0),
            lambda draw, _at: min(900.0, draw.lognormvariate(math.log(5.0), 1.6)),
            concurrency=5,
        ),
        trace(
            "wide",
            "20 s, 1 to 9 a second and back, 50 a replica",
            lambda at: 5 + 4 * math.sin(at / 573),
            _about(20),
            concurrency=50,
        ),
        trace(
            "longer and longer",
            "0.5 a second; 20 s, which becomes 80 s and 20 s again",
            _flat(0.5),
            lambda draw, at: (
                draw.uniform(0.9, 1.1) * (50 - 30 * math.cos(2 * math.pi * at / SECONDS))
            ),
            concurrency=5,
        ),
        trace(
            "batches",
            "120 of 90 s at once every 15 minutes, which end together",
            _flat(0.05),
            _about(30),
            batches=(900, 120, 90.0, 0),
            concurrency=10,
            is_steady=False,
        ),
        trace(
            "retries",
            "2 a second of 5 s, and 200 at once that fail and come back together 2 minutes later",
            _flat(2.0),
            _about(5),
            batches=(900, 200, 5.0, 1),
            concurrency=10,
            is_steady=False,
        ),
        trace(
            "crashing pods",
            "like 40 s; three of ten pods fail when they start",
            hump,
            _about(40),
            concurrency=4,
            failing_share=0.3,
        ),
        trace(
            "quota",
            "like 40 s; a quota of 8 pods, where 10 are needed",
            hump,
            _about(40),
            concurrency=4,
            quota=8,
        ),
        trace(
            "slow pods",
            "1 s, 3 a second, then 12, then 3; a pod takes 27 to 48 s",
            _step(3.0, 12.0),
            lambda draw, _at: draw.uniform(0.8, 1.2),
            concurrency=2,
            lead=Lead(27, 48),
        ),
        trace(
            "slower pods",
            "like 40 s; a pod takes 3 s at first and 60 s at last",
            lambda at: 0.25 if at % 1_800 < 900 else 0.6,
            _about(40),
            concurrency=4,
            lead=Lead(3, 4),
            last_lead=Lead(50, 60),
        ),
    )


def with_concurrency(trace: JobTrace, concurrency: int) -> JobTrace:
    """Return the same jobs for replicas with another number of slots."""
    return replace(trace, name=f"{trace.name} x{concurrency}", concurrency=concurrency)


def _arrivals(
    draw: random.Random,
    rate: Callable[[float], float],
    run: Callable[[random.Random, float], float],
) -> Iterator[Job]:
    at = 0.0
    while True:
        at += draw.expovariate(rate(at))
        if at >= SECONDS:
            return
        yield Job(at, run(draw, at))


def _flat(rate: float) -> Callable[[float], float]:
    return lambda _at: rate


def _step(low: float, high: float) -> Callable[[float], float]:
    return lambda at: high if 2_400 <= at < 4_800 else low


def _about(seconds: float) -> Callable[[random.Random, float], float]:
    return lambda draw, _at: seconds * draw.uniform(0.9, 1.1)
