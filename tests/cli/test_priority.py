"""`--priority` of the commands that enqueue."""

from __future__ import annotations

import json

import pytest


def test_jobs_are_enqueued_with_a_priority(cli, jobs, sql):
    """A name or a number, which becomes the header of the message."""
    cli.ok("enqueue", jobs, "{}", "--priority", "urgent")
    cli.ok("enqueue", jobs, "{}", "--priority", "3")
    cli.ok("schedule", "add", jobs, "s", "--cron", "@daily", "--priority", "high")
    cli.ok("schedule", "run", jobs, "s")
    bands = [
        sql(f"select headers ->> 'meshhook-priority' from pgmq.q_jobs where msg_id = {n}")
        for n in (1, 2, 3)
    ]
    assert bands == ["0", "3", "1"]


@pytest.mark.parametrize("command", ["enqueue", "publish"])
def test_what_is_no_priority_is_refused(cli, jobs, command):
    """The error names what was given."""
    ended = cli(command, jobs, "{}", "--priority", "fast")
    assert ended.code == 2
    assert "urgent, high, normal, low" in ended.err


def test_a_queue_shows_what_is_due_by_priority(cli, jobs, sql):
    """With the age of the oldest job, the target, and whether that is missed."""
    cli.ok("queue", "set", jobs, "prioritized=true", "priority_target_seconds=1,10,60,3600")
    cli.ok("enqueue", jobs, "{}", "--priority", "urgent")
    cli.ok("enqueue", jobs, "{}", "--priority", "low")
    sql("update pgmq.q_jobs set vt = now() - interval '90 s' returning 1")
    for command in (("queue", "show", jobs), ("stats", jobs)):
        lines = [line.split() for line in cli.ok(*command).out.splitlines()]
        assert ["PRIORITY", "DUE", "OLDEST", "TARGET", "STATE"] in lines
        assert [line[1] for line in lines if line[:1] == ["normal"]] == ["0"]
        [urgent] = [line for line in lines if line[:1] == ["urgent"]]
        [low] = [line for line in lines if line[:1] == ["low"]]
        assert urgent[1] == low[1] == "1"
        assert urgent[-1] == "late"
        assert low[-1] != "late"
        found = json.loads(cli.ok(*command, "--json").out)["priorities"]
        assert [band["priority"] for band in found] == ["urgent", "high", "normal", "low"]
        assert [band["target_seconds"] for band in found] == [1, 10, 60, 3600]


def test_a_queue_without_priorities_shows_none(cli, jobs):
    """As before there were any."""
    cli.ok("enqueue", jobs, "{}", "--priority", "urgent")
    for command in (("queue", "show", jobs), ("stats", jobs)):
        assert "PRIORITY" not in cli.ok(*command).out
        assert json.loads(cli.ok(*command, "--json").out)["priorities"] == []
