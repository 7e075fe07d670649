"""Tenants that share a queue: quiet ones beside one that floods and has a limit.

A seed gives the same jobs always.
"""

from __future__ import annotations

import random

from bench.scaling.jobs import Job, JobTrace

SECONDS = 3_600
FLOOD = range(300, 1_200)
FLOOD_PER_SECOND, LIMIT, QUIET_PER_SECOND = 20, 8, 3


def flooding_tenant(seed: int, target_age_seconds: int) -> JobTrace:
    """Return 3 jobs a second of quiet tenants, and 20 a second of one of which 8 may run.

    Each runs for about 1 s, so that more than 10,000 of the flood are kept back at its end: more
    than the operator counts.
    """
    draw = random.Random(f"flooding tenant {seed}")
    jobs = [
        Job(at + draw.random(), draw.uniform(0.8, 1.2), key=key)
        for key, seconds, per_second in (
            ("", range(SECONDS), QUIET_PER_SECOND),
            ("flood", FLOOD, FLOOD_PER_SECOND),
        )
        for at in seconds
        for _ in range(per_second)
    ]
    return JobTrace(
        name="flooding tenant",
        about="3 a second of 1 s, and 20 a second for 15 minutes of a key of which 8 may run",
        jobs=tuple(sorted(jobs, key=lambda job: job.at)),
        concurrency=5,
        target_age_seconds=target_age_seconds,
        seconds=SECONDS,
        min_replicas=1,
        max_replicas=100,
        is_steady=True,
        max_running={"flood": LIMIT},
    )
