"""`meshhook jobs replay`, and kept bodies in `jobs show`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshhook import QueueService


@pytest.fixture
def finished(cli, database_url):
    """A queue that keeps bodies, with two jobs that have succeeded and one that waits."""
    cli.ok("queue", "create", "jobs")
    cli.ok("queue", "set", "jobs", "keep_bodies_days=7")

    async def finish() -> None:
        async with QueueService[Any](database_url, "jobs") as queue:
            await queue.enqueue_many([{"run_id": "r", "n": 1}, {"run_id": "r", "n": 2}, {}])
            jobs = [job for _ in range(2) if (job := await queue.dequeue()) is not None]
            await queue.acknowledge_many(jobs)

    asyncio.run(finish())


def test_jobs_are_replayed_by_id(cli, finished):
    """Once, and `jobs show` prints the body and leads from one to the other."""
    assert "would be replayed" in cli.ok("jobs", "replay", "jobs", "1", "--dry-run").out
    assert "job 1 replayed as job 4" in cli.ok("jobs", "replay", "jobs", "1").out
    shown = cli.ok("jobs", "show", "jobs", "1").out
    assert '"n": 1' in shown
    assert "as job" in shown
    assert "replay of" in shown
    assert "once more: --again" in cli("jobs", "replay", "jobs", "1").out
    assert "as job 5" in cli.ok("jobs", "replay", "jobs", "1", "--again").out
    refused = cli("jobs", "replay", "jobs", "3")
    assert (refused.code, "is ready: it has not ended" in refused.out) == (1, True)
    assert cli("jobs", "replay", "jobs", "99").code == 3


def test_jobs_are_replayed_by_filter(cli, finished):
    """After a question, with counts; a repeated command replays nothing twice."""
    found = cli.ok("jobs", "replay", "jobs", "--run-id", "r", "--dry-run", "--json").json
    assert (found["counts"], found["is_complete"]) == ({"replayed": 2}, True)
    assert "replayed 2 jobs" in cli.ok("jobs", "replay", "jobs", "--since", "1h", "--yes").out
    again = cli.ok("jobs", "replay", "jobs", "--run-id", "r", "--yes")
    assert "2 jobs left alone" in again.err
    none = cli.ok("jobs", "replay", "jobs", "--state", "cancelled", "--yes")
    assert "no such job" in none.err


def test_jobs_must_be_named_in_one_way(cli, finished):
    """Neither none nor ids together with filters; the message says what there is."""
    assert "say which jobs" in cli("jobs", "replay", "jobs").err
    assert "not by both" in cli("jobs", "replay", "jobs", "1", "--since", "1h").err
    assert "dead letters" in cli("jobs", "replay", "jobs", "--state", "dead_lettered").err
