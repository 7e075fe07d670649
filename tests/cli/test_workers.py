"""`meshhook workers`: which workers are alive, and what they are doing."""

from __future__ import annotations

from typing import Any


def test_the_table_is_for_people(cli: Any, sql: Any) -> None:
    """It shows the slots in use, now and on average, and which worker is stopping."""
    assert "There are no workers." in cli.ok("workers").err
    assert "There are no workers of queue 'jobs'." in cli.ok("workers", "jobs").err
    sql(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, oldest_running_seconds, draining, started_at) "
        "values ('jobs', 'pod-7-abc', 'pod', 10, 4, 1000, 250, 48, true, "
        "now() - interval '100 seconds')"
    )
    header, row = cli.ok("workers").out.splitlines()
    assert header.split() == [
        "QUEUE",
        "WORKER",
        "HOST",
        "RUNNING",
        "OLDEST",
        "DONE",
        "BUSY",
        "SINCE",
        "SEEN",
        "STATE",
    ]
    assert row.split()[:7] == ["jobs", "pod-7-abc", "pod", "4/10", "48s", "1,000", "2.5"]
    assert row.split()[-1] == "stopping"


def test_the_table_says_who_is_cordoned(cli: Any, sql: Any) -> None:
    """It stands in the last column while the cordon lasts; an idle worker has no oldest job."""
    sql(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, cordoned, cordoned_until) values "
        "('jobs', 'a', 'pod', 10, 0, 1000, 250, true, now() + interval '30 minutes'), "
        "('jobs', 'b', 'pod', 10, 0, 1000, 250, true, now() - interval '1 second')"
    )
    rows = [line.split() for line in cli.ok("workers").out.splitlines()[1:]]
    assert [(row[1], row[-1] == "cordoned") for row in rows] == [("a", True), ("b", False)]
    found = cli.ok("workers", "--json").json
    assert [each["cordoned"] for each in found] == [True, False]


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
        *("busy_seconds", "oldest_running_seconds", "draining", "cordoned", "started_at"),
        *("seen_at", "schema_version"),
    }
