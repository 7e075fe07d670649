"""`--priority` of the commands that enqueue."""

from __future__ import annotations

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
