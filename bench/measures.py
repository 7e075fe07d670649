"""What is measured, on any subject."""

from __future__ import annotations

import asyncio
import gzip
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subjects import Subject

DATA = Path(__file__).parent.parent / "examples" / "data" / "github-webhooks.jsonl.gz"
BATCH = 1_000


@dataclass(frozen=True)
class Measure:
    """One thing to measure."""

    name: str
    unit: str
    run: Callable[[Subject, float], Awaitable[dict[str, float]]]
    """Takes a subject with an empty queue and a scale, and returns figures by their name."""


def small_body(number: int) -> str:
    """Return a message of about 200 bytes."""
    return json.dumps(
        {
            "run_id": f"run-{number:032}",
            "workflow_id": "deliver",
            "project_id": "bench",
            "payload": {"number": number, "text": "x" * 80},
        }
    )


def real_bodies(count: int) -> list[str]:
    """Return messages with real webhook bodies, of 8 KB in the median."""
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        webhooks = [json.loads(line)["payload"] for line in lines]
    return [
        json.dumps(
            {
                "run_id": f"run-{number:032}",
                "workflow_id": "deliver",
                "project_id": "bench",
                "payload": webhooks[number % len(webhooks)],
            }
        )
        for number in range(count)
    ]


async def fill(subject: Subject, bodies: list[str]) -> float:
    """Store messages in batches, and return the seconds."""
    prepared = [subject.prepared(body) for body in bodies]
    began_at = time.perf_counter()
    for start in range(0, len(prepared), BATCH):
        await subject.send_many(prepared[start : start + BATCH])
    return time.perf_counter() - began_at


async def drain_small(subject: Subject, scale: float) -> dict[str, float]:
    """Bulk enqueue, then drain, with small messages."""
    count = int(30_000 * scale)
    bodies = [small_body(number) for number in range(count)]
    filled = await fill(subject, bodies)
    return {
        "bulk enqueue, 1,000 a call": count / filled,
        "drain, no-op, 200 B": count / await subject.drain(count),
    }


async def drain_real(subject: Subject, scale: float) -> dict[str, float]:
    """Drain real webhook bodies."""
    count = int(6_000 * scale)
    await fill(subject, real_bodies(count))
    return {"drain, no-op, real 8 KB bodies": count / await subject.drain(count)}


async def send_all(subject: Subject, bodies: Iterator[Any]) -> None:
    """Be one caller that sends one message at a time, from what all callers share."""
    for body in bodies:
        await subject.send(body)


async def single_sends(subject: Subject, scale: float) -> dict[str, float]:
    """Enqueue one by one, from 1 to 256 tasks at once."""
    rates = {}
    for callers, count in ((1, 1_000), (16, 6_000), (64, 10_000), (256, 10_000)):
        bodies = iter([subject.prepared(small_body(n)) for n in range(int(count * scale))])
        began_at = time.perf_counter()
        await asyncio.gather(*(send_all(subject, bodies) for _ in range(callers)))
        seconds = time.perf_counter() - began_at
        rates[f"single enqueue, {callers} at once"] = int(count * scale) / seconds
    return rates


async def pickup(subject: Subject, scale: float) -> dict[str, float]:
    """How long an idle receiver takes to get a message."""
    found = sorted(await subject.pickups(max(10, int(100 * scale))))
    return {
        "idle pickup, p50": statistics.median(found) * 1000,
        "idle pickup, p99": found[int(len(found) * 0.99)] * 1000,
    }


MEASURES = (
    Measure("drain", "jobs/s", drain_small),
    Measure("drain-real", "jobs/s", drain_real),
    Measure("single", "jobs/s", single_sends),
    Measure("pickup", "ms", pickup),
)
