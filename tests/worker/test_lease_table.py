"""The table of leases that a worker holds."""

from __future__ import annotations

import contextvars
from typing import Any

from meshhook.jobs import Job
from meshhook.queue_config import QueueSettings
from meshhook.worker.attempts import RunningAttempt
from meshhook.worker.leases import LeaseTable


def claimed(msg_id: int, read_ct: int = 1, enqueued: float = 0.0) -> Job[Any]:
    """A job as a claim makes it."""
    return Job(
        queue="jobs",
        msg_id=msg_id,
        attempt=read_ct,
        max_attempts=5,
        enqueued_timestamp=enqueued,
        ready_timestamp=0.0,
        claimed_timestamp=0.0,
        headers={},
        body="null",
    )


def due(table: LeaseTable, now: float, age_seconds: float) -> dict[int, int]:
    """Return the leases that are due: msg_id → read_ct."""
    return {lease.key[0]: lease.read_ct for lease in table.due(now, age_seconds)}


def test_a_lease_is_due_by_its_age() -> None:
    """A lease is due when it was claimed, or last extended, long enough ago."""
    table = LeaseTable()
    table.add([claimed(1), claimed(2)], claimed_at=0)
    assert due(table, now=9, age_seconds=10) == {}
    assert due(table, now=10, age_seconds=10) == {1: 1, 2: 1}
    table.due(now=10, age_seconds=10)[0].extended_at = 10
    assert due(table, now=15, age_seconds=10) == {2: 1}


def test_a_limited_lease_is_not_extended_for_ever() -> None:
    """A while after its job's time limit it is left to run out, unless the job has ended."""
    table = LeaseTable()
    job = claimed(1)
    table.add([job], claimed_at=0)
    settings = QueueSettings(job_timeout_seconds=10)
    attempt = RunningAttempt(job, 0.0, settings, contextvars.copy_context())
    table.running = {job.key: attempt}
    assert due(table, now=19, age_seconds=10) == {1: 1}
    assert due(table, now=20, age_seconds=10) == {}
    table.running = {}
    assert due(table, now=20, age_seconds=10) == {1: 1}


def test_only_the_same_lease_is_forgotten() -> None:
    """What is settled late takes along neither a newer lease of its job nor another job's."""
    table = LeaseTable()
    first, second, other = claimed(1), claimed(1, read_ct=2), claimed(1, enqueued=7.0)
    table.add([first], claimed_at=0)
    table.add([second, other], claimed_at=5)
    table.discard([(first.key, 1)])
    assert len(table) == 2
    table.discard([(second.key, 2)])
    assert due(table, now=15, age_seconds=10) == {1: 1}
    table.discard([(other.key, 1)])
    assert len(table) == 0
