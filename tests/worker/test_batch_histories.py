"""Batches with random outcomes, against a model of what becomes of each job."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    Cancel,
    DeadLetter,
    Done,
    Job,
    QueueService,
    RetryAfter,
    Snooze,
    create_job_handler,
    set_queue_config,
)
from support.waiting import eventually
from support.workers import live, make_worker

pytestmark = pytest.mark.usefixtures("queue_name")

MAX_ATTEMPTS = 3
ENDS: dict[str, Any] = {
    "nothing": lambda: None,
    "done": lambda: Done(result=1),
    "retry": lambda: RetryAfter(0),
    "snooze": lambda: Snooze(0),
    "dead": lambda: DeadLetter("no"),
    "cancel": Cancel,
    "error": lambda: ValueError("no"),
}
OUTCOMES = {
    "nothing": "succeeded",
    "done": "succeeded",
    "retry": "retried",
    "snooze": "snoozed",
    "dead": "dead_lettered",
    "cancel": "cancelled",
    "error": "retried",
}
FINAL = {"succeeded", "dead_lettered", "cancelled"}


class Model:
    """What should become of jobs, by what the handler said of each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.expected: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)

    def says(self, job: Job[Any], end: str) -> None:
        """Note how a job ended."""
        outcome = OUTCOMES[end]
        if outcome == "retried" and job.attempt >= MAX_ATTEMPTS:
            outcome = "dead_lettered"
        self.expected[job.msg_id].append((outcome, job.attempt))

    def handle(self, jobs: list[Job[Any]]) -> Any:
        """End a batch in one of the ways in which a handler can."""
        way = self.random.choice(["list", "dict", "nothing", "raise", "outcome", "short"])
        ends = [self.random.choice(list(ENDS)) for _ in jobs]
        if way == "dict":
            left_out = {job.msg_id for job in jobs if self.random.random() < 0.5}
            ends = [
                "nothing" if job.msg_id in left_out else end
                for job, end in zip(jobs, ends, strict=True)
            ]
        elif way != "list":
            only = {"nothing": "nothing", "outcome": "snooze"}.get(way, "error")
            ends = [only] * len(jobs)
        for job, end in zip(jobs, ends, strict=True):
            self.says(job, end)
        match way:
            case "list":
                return [ENDS[end]() for end in ends]
            case "dict":
                pairs = zip(jobs, ends, strict=True)
                return {job.msg_id: ENDS[end]() for job, end in pairs if end != "nothing"}
            case "nothing":
                return None
            case "outcome":
                return Snooze(0)
            case "short":
                return [None] * (len(jobs) - 1)
            case _:
                raise ValueError("all of them")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "thread"])
async def test_each_attempt_has_the_outcome_that_its_job_was_given(
    seed: int, is_async: bool, pool: asyncpg.Pool[Any], database_url: str
) -> None:
    """Exactly one, whatever the other jobs of its batch do; and the metrics count each."""
    await set_queue_config(
        pool, "jobs", max_retry_attempts=MAX_ATTEMPTS, retry_backoff_base_ms=0, results=True
    )
    count = 120
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(count)])
    model = Model(seed)

    async def handle_async(jobs: list[Job[Any]]) -> Any:
        return model.handle(jobs)

    registry = CollectorRegistry()
    handler = create_job_handler(handle_async if is_async else model.handle, batch=7)

    async def is_drained() -> bool:
        return await live(pool) == {}

    async with make_worker(database_url, handler, concurrency=1, registry=registry) as worker:
        await eventually(is_drained, timeout=60)
    # Only now has it counted all that the database has.
    processed = worker.get_stats().processed
    rows = await pool.fetch(
        "select msg_id, outcome, attempt, started_at from meshhook.job_attempts"
    )
    found: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["started_at"]):
        found[row["msg_id"]].append((row["outcome"], row["attempt"]))
    assert found == model.expected
    assert len(found) == count
    assert all(each[-1][0] in FINAL for each in found.values())
    assert processed == len(rows)
    labels = {"queue": "jobs"}
    name = "meshhook_worker_message_duration_seconds_count"
    assert registry.get_sample_value(name, labels) == len(rows)
    calls = registry.get_sample_value("meshhook_worker_handler_batch_messages_sum", labels)
    assert calls == len(rows)
