"""`meshhook workers`: which workers are alive, and what they are doing."""

from __future__ import annotations

from typing import Any


def test_the_table_is_for_people(cli: Any, sql: Any) -> None:
    """It shows the slots in use, now and on average, and which worker is stopping."""
    assert "There are no workers." in cli.ok("workers").err
    assert "There are no workers of queue 'jobs'." in cli.ok("workers", "jobs").err
    sql(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, draining, started_at) values ('jobs', 'pod-7-abc', 'pod', 10, 4, 1000, 250, "
        "true, now() - interval '100 seconds')"
    )
    header, row = cli.ok("workers").out.splitlines()
    assert header.split() == [
        "QUEUE",
        "WORKER",
        "HOST",
        "RUNNING",
        "DONE",
        "BUSY",
        "SINCE",
        "SEEN",
        "STATE",
    ]
    assert row.split()[:6] == ["jobs", "pod-7-abc", "pod", "4/10", "1,000", "2.5"]
    assert row.split()[-1] == "stopping"


def test_json_is_for_programs(cli: Any, sql: Any) -> None:
    """One object per worker and queue, with the columns' names."""
    assert cli.ok("workers", "--json").json == []
    sql(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds) values ('jobs', 'w', 'pod', 10, 4, 1000, 250)"
    )
    [found] = cli.ok("workers", "jobs", "--json").json
    assert found["worker"] == "w"
    assert found["draining"] is False
    assert set(found) == {
        *("queue", "worker", "host", "concurrency", "running", "processed"),
        *("busy_seconds", "draining", "started_at", "seen_at"),
    }
