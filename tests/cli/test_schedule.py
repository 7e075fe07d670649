"""`meshhook schedule`."""

from __future__ import annotations

import pytest


@pytest.fixture
def reports(cli):
    """A queue with a schedule."""
    cli.ok("queue", "create", "reports")
    cli.ok(
        *("schedule", "add", "reports", "daily", '{"n": 1}'),
        *("--cron", "0 9 * * 1-5", "--tz", "Europe/Berlin", "--key", "a", "--missed", "all"),
    )


def test_schedules_are_added_and_listed(cli, reports):
    """With their next due time; the same again changes nothing."""
    lines = cli.ok("schedule", "list").out.splitlines()
    assert lines[0].split()[:2] == ["QUEUE", "SCHEDULE"]
    assert lines[1].split()[:8] == [
        "reports",
        "daily",
        *["0", "9", "*", "*", "1-5"],
        "Europe/Berlin",
    ]
    assert lines[1].split()[-1] == "active"
    [found] = cli.ok("schedule", "list", "--queue", "reports", "--json").json
    assert (found["missed"], found["overlap"], found["key"]) == ("all", "allow", "a")
    assert found["message"] == '{"n": 1}'
    again = cli.ok(
        *("schedule", "add", "reports", "poll", "--every", "15m", "--overlap", "skip", "--json")
    ).json
    assert (again["changed"], again["schedule"]["every_seconds"]) == (True, 900)
    same = cli.ok(*("schedule", "add", "reports", "poll", "--every", "15m", "--overlap", "skip"))
    assert "is unchanged" in same.out
    own = ("--retry", '{"max_attempts": 3}', "--expires-in", "600")
    poll = ("schedule", "add", "reports", "poll", "--every", "15m", "--overlap", "skip")
    assert "stored" in cli.ok(*poll, *own).out
    assert "is unchanged" in cli.ok(*poll, *own).out
    assert "--retry" in cli.fails(2, *poll, "--retry", "often")
    assert "every 15m" in cli.ok("schedule", "list").out
    assert "no schedule" in cli.ok("schedule", "list", "--queue", "other").err


def test_schedules_are_run_paused_resumed_and_deleted(cli, reports):
    """And the history has each job."""
    assert "not been due" in cli.ok("schedule", "history", "reports", "daily").err
    assert "enqueued job 1 in reports" in cli.ok("schedule", "run", "reports", "daily").out
    assert cli.ok("schedule", "run", "reports", "daily", "--json").json["msg_id"] == 2
    lines = cli.ok("schedule", "history", "reports", "daily").out.splitlines()
    assert len(lines) == 3
    assert "by hand" in lines[1]
    [newest, _] = cli.ok("schedule", "history", "reports", "daily", "--json").json
    assert (newest["msg_id"], newest["is_manual"]) == (2, True)
    assert "schedule resume reports daily" in cli.ok("schedule", "pause", "reports", "daily").out
    assert cli.ok("schedule", "list").out.splitlines()[1].split()[-1] == "paused"
    assert not cli.ok("schedule", "resume", "reports", "daily", "--json").json["paused"]
    assert "next at" in cli.ok("schedule", "resume", "reports", "daily").out
    assert (
        "deleted schedule daily" in cli.ok(*("schedule", "delete", "reports", "daily", "--yes")).out
    )
    assert cli.ok("schedule", "list", "--json").json == []


def test_mistakes_are_explained(cli, reports):
    """The expression, the zone, the time, and what is not there."""
    add = ("schedule", "add", "reports", "x")
    assert "cron='61 * * * *': bad minute" in cli.fails(2, *add, "--cron", "61 * * * *")
    assert "'Mars'" in cli.fails(2, *add, "--cron", "* * * * *", "--tz", "Mars")
    assert "--every is a length of time" in cli.fails(2, *add, "--every", "often")
    assert "a cron expression" in cli.fails(2, *add)
    text = cli.fails(2, *add, "-", "--every", "1h", stdin='{"n": 1}\n{"n": 2}\n')
    assert "a schedule has one payload" in text
    assert "nothing in it" in cli.fails(2, *add, "-", "--every", "1h", stdin="")
    assert "leave one of them out" in cli.fails(2, *add, "--cron", "* * * * *", "--every", "1h")
    assert "name of a schedule" in cli.fails(2, "schedule", "run", "reports", "a b")
    for command in ("pause", "resume", "run", "history"):
        text = cli.fails(3, "schedule", command, "reports", "none")
        assert "meshhook schedule list --queue reports" in text
    assert "does not exist" in cli.fails(3, "schedule", "add", "none", "x", "--every", "1h")
