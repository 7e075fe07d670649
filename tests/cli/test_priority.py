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


def test_lists_of_jobs_show_the_priority(cli, jobs):
    """Where any is not normal; one job and JSON always say it."""
    cli.ok("enqueue", jobs, "{}")
    assert "PRIORITY" not in cli.ok("jobs", "list", "--queue", jobs).out
    assert "normal" in cli.ok("jobs", "show", jobs, "1").out
    cli.ok("enqueue", jobs, "{}", "--priority", "urgent")
    lines = cli.ok("jobs", "list", "--queue", jobs).out.splitlines()
    assert "PRIORITY" in lines[0]
    assert ["urgent" in line for line in lines[1:]] == [True, False]
    found = json.loads(cli.ok("jobs", "list", "--json").out)
    assert [job["priority"] for job in found] == ["urgent", "normal"]
    assert json.loads(cli.ok("jobs", "show", jobs, "2", "--json").out)["priority"] == "urgent"


def test_the_priority_of_jobs_is_changed(cli, jobs, sql):
    """Of one that waits; the command says what it left alone, and refuses what is no priority."""
    cli.ok("enqueue", jobs, "{}")
    done = cli.ok("jobs", "set-priority", jobs, "1", "--priority", "urgent")
    assert "job 1 given the priority" in done.out
    assert sql("select headers ->> 'meshhook-priority' from pgmq.q_jobs") == "0"
    again = cli("jobs", "set-priority", jobs, "1", "--priority", "0")
    assert again.code == 1
    assert "nothing to change" in again.out
    ended = cli("jobs", "set-priority", jobs, "1", "--priority", "fast")
    assert ended.code == 2
    assert "urgent, high, normal, low" in ended.err
    assert cli("jobs", "set-priority", jobs, "9", "--priority", "low").code == 3
